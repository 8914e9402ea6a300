"""Two maps of one model become one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vgssl_core.errors import MapError
from vgssl_core.geomap.builder import joined_source
from vgssl_core.geomap.derived import require_new, write_derived
from vgssl_core.geomap.manifest import Manifest, with_manifest
from vgssl_core.geomap.map_rows import MapRows
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.geomap.segment import read_rows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """What came out of a merge.

    Attributes:
        manifest: Of the new map.
        duplicates: Number of the second map's images that the first has too, by source and stamp.
    """

    manifest: Manifest
    duplicates: int


def merge_maps(
    first: str | Path, second: str | Path, out: str | Path, same_plane: bool = False, tile_m: float | None = None
) -> Merged:
    """Write the images of two maps as a new one, those that both have once.

    The new map's frame is the first one's. The second one's poses are computed anew from latitude, longitude and
    heading; those of local maps stay as they are. Where one stores fp16, so does the new map.

    Args:
        first: A map's folder.
        second: Another map's folder.
        out: Folder for the new map.
        same_plane: Both are local maps in one and the same plane, which they cannot tell themselves.
        tile_m: Side of the tiles; 0 makes one segment; None cuts as the first map is cut.

    Raises:
        MapError: No maps, damaged, of different models, without a common frame, or ``out`` is there already.
    """
    first, second, out = Path(first), Path(second), Path(out)
    require_new(out)
    here, rows = with_manifest(first, lambda manifest: (manifest, read_rows(first, manifest)))
    there, others = with_manifest(second, lambda manifest: (manifest, read_rows(second, manifest)))
    _require_fit(first, here, second, there, same_plane)
    known = set(_identities(rows.positions))
    new = np.array([identity not in known for identity in _identities(others.positions)])
    others = _in_frame_of(here, others.subset(np.flatnonzero(new)))
    if here.precision != there.precision:
        _log.warning("One of the maps stores fp16 and the other fp32: the new map stores fp16.")
    if there.calibration is not None:
        _log.warning("The calibration of map %s does not hold for the new map and is dropped.", second)
    manifest = write_derived(
        out,
        MapRows.joined([rows, others]),
        first,
        here,
        "merge",
        precision="fp16" if "fp16" in (here.precision, there.precision) else "fp32",
        source=joined_source(here.source, there.source),
        tile_m=tile_m,
    )
    return Merged(manifest, int(np.count_nonzero(~new)))


def _identities(positions: MapPositions) -> list[tuple[str, int]]:
    return list(zip(positions.source, positions.stamp_ns.tolist(), strict=True))


def _in_frame_of(manifest: Manifest, rows: MapRows) -> MapRows:
    if manifest.datum is None:
        return rows
    poses = rows.positions.poses(manifest.datum)
    planar = np.stack([poses["x"], poses["y"]], axis=1)
    return replace(rows, poses=poses, positions=replace(rows.positions, planar_m=planar))


def _require_fit(first: Path, here: Manifest, second: Path, there: Manifest, same_plane: bool) -> None:
    if (here.model_id, here.dimension) != (there.model_id, there.dimension):
        raise MapError(
            f"Map {first} was built by model {here.model_id[:16]}… ({here.dimension}-dimensional) and map {second} by "
            f"model {there.model_id[:16]}… ({there.dimension}-dimensional): their descriptors cannot be compared. "
            "Build one of them again with the other's bundle."
        )
    local = here.datum is None, there.datum is None
    if local == (True, True) and not same_plane:
        raise MapError(
            f"Maps {first} and {second} are local, and nothing tells whether they share a plane. If both have the same "
            "origin and axes, say so with --same_plane."
        )
    if local[0] != local[1]:
        names = (first, second) if local[0] else (second, first)
        raise MapError(f"Map {names[0]} is local and map {names[1]} is geo-referenced: they have no common frame.")
    if local == (False, False) and same_plane:
        raise MapError(
            f"Maps {first} and {second} are geo-referenced: leave out --same_plane, which is for local ones."
        )
