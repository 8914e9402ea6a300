"""Files that ship with the package (configurations, launch profiles), found from a checkout or installed."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from vgssl_core.errors import ConfigError


def config_file(name: str) -> Path:
    """Path of a shipped configuration file.

    Args:
        name: Path below ``config/``, for example ``train/small/mocov2.yaml``.

    Raises:
        ConfigError: No such file in the checkout, in what pip installed or in the ament index.
    """
    beside = Path(__file__).parent.parent
    # `pip install --target` puts the data beside the packages.
    prefixes = [beside, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    folders = [beside / "config", *_installed_folders()]
    folders += [Path(prefix) / "share" / "vgssl_ros" / "config" for prefix in prefixes]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(str(folder) for folder in folders)
    raise ConfigError(f"The shipped configuration {name} was not found in {searched}: reinstall vgssl_ros.")


def _installed_folders() -> list[Path]:
    """Where pip put the configurations, whatever the scheme: a prefix, the user's home, a distribution's."""
    try:
        files = importlib.metadata.files("vgssl_ros") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(file.locate()).parent for file in files if file.as_posix().endswith("vgssl_ros/config/localize.yaml")]
