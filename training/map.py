"""Inspect and verify maps: ``python -m training.map info MAP``, ``python -m training.map verify MAP``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vgssl_core import command_line
from vgssl_core.geomap import load_map, verify_map
from vgssl_core.geomap.description import describe


@dataclass(frozen=True)
class MapConfig:
    """Inspect a map, or verify every byte of it.

    Attributes:
        action: info tells what is in the map; verify also compares all checksums and looks at every value.
        map: The map's folder.
    """

    action: Literal["info", "verify"]
    map: Path


def inspect(config: MapConfig) -> None:
    """Print the map's description, after verification where that was asked for."""
    geomap = verify_map(config.map) if config.action == "verify" else load_map(config.map, verify=False)
    print("\n".join(describe(geomap)))
    if config.action == "verify":
        print(f"verified    all checksums, {len(geomap)} descriptors, poses and records are good")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return command_line.run(inspect, MapConfig, arguments, "vgssl map", positional=("action", "map"))


if __name__ == "__main__":
    sys.exit(main())
