"""Segments: immutable folders of descriptors, poses and records."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core import open_files
from vgssl_core.arrays import open_array
from vgssl_core.errors import MapError
from vgssl_core.geomap.blocks import to_float32
from vgssl_core.geomap.manifest import MANIFEST, PRECISIONS, SEGMENT_FILES, SEGMENTS, Manifest, SegmentEntry
from vgssl_core.geomap.map_rows import DescriptorRows, MapRows
from vgssl_core.geomap.positions import FARTHEST_M, POSE_DTYPE, MapPositions
from vgssl_core.geomap.records import RECORDS, check_sources, read_positions
from vgssl_core.geomap.rows import save_rows
from vgssl_core.remembered import remember, remembers
from vgssl_core.storage import atomic_folder, sha256
from vgssl_core.verified import require_inside, require_unaltered

#: What segments are called: nothing else in their folder is ours to remove.
SEGMENT_NAME = re.compile(r"[0-9a-f]{12}")
DESCRIPTORS, POSES = "descriptors.npy", "poses.npy"
_REMEDY = "Build the map again, or copy it again whole."
_ROWS_AT_ONCE = 65536
#: How far a stored length may be from 1: a little more than writers allow. Rounding to fp16 changes it by less.
_UNIT_TOLERANCE = {"fp32": 1.1e-3, "fp16": 5e-3}


def write_segment(
    folder: Path,
    rows: MapRows,
    precision: str,
    progress: Callable[[int], object] | None = None,
    sync: bool = True,
) -> SegmentEntry:
    """Write a segment of a map, aside and renamed; rows are stored in the given order.

    Args:
        folder: The map's folder.
        rows: At least one image.
        precision: ``fp32`` or ``fp16``.
        progress: Is told the number of images after each block of descriptors.
        sync: Wait until the segment is on the disk; who does not must do so before a manifest lists it.

    Raises:
        DataError: Sources that no reader accepts.
        MapError: Other values that no reader accepts.
    """
    name = uuid.uuid4().hex[:12]
    with atomic_folder(folder / SEGMENTS / name, sync=sync) as aside:
        save_rows(aside / DESCRIPTORS, rows.descriptors, np.dtype(PRECISIONS[precision]), progress)
        np.save(aside / POSES, rows.poses.astype(POSE_DTYPE, copy=False), allow_pickle=False)
        _write_records(aside / RECORDS, rows.positions)
        files = {
            file: {"sha256": sha256(aside / file), "bytes": (aside / file).stat().st_size} for file in SEGMENT_FILES
        }
        entry = SegmentEntry(name, len(rows), *_box(rows.poses), files)
        _open_arrays(aside, entry, rows.descriptors.shape[1], precision)
    return entry


def _box(poses: NDArray[np.void]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Corners in whole millimetres, rounded outwards: the box holds every image."""
    planar = np.stack([poses["x"], poses["y"]], axis=1)
    low, high = planar.min(axis=0), planar.max(axis=0)
    # The second rounding, of the division, may lead inwards again.
    low, high = np.minimum(np.floor(low * 1e3) / 1e3, low), np.maximum(np.ceil(high * 1e3) / 1e3, high)
    return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))


