"""Full verification of a map: every byte and every value."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgssl_core.errors import MapError
from vgssl_core.geomap.geo_map import GeoMap, load_map

_ROWS_AT_ONCE = 65536
#: Rounding to fp16 changes the length of a unit vector by less than this.
_UNIT_TOLERANCE = {"fp32": 1e-3, "fp16": 5e-3}


def verify_map(path: str | Path) -> GeoMap:
    """Load a map, compare all checksums, and look at every descriptor, pose and record.

    Raises:
        MapError: Anything that is not as it should be.
    """
    geomap = load_map(path, verify=True)
    tolerance = _UNIT_TOLERANCE[geomap.manifest.precision]
    for begin in range(0, len(geomap), _ROWS_AT_ONCE):
        norms = np.linalg.norm(geomap.descriptors(slice(begin, begin + _ROWS_AT_ONCE)), axis=1)
        good = np.abs(norms - 1.0) <= tolerance
        if not good.all():
            first = begin + int(np.argmin(good))
            raise MapError(f"Map {path} is damaged: descriptor {first} is not of unit length. Build the map again.")
    # Reading the records checks their number.
    _ = geomap.sources
    return geomap
