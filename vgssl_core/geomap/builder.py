"""Building a map: one new segment, then one atomic switch of the manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.geo_map import GeoMap, load_map
from vgssl_core.geomap.manifest import MANIFEST, PRECISIONS, SEGMENTS, Manifest, SegmentEntry, bundle_reference
from vgssl_core.geomap.positions import MapPositions, cell_order, typical_spacing_m
from vgssl_core.geomap.segment import write_segment
from vgssl_core.storage import ASIDE_PREFIX, sweep_unfinished

_UNIT_TOLERANCE = 1e-3


def build_map(
    out: str | Path,
    descriptors: NDArray[np.float32],
    model_id: str,
    positions: MapPositions,
    precision: str = "fp32",
    bundle_path: str | Path | None = None,
    source: str = "",
) -> GeoMap:
    """Write a map, or a new version of the map at ``out``; until the last moment the old one stays whole.

    The images are ordered by geographic cell, so that their indices are not those of the input; `GeoMap.sources`
    tells which is which.

    Args:
        out: The map's folder.
        descriptors: (N, D) float32 unit rows.
        model_id: Of the network that made them.
        positions: Where the N images were taken.
        precision: How descriptors are stored: ``fp32``, or ``fp16`` for half the size.
        bundle_path: The bundle, so that the map can name it later.
        source: What the map is built from, for people.

    Raises:
        DataError: Positions or descriptors that no map can hold.
        MapError: ``out`` is something else than a map, another build is writing it, or an unknown precision.
    """
    out = Path(out)
    if precision not in PRECISIONS:
        raise MapError(f"The precision {precision!r} is not known: choose {' or '.join(PRECISIONS)}.")
    positions.check()
    _check_descriptors(descriptors, positions)
    datum = positions.datum()
    poses = positions.poses(datum)
    order = cell_order(poses)
    poses, positions = poses[order], positions.subset(order)
    with writing(out):
        segment = write_segment(out, descriptors[order], poses, positions, precision)
        planar = np.stack([poses["x"], poses["y"]], axis=1)
        low, high = (tuple(round(float(v), 3) for v in corner) for corner in (planar.min(axis=0), planar.max(axis=0)))
        manifest = Manifest(
            map_id=_map_id(model_id, [segment]),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            model_id=model_id,
            dimension=int(descriptors.shape[1]),
            precision=precision,
            datum=datum,
            spacing_m=round(typical_spacing_m(poses), 3),
            low_m=(low[0], low[1]),
            high_m=(high[0], high[1]),
            source=source,
            bundle=bundle_reference(None if bundle_path is None else Path(bundle_path), out),
            segments=(segment,),
        )
        manifest.write(out)
        _sweep_segments(out, manifest)
    return load_map(out, verify=False)


def check_output(out: Path) -> None:
    """Refuse a place where no map can be written; programs ask before they work for it.

    Raises:
        MapError: ``out`` is a file, or a folder that holds something else than a map or an interrupted build.
    """
    if out.exists() and not out.is_dir():
        raise MapError(f"{out} is a file: give a folder for the map.")
    if out.is_dir() and not (out / MANIFEST).exists():
        foreign = [n for n in os.listdir(out) if n != SEGMENTS and not n.startswith(ASIDE_PREFIX)]
        if foreign:
            raise MapError(f"{out} is no map and not empty ({sorted(foreign)[0]}): give another folder.")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Hold the only right to change the map at ``out``; a folder that the block leaves without map is removed.

    Raises:
        MapError: ``out`` holds something else than a map, or another process is writing it.
    """
    check_output(out)
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MapError(f"Another process is writing the map {out}: wait until it has ended.") from None
        try:
            yield
        finally:
            if not (out / MANIFEST).exists():
                shutil.rmtree(out, ignore_errors=True)
    finally:
        os.close(descriptor)


def _check_descriptors(descriptors: NDArray[np.float32], positions: MapPositions) -> None:
    if descriptors.ndim != 2 or len(descriptors) != len(positions):
        raise DataError(f"{len(positions)} images have descriptors of shape {descriptors.shape}.")
    norms = np.linalg.norm(descriptors.astype(np.float32, copy=False), axis=1)
    good = np.abs(norms - 1.0) <= _UNIT_TOLERANCE
    if not good.all():
        first = int(np.argmin(good))
        raise DataError(
            f"{len(good) - int(good.sum())} of {len(good)} descriptors are not of unit length or not finite, the first "
            f"is that of {positions.source[first]} (length {norms[first]:g}): the network does not fit these images."
        )


def _map_id(model_id: str, segments: list[SegmentEntry]) -> str:
    checksums = [entry["sha256"] for segment in segments for entry in segment.files.values()]
    return hashlib.sha256("\n".join([model_id, *checksums]).encode()).hexdigest()


def _sweep_segments(out: Path, manifest: Manifest) -> None:
    """Remove segments that the manifest does not list, and what killed writers left."""
    sweep_unfinished(out)
    sweep_unfinished(out / SEGMENTS)
    kept = {segment.name for segment in manifest.segments}
    for item in (out / SEGMENTS).iterdir():
        if item.name not in kept:
            shutil.rmtree(item, ignore_errors=True)
