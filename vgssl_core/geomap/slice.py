"""A region of a map as a map of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgssl_core.errors import MapError
from vgssl_core.geomap.area import Area
from vgssl_core.geomap.derived import require_new, write_derived
from vgssl_core.geomap.manifest import Manifest, with_manifest
from vgssl_core.geomap.map_rows import MapRows
from vgssl_core.geomap.segment import read_rows


def slice_map(path: str | Path, out: str | Path, area: Area, tile_m: float | None = None) -> Manifest:
    """Write the images of an area as a new map in the same frame: their poses stay as they are to the last bit.

    Only segments that reach into the area are opened.

    Args:
        path: The map's folder.
        out: Folder for the new map.
        area: In the map's frame.
        tile_m: Side of the tiles; 0 makes one segment; None cuts as the map is cut.

    Returns:
        The new map's manifest.

    Raises:
        MapError: No map, damaged, no image in the area, or ``out`` is there already.
    """
    path, out = Path(path), Path(out)
    require_new(out)
    manifest, rows = with_manifest(path, lambda manifest: (manifest, _rows_in(path, manifest, area)))
    return write_derived(out, rows, path, manifest, "slice", tile_m=tile_m)


def _rows_in(path: Path, manifest: Manifest, area: Area) -> MapRows:
    reached = [segment for segment in manifest.segments if area.meets(segment.low_m, segment.high_m)]
    rows = read_rows(path, manifest, reached) if reached else None
    if rows is not None:
        assert rows.positions.planar_m is not None
        rows = rows.subset(np.flatnonzero(area.contains(rows.positions.planar_m)))
    if rows is None or len(rows) == 0:
        raise MapError(f"Map {path} has no image in {area}: it reaches {_reach(manifest)}. Give another area.")
    return rows


def _reach(manifest: Manifest) -> str:
    """The box around a map's images, for people."""
    (west, south), (east, north) = manifest.low_m, manifest.high_m
    plane = f"x {west:.0f} to {east:.0f} m, y {south:.0f} to {north:.0f} m"
    if manifest.datum is None:
        return f"from {plane}"
    latitude, longitude, _ = manifest.datum.to_wgs84(np.array([[west, south, 0.0], [east, north, 0.0]]))
    corners = [f"latitude {lat:.5f}, longitude {lon:.5f}" for lat, lon in zip(latitude, longitude, strict=True)]
    return f"from {' to '.join(corners)} ({plane})"
