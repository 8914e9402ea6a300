"""The origin of a map's frame, for programs that need to know no more about a map."""

from __future__ import annotations

import math
from pathlib import Path

from vgssl_core.errors import MapError
from vgssl_core.storage import read_yaml


def map_datum(folder: Path) -> tuple[float, float, float]:
    """Latitude and longitude in degrees and altitude in metres of the origin of a map's frame.

    Only ``map.yaml`` is read, and with PyYAML alone: ``ros2 launch`` runs in the distribution's Python, which may lack
    the packages that a whole map needs. Whether the map is sound is checked by the localizer that loads it.

    Args:
        folder: The map.

    Raises:
        MapError: There is no map, or it is a local one, which has no place on Earth.
    """
    where = folder / "map.yaml"
    if not where.is_file():
        raise MapError(f"There is no map at {folder}: it has no map.yaml. Give a folder that `vgssl build-map` wrote.")
    datum = read_yaml(where, MapError, "a map's manifest").get("datum")
    if datum is None:
        raise MapError(
            f"{folder} is a local map without latitude and longitude, so it gives no fixes: use the recipe pose, or "
            "build the map from images with georeferenced positions."
        )
    try:
        latitude, longitude, altitude = (float(datum[key]) for key in ("latitude_deg", "longitude_deg", "altitude_m"))
    except (KeyError, TypeError, ValueError) as problem:
        raise MapError(f"{where} is damaged: its datum is {datum!r:.80}. Build the map again.") from problem
    if not (abs(latitude) <= 90 and abs(longitude) <= 180 and math.isfinite(altitude)):
        raise MapError(f"{where} is damaged: its datum {datum!r:.80} is not on Earth. Build the map again.")
    return latitude, longitude, altitude
