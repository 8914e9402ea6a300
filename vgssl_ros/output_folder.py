"""Whether results can be written, asked before the work that makes them."""

from __future__ import annotations

import os
from pathlib import Path

from vgssl_core.errors import ConfigError


def check_output_folder(folder: Path, option: str) -> None:
    """Refuse an output folder that cannot be made or written to; nothing is created.

    Args:
        folder: Where a program is about to write files.
        option: The option that named it.

    Raises:
        ConfigError: It or what lies over it is a file, or may not be written to.
    """
    existing = next(item for item in (folder, *folder.absolute().parents) if os.path.lexists(item))
    if not existing.is_dir():
        raise ConfigError(f"{option} {folder}: {existing} is not a folder. Give another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder}: no permission to write in {existing}. Give another folder.")
