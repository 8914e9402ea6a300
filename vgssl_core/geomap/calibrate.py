"""Putting a calibration into a map: `map.yaml` is replaced in one step, everything else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vgssl_core.errors import MapError
from vgssl_core.geomap.changes import changing
from vgssl_core.geomap.manifest import Manifest


def store_calibration(path: str | Path, content: Mapping[str, Any] | None, map_id: str | None = None) -> Manifest:
    """Write a calibration into a map, in place of an older one.

    Readers that have the map open keep what they read.

    Args:
        path: The map's folder.
        content: Plain numbers and texts (`Calibration.content`); None removes the calibration.
        map_id: The version of the map that was calibrated; None takes the map as it is now.

    Returns:
        The map's new manifest.

    Raises:
        MapError: No map, another process is writing it, or it has another version than ``map_id``.
    """
    path = Path(path)
    with changing(path) as old:
        if map_id not in (None, old.map_id):
            raise MapError(f"Map {path} has changed while it was calibrated: calibrate again.")
        new = replace(old, calibration=None if content is None else dict(content))
        new.write(path)
        return new
