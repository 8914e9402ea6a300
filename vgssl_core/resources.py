"""Files that ship with the package (configurations, launch profiles), found from a checkout or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vgssl_core.errors import ConfigError


def config_file(name: str) -> Path:
    """Path of a shipped configuration file.

    Args:
        name: Path below ``config/``, for example ``train/small/mocov2.yaml``.

    Raises:
        ConfigError: No such file in the checkout, the Python prefix or the ament index.
    """
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    folders = [Path(__file__).parent.parent / "config"]
    folders += [Path(prefix) / "share" / "vgssl_ros" / "config" for prefix in prefixes]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(str(folder) for folder in folders)
    raise ConfigError(f"The shipped configuration {name} was not found in {searched}: reinstall vgssl_ros.")