def _write_records(path: Path, positions: MapPositions) -> None:
    import pyarrow
    import pyarrow.parquet

    check_sources(positions.source)
    columns = {
        "latitude_deg": positions.latitude_deg,
        "longitude_deg": positions.longitude_deg,
        "altitude_m": positions.altitude_m,
        "heading_deg": positions.heading_deg,
        "stamp_ns": positions.stamp_ns,
        "source": list(positions.source),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


def open_segment(
    folder: Path, segment: SegmentEntry, dimension: int, precision: str, verify: bool = False
) -> tuple[NDArray[np.floating], NDArray[np.void]]:
    """Memory-map a segment's (N, D) descriptors and (N,) poses after checking them against the manifest.

    Sizes, types and shapes are compared each time; checksums and values on the first load of new files on this machine.

    Args:
        folder: The map's folder.
        segment: The manifest's entry.
        dimension: D.
        precision: ``fp32`` or ``fp16``.
        verify: Check everything, whatever was checked before.

    Raises:
        MapError: A file is missing, truncated, altered, a link to elsewhere, of another shape or type, or holds
            values that no build writes.
    """
    open_files.allow_many()
    place = folder / SEGMENTS / segment.name
    for file, entry in segment.files.items():
        require_inside(folder, place / file, MapError, _REMEDY)
        require_unaltered(place / file, entry["bytes"], entry["sha256"], MapError, _REMEDY, verify)
    return _open_arrays(place, segment, dimension, precision, verify)


def _open_arrays(
    place: Path, segment: SegmentEntry, dimension: int, precision: str, verify: bool = False
) -> tuple[NDArray[np.floating], NDArray[np.void]]:
    dtype = np.dtype(PRECISIONS[precision])
    descriptors = open_array(place / DESCRIPTORS, dtype, (segment.count, dimension), MapError, _REMEDY)
    poses = open_array(place / POSES, POSE_DTYPE, (segment.count,), MapError, _REMEDY)
    _check_values(place, segment, descriptors, poses, precision, verify)
    return descriptors, poses


def open_poses(folder: Path, segment: SegmentEntry) -> NDArray[np.void]:
    """Memory-map a segment's (N,) poses alone.

    Raises:
        MapError: Missing, altered since it was last looked at, or of another shape or type.
    """
    path, entry = folder / SEGMENTS / segment.name / POSES, segment.files[POSES]
    require_inside(folder, path, MapError, _REMEDY)
    require_unaltered(path, entry["bytes"], entry["sha256"], MapError, _REMEDY)
    return open_array(path, POSE_DTYPE, (segment.count,), MapError, _REMEDY)


def read_rows(folder: Path, manifest: Manifest, segments: Sequence[SegmentEntry] | None = None) -> MapRows:
    """A map's images for writing them elsewhere: checksums are compared, so that damage is not written on as good.

    Args:
        folder: The map's folder.
        manifest: The map's.
        segments: Which of its segments; None takes all.

    Raises:
        MapError: A file is missing, damaged, altered, or of another shape or type.
    """
    parts = []
    for segment in manifest.segments if segments is None else segments:
        descriptors, poses = open_segment(folder, segment, manifest.dimension, manifest.precision, verify=True)
        poses = np.array(poses)  # A map may have more segments than a process may have files open.
        parts.append(MapRows(DescriptorRows([descriptors]), poses, read_positions(folder, segment, poses)))
    return MapRows.joined(parts)


def _check_values(
    place: Path,
    segment: SegmentEntry,
    descriptors: NDArray[np.floating],
    poses: NDArray[np.void],
    precision: str,
    verify: bool,
) -> None:
    """Look at every descriptor and pose, once for the same bytes unless ``verify``."""
    subject = f"values of a segment {segment.files[DESCRIPTORS]['sha256']} {segment.files[POSES]['sha256']}"
    state = f"{precision} {segment.low_m} {segment.high_m}"
    if not verify and remembers(subject, state):
        return
    # Unknown altitudes and headings are NaN. No place is farther from any datum.
    known = all(np.isfinite(poses[axis]).all() for axis in "xy")
    if not known or any((np.abs(poses[name]) > FARTHEST_M).any() for name in poses.dtype.names or ()):
        raise MapError(f"{place / POSES} holds positions that are not finite or not on Earth. {_REMEDY}")
    for axis, low, high in zip("xy", segment.low_m, segment.high_m, strict=True):
        if poses[axis].min() < low or poses[axis].max() > high:
            raise MapError(f"{place / POSES} holds positions outside the box that {MANIFEST} gives it. {_REMEDY}")
    for begin in range(0, len(descriptors), _ROWS_AT_ONCE):
        rows = to_float32(descriptors[begin : begin + _ROWS_AT_ONCE])
        # Squares and a comparison that NaN fails, because infinities and NaN are expected here.
        good = np.abs(np.einsum("nd,nd->n", rows, rows, dtype=np.float64) - 1.0) <= 2.0 * _UNIT_TOLERANCE[precision]
        if not good.all():
            first = begin + int(np.argmin(good))
            raise MapError(f"{place / DESCRIPTORS} is damaged: descriptor {first} is not of unit length. {_REMEDY}")
    remember(subject, state)
