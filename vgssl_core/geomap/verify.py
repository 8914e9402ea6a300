"""Full verification of a map: every byte and every value, whatever was checked before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgssl_core import geodesy
from vgssl_core.errors import MapError
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.geo_map import GeoMap
from vgssl_core.geomap.manifest import SEGMENTS, Manifest, SegmentEntry, with_manifest
from vgssl_core.geomap.records import RECORDS, read_positions
from vgssl_core.geomap.segment import open_segment

#: Poses and records are two forms of one position; a map that was merged or cut has been through several datums.
_POSITION_TOLERANCE_M, _YAW_TOLERANCE_RAD = 0.05, 1e-4
_QUERIES, _NEIGHBOURS = 64, 10
#: A sample of an approximate index finds fewer than it did when it was measured, by chance; below this it is another.
_RECALL_TOLERANCE = 0.2
_DISTANCE_TOLERANCE = 1e-4
_REMEDY = "Build the map again, or copy it again whole."


def verify_map(path: str | Path) -> GeoMap:
    """Load a map and look at all of it; of one that is switched meanwhile, at the new version.

    All checksums are compared, every descriptor, pose and record is looked at and compared with the others, and a
    sample of searches is compared with an exact search.

    Raises:
        MapError: Anything that is not as it should be.
    """
    return with_manifest(Path(path), lambda manifest: _verified(Path(path), manifest))


def _verified(path: Path, manifest: Manifest) -> GeoMap:
    geomap = GeoMap(path, manifest, verify=True)
    for segment in manifest.segments:
        _verify_records(geomap, segment)
    _verify_search(geomap)
    return geomap


def _verify_records(geomap: GeoMap, segment: SegmentEntry) -> None:
    """Records say where the poses are."""
    manifest, where = geomap.manifest, geomap.path / SEGMENTS / segment.name / RECORDS
    poses = open_segment(geomap.path, segment, manifest.dimension, manifest.precision)[1]
    positions = read_positions(geomap.path, segment, poses)
    turned = np.abs(np.angle(np.exp(1j * (geodesy.compass_to_yaw_rad(positions.heading_deg) - poses["yaw"]))))
    same = (turned <= _YAW_TOLERANCE_RAD) | (np.isnan(positions.heading_deg) & np.isnan(poses["yaw"]))
    if geomap.datum is not None:
        on_earth = (np.abs(positions.latitude_deg) <= 90) & (np.abs(positions.longitude_deg) <= 180)
        if not on_earth.all():
            raise MapError(f"{where} holds an image that is not on Earth. {_REMEDY}")
        enu = geomap.datum.to_enu(positions.latitude_deg, positions.longitude_deg, positions.altitude_m)
        placed = np.stack([poses[axis] for axis in "xyz"], axis=1)
        near = np.abs(enu - placed) <= _POSITION_TOLERANCE_M
        near[:, 2] |= np.isnan(positions.altitude_m) & np.isnan(poses["z"])
        same &= near.all(axis=1)
    if not same.all():
        first = int(np.argmin(same))
        raise MapError(
            f"{where} says that image {first} ({positions.source[first]}) is elsewhere than its pose. {_REMEDY}"
        )


def _verify_search(geomap: GeoMap) -> None:
    """What searches the map finds what an exact search finds, as often as the manifest says."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(geomap), min(_QUERIES, len(geomap)), replace=False))
    queries = np.concatenate([geomap.descriptors(slice(int(row), int(row) + 1)) for row in rows])
    queries = queries + rng.standard_normal(queries.shape).astype(np.float32) * (0.3 / np.sqrt(geomap.dimension))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    opened = [
        open_segment(geomap.path, segment, geomap.dimension, geomap.manifest.precision)[0]
        for segment in geomap.manifest.segments
    ]
    k = min(_NEIGHBOURS, len(geomap))
    truth = ExactSearch(opened).search(queries, k)[1]
    found = geomap.search(queries, k)
    good_indices = (found.indices >= 0) & (found.indices < len(geomap))
    # Among images at equal distances any is right.
    hits = float((found.distances[:, 0] <= truth[:, 0] + _DISTANCE_TOLERANCE).mean())
    least = float(geomap.manifest.index.get("recall_at_1", 1.0)) - _RECALL_TOLERANCE
    impossible = (found.distances < truth - _DISTANCE_TOLERANCE).any()
    if impossible or not good_indices.all() or hits < least:
        raise MapError(
            f"The search of map {geomap.path} ({geomap.search_name}) does not agree with exact search: it finds the "
            f"nearest image of {hits:.0%} of a sample. Make the index again with `vgssl map index {geomap.path}`."
        )
