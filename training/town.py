"""Render a synthetic town: `python -m training.town --seed N --out DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vgssl_core import command_line
from vgssl_core.town.config import TownConfig
from vgssl_core.town.writer import render_town


@dataclass(frozen=True)
class TownProgram:
    """Render a synthetic town: a place set with train, val and test streets, and a drive bag.

    Attributes:
        out: Folder to create.
        seed: Which town; the same seed gives the same bytes.
        town: Its size and difficulty.
    """

    out: Path
    seed: int = 1
    town: TownConfig = field(default_factory=TownConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point."""
    return command_line.run(_render, TownProgram, arguments, "vgssl town")


def _render(program: TownProgram) -> None:
    out = render_town(program.out, program.seed, program.town)
    drive = f", a drive in {out / 'drive'}" if program.town.drive_s > 0 else ""
    print(f"Town {program.seed} is in {out}: places to train, validate and test on in {out / 'images'}{drive}.")


if __name__ == "__main__":
    sys.exit(main())
