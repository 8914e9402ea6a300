"""What the tests of first readings share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vgssl_core import remembered
from vgssl_core.guarded import run_guarded


def watch(module: ModuleType, monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """Names of the files that ``module`` reads in a child from now on; nothing is remembered at first."""
    monkeypatch.setenv(remembered.FOLDER_VARIABLE, str(cache))
    read: list[str] = []

    def run(function: str, arguments: dict[str, Any], **limits: int) -> Any:
        read.append(Path(arguments["path"]).name)
        return run_guarded(function, arguments, **limits)

    monkeypatch.setattr(module, "run_guarded", run)
    return read
