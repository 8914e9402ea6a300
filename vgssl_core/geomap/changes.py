"""Changing a map: images added, removed, put in order again. Readers keep the version that they opened."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.builder import (
    check_descriptors,
    check_tile,
    joined_source,
    spacing_of,
    stamped,
    write_segments,
    writing,
)
from vgssl_core.geomap.manifest import Manifest, SegmentEntry, read_manifest
from vgssl_core.geomap.map_rows import DescriptorRows, MapRows
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.geomap.records import read_positions
from vgssl_core.geomap.rows import Rows
from vgssl_core.geomap.segment import open_poses, read_rows, write_segment

#: Which images are meant: (n,) indices, or what tells of the positions of images whether it is them. Positions come
#: with ``planar_m``, x and y in the map's frame, whether the map is local or not.
Choice = NDArray[np.integer] | Sequence[int] | Callable[[MapPositions], NDArray[np.bool_]]
_log = logging.getLogger(__name__)


def add_images(
    path: str | Path, descriptors: Rows, model_id: str, positions: MapPositions, source: str = ""
) -> Manifest:
    """Add images after those that are there: one more segment, or in a map of tiles one more per tile.

    The frame stays: its datum is the map's. An index goes on covering what it covered; the new images are searched
    exactly beside it. A segment that the map has already is not added again, so that a program that was killed after
    the map's switch can be run again.

    Args:
        path: The map's folder.
        descriptors: (N, D) float32 unit rows.
        model_id: Of the network that made them.
        positions: Where the N images were taken.
        source: What the images come from, for people.

    Returns:
        The map's new manifest; the old one where it has all the images already.

    Raises:
        DataError: Positions or descriptors that no map can hold.
        MapError: No map, another process is writing it, descriptors of another model or length, or images in a local
            plane for a geo-referenced map or the other way round.
    """
    positions.check()
    check_descriptors(descriptors, positions)
    path = Path(path)
    with changing(path) as old:
        _require_fit(path, old, model_id, int(descriptors.shape[1]), positions)
        rows = MapRows(DescriptorRows([descriptors]), positions.poses(old.datum), positions)
        added = write_segments(path, rows, old.precision, old.tile_m, "add")
        there = {segment.checksums for segment in old.segments}
        new = [segment for segment in added if segment.checksums not in there]
        if len(new) < len(added):
            known = len(rows) - sum(segment.count for segment in new)
            _log.info("Map %s has %d of the %d images already: they are not added again.", path, known, len(rows))
        if not new:
            return old
        named = replace(old, source=joined_source(old.source, source))
        return _switch(path, named, [*old.segments, *new])


def remove_images(path: str | Path, which: Choice, map_id: str | None = None) -> Manifest:
    """Remove images: segments that hold any of them are written anew without them, the others stay as they are.

    Args:
        path: The map's folder.
        which: The images.
        map_id: The version whose indices ``which`` holds; None takes the map as it is now.

    Returns:
        The map's new manifest; the old one where no image is meant.

    Raises:
        DataError: Indices that the map has not, or no answer for each image.
        MapError: No map, damaged, another process is writing it, another version than ``map_id``, or no image would
            be left.
    """
    path = Path(path)
    with changing(path) as old:
        if map_id not in (None, old.map_id):
            raise MapError(f"Map {path} has changed since its images were chosen: load it and choose again.")
        kept = _kept(path, old, which)
        if all(mask.all() for mask in kept):
            return old
        if not any(mask.any() for mask in kept):
            raise MapError(f"No image of map {path} would be left: remove its folder instead.")
        segments = [
            segment if mask.all() else _rewritten(path, old, segment, mask)
            for segment, mask in zip(old.segments, kept, strict=True)
            if mask.any()
        ]
        covered = set(old.index.get("segments", ()))
        whole = covered <= {segment.name for segment in segments}
        return _switch(path, old if whole else old.without_index(), segments)


def compact(path: str | Path, tile_m: float | None = None) -> Manifest:
    """Join a map's segments and order its images by geographic cell again; its content stays, their indices change.

    Args:
        path: The map's folder.
        tile_m: Side of the tiles, a segment each; 0 makes one segment; None cuts the map as it was cut.

    Returns:
        The map's new manifest.

    Raises:
        MapError: No map, damaged, another process is writing it, or tiles that are too small.
    """
    path = Path(path)
    with changing(path) as old:
        tile = chosen_tile(tile_m, old)
        rows = read_rows(path, old)
        segments = write_segments(path, rows, old.precision, tile, "compact")
        new = stamped(replace(old.without_index(), segments=segments, tile_m=tile))
        new.write(path)
        return new


def chosen_tile(tile_m: float | None, like: Manifest) -> float | None:
    """The side of tiles that a user asked for: None takes that of another map, 0 none.

    Raises:
        MapError: Not finite or negative.
    """
    chosen = like.tile_m if tile_m is None else tile_m or None
    check_tile(chosen)
    return chosen


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Manifest]:
    """Hold the only right to change the map that is at ``path``, and yield its manifest; see `writing`.

    Raises:
        MapError: There is no map, or another process is writing it.
    """
    read_manifest(path)  # Before anything is made in a place that holds no map.
    with writing(path):
        yield read_manifest(path)


def require_common_frame(path: Path, manifest: Manifest, positions: MapPositions) -> None:
    """Refuse images that have no place in a map's frame; programs ask before they embed them.

    Raises:
        MapError: Images in a local plane for a geo-referenced map, or the other way round.
    """
    if positions.is_georeferenced == (manifest.datum is not None):
        return
    kinds = "geo-referenced", "local"
    here, there = kinds if manifest.datum is not None else kinds[::-1]
    raise MapError(
        f"Map {path} is {here} and the new images are {there}: they have no common frame. Give images with "
        f"{'latitude and longitude' if manifest.datum is not None else 'positions in the plane of the map'}."
    )


def warn_of_calibration(manifest: Manifest, what: str) -> None:
    """Say that a calibration does not hold for other content."""
    if manifest.calibration is not None:
        _log.warning("The calibration of %s does not hold for its new content and is dropped: calibrate again.", what)


def _require_fit(path: Path, old: Manifest, model_id: str, dimension: int, positions: MapPositions) -> None:
    if model_id != old.model_id:
        raise MapError(
            f"Map {path} was built by model {old.model_id[:16]}… and the new images were embedded by model "
            f"{model_id[:16]}…: their descriptors cannot be compared. Embed them with the bundle that built the map."
        )
    if dimension != old.dimension:
        raise MapError(f"Map {path} holds descriptors of length {old.dimension} and the new ones have {dimension}.")
    require_common_frame(path, old, positions)


def _kept(path: Path, manifest: Manifest, which: Choice) -> list[NDArray[np.bool_]]:
    """For each segment, which of its images stay."""
    starts = np.cumsum([0, *(segment.count for segment in manifest.segments)])
    if not callable(which):
        kept = np.ones(manifest.count, bool)
        kept[_checked(which, manifest.count, path)] = False
        return np.split(kept, starts[1:-1])
    masks = []
    for segment in manifest.segments:
        poses = np.array(open_poses(path, segment))
        meant = np.asarray(which(read_positions(path, segment, poses)))
        if meant.dtype != bool or meant.shape != (segment.count,):
            raise DataError(f"The choice of images gave {meant.dtype} {meant.shape} for {segment.count} images.")
        masks.append(~meant)
    return masks


def _checked(which: NDArray[np.integer] | Sequence[int], count: int, path: Path) -> NDArray[np.int64]:
    indices = np.asarray(which)
    if indices.size == 0:
        return np.empty(0, np.int64)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise DataError(f"Images are meant by their indices, and {indices.dtype} {indices.shape} was given.")
    if indices.min() < 0 or indices.max() >= count:
        worst = int(indices.min() if indices.min() < 0 else indices.max())
        raise DataError(f"Map {path} has the images 0 to {count - 1}: there is no image {worst}.")
    return indices.astype(np.int64)


def _rewritten(path: Path, manifest: Manifest, segment: SegmentEntry, mask: NDArray[np.bool_]) -> SegmentEntry:
    rows = read_rows(path, manifest, [segment])
    return write_segment(path, rows.subset(np.flatnonzero(mask)), manifest.precision)


def _switch(path: Path, old: Manifest, segments: Sequence[SegmentEntry]) -> Manifest:
    """Make these segments the map; from here on readers see the new content."""
    warn_of_calibration(old, f"map {path}")
    poses = np.concatenate([np.array(open_poses(path, segment)) for segment in segments])
    new = stamped(replace(old, segments=tuple(segments), spacing_m=spacing_of(poses), calibration=None))
    new.write(path)
    return new
