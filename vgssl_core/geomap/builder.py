"""Building a map: new segments, then one atomic switch of the manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.geo_map import GeoMap, load_map
from vgssl_core.geomap.manifest import (
    MANIFEST,
    MAX_SEGMENTS,
    PRECISIONS,
    SEGMENTS,
    Manifest,
    SegmentEntry,
    bundle_reference,
    read_manifest,
)
from vgssl_core.geomap.map_rows import DescriptorRows, MapRows
from vgssl_core.geomap.positions import MapPositions, cell_order, tile_groups, typical_spacing_m
from vgssl_core.geomap.rows import Rows, check_unit_rows
from vgssl_core.geomap.segment import SEGMENT_NAME, write_segment
from vgssl_core.storage import ASIDE_PREFIX, make_folder, sweep_unfinished, sync_folders

#: A folder of this name in a map, or beside one that is not there yet, holds the parts of a build that goes on.
WORK_PREFIX = ".building-"
#: What a map was built from is for people: more is not read.
_MAX_SOURCE_LETTERS = 4000
#: Writing fewer images takes no time that a progress bar could fill.
_WORTH_A_BAR = 50_000


def build_map(
    out: str | Path,
    descriptors: Rows,
    model_id: str,
    positions: MapPositions,
    precision: str = "fp32",
    bundle_path: str | Path | None = None,
    source: str = "",
    tile_m: float | None = None,
) -> GeoMap:
    """Write a map, or a new version of the map at ``out``; until the last moment the old one stays whole.

    The images are ordered by geographic cell, so that their indices are not those of the input; `GeoMap.sources`
    tells which is which.

    Args:
        out: The map's folder.
        descriptors: (N, D) float32 unit rows, in memory or read as they are written.
        model_id: Of the network that made them.
        positions: Where the N images were taken.
        precision: How descriptors are stored: ``fp32``, or ``fp16`` for half the size.
        bundle_path: The bundle, so that the map can name it later.
        source: What the map is built from, for people.
        tile_m: Cut the map into square tiles with sides of this length, a segment each; None makes one segment.

    Raises:
        DataError: Positions or descriptors that no map can hold.
        MapError: ``out`` is something else than a map, another process is writing it, an unknown precision, or tiles
            that are too small.
    """
    out = Path(out)
    if precision not in PRECISIONS:
        raise MapError(f"The precision {precision!r} is not known: choose {' or '.join(PRECISIONS)}.")
    check_tile(tile_m)
    positions.check()
    check_descriptors(descriptors, positions)
    datum = positions.datum()
    rows = MapRows(DescriptorRows([descriptors]), positions.poses(datum), positions)
    with writing(out):
        segments = write_segments(out, rows, precision, tile_m, "write map")
        manifest_of(
            segments,
            model_id=model_id,
            dimension=int(descriptors.shape[1]),
            precision=precision,
            datum=datum,
            spacing_m=spacing_of(rows.poses),
            source=source,
            bundle=bundle_reference(None if bundle_path is None else Path(bundle_path), out),
            tile_m=tile_m,
        ).write(out)
    return load_map(out)


def manifest_of(segments: Sequence[SegmentEntry], **content: Any) -> Manifest:
    """The manifest of new segments; ``content`` are the other fields of `Manifest`."""
    return stamped(Manifest(map_id="", created="", segments=tuple(segments), **content))


def stamped(manifest: Manifest) -> Manifest:
    """The manifest with the identity of its segments and the time of now."""
    checksums = [checksum for segment in manifest.segments for checksum in segment.checksums]
    identity = hashlib.sha256("\n".join([manifest.model_id, *checksums]).encode()).hexdigest()
    return replace(manifest, map_id=identity, created=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def spacing_of(poses: NDArray[np.void]) -> float:
    """The spacing as manifests hold it: metres, to the millimetre."""
    return round(typical_spacing_m(poses), 3)


def joined_source(*sources: str) -> str:
    """What a map of several sources was built from, each told once; cut where it gets too long to read."""
    text = "; ".join(dict.fromkeys(part for source in sources for part in source.split("; ") if part))
    return text if len(text) < _MAX_SOURCE_LETTERS else text[: _MAX_SOURCE_LETTERS - 1] + "…"


def write_segments(
    out: Path, rows: MapRows, precision: str, tile_m: float | None, description: str
) -> tuple[SegmentEntry, ...]:
    """Write images as one segment, or as one per tile; the images of a segment are ordered by geographic cell.

    Args:
        out: The map's folder, which the caller is `writing`.
        rows: At least one image.
        precision: How descriptors are stored.
        tile_m: Side of the tiles; None makes one segment.
        description: Label of the progress bar.

    Raises:
        MapError: More tiles than a map can have.
    """
    groups = [cell_order(rows.poses)] if tile_m is None else tile_groups(rows.poses, tile_m)
    if len(groups) > MAX_SEGMENTS:
        raise MapError(
            f"Tiles of {tile_m:g} m cut the map into {len(groups)}, and {MAX_SEGMENTS} is the limit: take larger ones."
        )
    hidden = True if len(rows) < _WORTH_A_BAR else None
    with tqdm(total=len(rows), desc=description, unit="image", leave=False, disable=hidden) as bar:
        single = len(groups) == 1
        written = tuple(write_segment(out, rows.subset(group), precision, bar.update, single) for group in groups)
        if not single:  # Waiting for the disk tile by tile would take longer than all else.
            sync_folders([out / SEGMENTS / segment.name for segment in written])
    return written


def check_tile(tile_m: float | None) -> None:
    """Refuse a side of tiles that is no positive length.

    Raises:
        MapError: Not finite or not positive.
    """
    if tile_m is not None and not (math.isfinite(tile_m) and tile_m > 0):
        raise MapError(f"Tiles cannot have sides of {tile_m} m: give a positive length.")


def check_output(out: Path) -> None:
    """Refuse a place where no map can be written; programs ask before they work for it.

    Raises:
        MapError: ``out`` is a file, a link that leads nowhere, or a folder that holds something else than a map or an
            interrupted build.
    """
    if out.exists() and not out.is_dir():
        raise MapError(f"{out} is a file: give a folder for the map.")
    if out.is_symlink() and not out.exists():
        raise MapError(
            f"{out} is a link to {os.readlink(out)}, which is not there: make that folder or remove the link."
        )
    if out.is_dir() and not (out / MANIFEST).exists():
        foreign = sorted(_foreign(out))
        if foreign:
            raise MapError(f"{out} is no map and not empty ({foreign[0]}): give another folder.")


def _foreign(out: Path) -> Iterator[str]:
    """What is in a folder that no interrupted build has left there."""
    for name in os.listdir(out):
        if name == SEGMENTS and _is_real_folder(out / SEGMENTS):
            inner = (item for item in os.listdir(out / SEGMENTS) if not item.startswith(ASIDE_PREFIX))
            yield from (f"{SEGMENTS}/{item}" for item in inner if not SEGMENT_NAME.fullmatch(item))
        elif not name.startswith((ASIDE_PREFIX, WORK_PREFIX)):
            yield name


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Hold the only right to change the map at ``out``, and sweep it afterwards, whatever happened.

    Nothing is left of a block that raises: not its segments, and not a folder without map, unless it holds what an
    interrupted build can go on from.

    Raises:
        MapError: ``out`` holds something else than a map, or another process is writing it.
    """
    check_output(out)
    make_folder(out)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MapError(f"Another process is writing the map {out}: wait until it has ended.") from None
        try:
            yield
        finally:
            sweep(out)
    finally:
        os.close(descriptor)


