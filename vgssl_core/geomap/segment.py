"""Segments: immutable folders of descriptors, poses and records."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.geomap.manifest import PRECISIONS, SEGMENT_FILES, SEGMENTS, SegmentEntry
from vgssl_core.geomap.positions import POSE_DTYPE, MapPositions
from vgssl_core.storage import atomic_folder, sha256

_REMEDY = "Build the map again, or copy it again whole."


def write_segment(
    folder: Path, descriptors: NDArray[np.float32], poses: NDArray[np.void], positions: MapPositions, precision: str
) -> SegmentEntry:
    """Write a segment of a map, aside and renamed; rows are stored in the given order.

    Args:
        folder: The map's folder.
        descriptors: (N, D) unit rows.
        poses: (N,) of ``POSE_DTYPE``.
        positions: What ``records.parquet`` tells of each image.
        precision: ``fp32`` or ``fp16``.
    """
    name = uuid.uuid4().hex[:12]
    with atomic_folder(folder / SEGMENTS / name) as aside:
        np.save(aside / "descriptors.npy", descriptors.astype(PRECISIONS[precision], copy=False), allow_pickle=False)
        np.save(aside / "poses.npy", poses.astype(POSE_DTYPE, copy=False), allow_pickle=False)
        _write_records(aside / "records.parquet", positions)
        files = {
            file: {"sha256": sha256(aside / file), "bytes": (aside / file).stat().st_size} for file in SEGMENT_FILES
        }
    return SegmentEntry(name, len(descriptors), files)


def _write_records(path: Path, positions: MapPositions) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "latitude_deg": positions.latitude_deg,
        "longitude_deg": positions.longitude_deg,
        "altitude_m": positions.altitude_m,
        "heading_deg": positions.heading_deg,
        "stamp_ns": positions.stamp_ns,
        "source": list(positions.source),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


def read_sources(folder: Path, segment: SegmentEntry) -> list[str]:
    """Where each image of a segment comes from, in the segment's order.

    Raises:
        MapError: The records are damaged or are not those of the segment.
    """
    import pyarrow
    import pyarrow.parquet

    path = folder / SEGMENTS / segment.name / "records.parquet"
    try:
        sources = pyarrow.parquet.read_table(path, columns=["source"])["source"].to_pylist()
    except (OSError, KeyError, pyarrow.ArrowException) as problem:
        raise MapError(f"{path} is damaged: {problem} {_REMEDY}") from problem
    if len(sources) != segment.count or not all(isinstance(source, str) for source in sources):
        raise MapError(f"{path} holds {len(sources)} records for {segment.count} images. {_REMEDY}")
    return sources


def open_segment(
    folder: Path, segment: SegmentEntry, dimension: int, precision: str, verify: bool
) -> tuple[NDArray[np.floating], NDArray[np.void]]:
    """Memory-map a segment's (N, D) descriptors and (N,) poses after checking them against the manifest.

    Args:
        folder: The map's folder.
        segment: The manifest's entry.
        dimension: D.
        precision: ``fp32`` or ``fp16``.
        verify: Check every file's sha256 too.

    Raises:
        MapError: A file is missing, truncated, altered, or of another shape or type.
    """
    place = folder / SEGMENTS / segment.name
    for file, entry in segment.files.items():
        _check_file(place / file, entry["bytes"], entry["sha256"] if verify else None)
    descriptors = open_array(place / "descriptors.npy", np.dtype(PRECISIONS[precision]), (segment.count, dimension))
    poses = open_array(place / "poses.npy", POSE_DTYPE, (segment.count,))
    if not (np.isfinite(poses["x"]).all() and np.isfinite(poses["y"]).all()):
        raise MapError(f"{place / 'poses.npy'} holds positions that are not finite. {_REMEDY}")
    return descriptors, poses


def _check_file(path: Path, size: int, checksum: str | None) -> None:
    if not path.is_file():
        raise MapError(f"{path} is missing. {_REMEDY}")
    actual = path.stat().st_size
    if actual != size:
        raise MapError(f"{path} has {actual} bytes instead of {size}: it is truncated or altered. {_REMEDY}")
    if checksum is not None and sha256(path) != checksum:
        raise MapError(f"{path} does not match its checksum: it is damaged or altered. {_REMEDY}")


def open_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray:
    """Memory-map a ``.npy`` file read-only after its header has been compared with what it should hold.

    Raises:
        MapError: No such file, or it holds something else.
    """
    expected = f"{dtype} {shape}"
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            header = read_header(file)
            offset = file.tell()
        size = path.stat().st_size
        if header != (shape, False, dtype) or size != offset + int(np.prod(shape)) * dtype.itemsize:
            raise ValueError(f"it holds {header[2]} {header[0]} in {size} bytes instead of {expected}")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as problem:  # On a damaged header numpy's parser raises what it happens upon.
        raise MapError(f"{path} is damaged: {problem}. {_REMEDY}") from problem