def sweep(out: Path) -> None:
    """Remove segments and indices that the map's manifest does not name, and what killed writers left.

    The caller is `writing`, so that nothing unfinished here is anybody else's.
    Readers have opened what they use, so that it stays whole for them. What is not ours stays; of a folder without map
    nothing else does, but what an interrupted build can go on from.
    """
    sweep_unfinished(out, alone=True)
    try:
        manifest = read_manifest(out) if (out / MANIFEST).exists() else None
    except MapError:  # A damaged or foreign manifest may name anything: what it names is not ours to remove.
        return
    kept = set() if manifest is None else {*manifest.index_files, *(segment.name for segment in manifest.segments)}
    if _is_real_folder(out / SEGMENTS):
        sweep_unfinished(out / SEGMENTS, alone=True)
        for item in (out / SEGMENTS).iterdir():
            if SEGMENT_NAME.fullmatch(item.name) and item.name not in kept:
                shutil.rmtree(item, ignore_errors=True)
    for item in out.iterdir():
        if re.fullmatch(r"(index-[0-9a-f]+\.faiss|outline-[0-9a-f]+\.npy)", item.name) and item.name not in kept:
            item.unlink(missing_ok=True)
    if manifest is None:
        for folder in (out / SEGMENTS, out):
            with contextlib.suppress(OSError):  # It is not empty.
                folder.rmdir()


def check_descriptors(descriptors: Rows, positions: MapPositions) -> None:
    """Refuse descriptors that are not finite unit rows, one for each position.

    Raises:
        DataError: Counts them and names the first.
    """
    if len(descriptors.shape) != 2 or len(descriptors) != len(positions):
        raise DataError(f"{len(positions)} images have descriptors of shape {descriptors.shape}.")
    check_unit_rows(descriptors, positions.source)
