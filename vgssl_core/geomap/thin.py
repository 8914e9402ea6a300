"""Thinning: images that tell a map nothing new are left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from vgssl_core.errors import ConfigError
from vgssl_core.geomap.derived import require_new, write_derived
from vgssl_core.geomap.geo_map import GeoMap, load_map
from vgssl_core.geomap.manifest import Manifest, with_manifest
from vgssl_core.geomap.map_rows import MapRows
from vgssl_core.geomap.positions import cell_order
from vgssl_core.geomap.segment import read_rows

#: Neighbours whose numbers are held at once; a robot that stood still has thousands around each image.
_NEIGHBOURS_AT_ONCE = 1_000_000
_IMAGES_AT_ONCE = 4096
_ASKED = 500


@dataclass(frozen=True)
class ThinConfig:
    """Which images are redundant: near a kept one, looking the same way, and looking alike.

    Attributes:
        spacing_m: Distance to a kept image, at most.
        min_cosine: Cosine of the descriptors, at least. What is alike depends on the network: descriptors of some are
            all within 0.8 of each other.
        heading_deg: Difference of the headings, at most; where one is not known, the descriptors decide alone.

    Raises:
        ConfigError: A value that means nothing.
    """

    spacing_m: float
    min_cosine: float
    heading_deg: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.spacing_m < math.inf:
            raise ConfigError(f"spacing_m is {self.spacing_m}: give a distance of 0 m or more.")
        if not -1 <= self.min_cosine <= 1:
            raise ConfigError(f"min_cosine is {self.min_cosine}: give a cosine between -1 and 1.")
        if not 0 <= self.heading_deg <= 180:
            raise ConfigError(f"heading_deg is {self.heading_deg}: give an angle between 0 and 180 degrees.")


@dataclass(frozen=True)
class Thinned:
    """What came out of thinning.

    Attributes:
        manifest: Of the new map.
        left_out: Number of images that the new map has not.
        asked: Number of left-out images that were asked as queries, chosen at random.
        found_before, found_after: Share of them whose nearest image lies within ``radius_m`` of where they were taken:
            in the old map (itself not counted), and in the new one. This is *self-consistency*: what queries like the
            map's own images lose. It is no recall of queries of another day. NaN where none was asked.
        radius_m: When an image counts as found.
    """

    manifest: Manifest
    left_out: int
    asked: int
    found_before: float
    found_after: float
    radius_m: float


def thin_map(
    path: str | Path,
    out: str | Path,
    config: ThinConfig,
    radius_m: float = 25.0,
    tile_m: float | None = None,
    seed: int = 0,
) -> Thinned:
    """Write a map without its redundant images as a new map in the same frame.

    Args:
        path: The map's folder.
        out: Folder for the new map.
        config: What is redundant.
        radius_m: When a left-out image counts as found by the self-consistency check.
        tile_m: Side of the tiles; 0 makes one segment; None cuts as the map is cut.
        seed: Of the choice of images that are asked.

    Raises:
        ConfigError: ``radius_m`` is not positive.
        MapError: No map, damaged, or ``out`` is there already.
    """
    path, out = Path(path), Path(out)
    if not 0 < radius_m < math.inf:
        raise ConfigError(f"radius_m is {radius_m}: give a positive distance.")
    require_new(out)
    whole, rows = with_manifest(path, lambda manifest: (GeoMap(path, manifest), read_rows(path, manifest)))
    kept = choose(rows, config)
    manifest = write_derived(out, rows.subset(np.flatnonzero(kept)), path, whole.manifest, "thin", tile_m=tile_m)
    left_out = np.flatnonzero(~kept)
    asked = np.random.default_rng(seed).choice(left_out, min(_ASKED, len(left_out)), replace=False)
    before, after = math.nan, math.nan
    if len(asked):
        queries, truth = np.asarray(rows.descriptors[asked]), whole.positions_m[asked, :2]
        before = _found(whole, queries, truth, radius_m, asked)
        after = _found(load_map(out), queries, truth, radius_m)
    return Thinned(manifest, len(left_out), len(asked), before, after, radius_m)


def choose(rows: MapRows, config: ThinConfig) -> NDArray[np.bool_]:
    """(N,) which images stay: greedily in the order of cells, an image stays unless a kept one makes it redundant."""
    order = cell_order(rows.poses)
    planar = np.stack([rows.poses["x"], rows.poses["y"]], axis=1)
    yaw = rows.poses["yaw"].astype(np.float64)
    limit = math.radians(config.heading_deg)
    kept = np.zeros(len(rows), bool)
    with tqdm(total=len(rows), desc="thin", unit="image", leave=False, disable=None) as bar:
        for images, neighbours in _neighbours(planar, order, config.spacing_m):
            for image, near in zip(images, neighbours, strict=True):
                rivals = near[kept[near]]
                turn = np.abs((yaw[rivals] - yaw[image] + math.pi) % (2 * math.pi) - math.pi)
                # A comparison with an unknown heading is false.
                kept[image] = not _any_alike(rows, image, rivals[~(turn > limit)], config.min_cosine)
            bar.update(len(images))
    return kept


def _any_alike(rows: MapRows, image: int, rivals: NDArray[np.int64], min_cosine: float) -> bool:
    if len(rivals) == 0:
        return False
    mine = np.asarray(rows.descriptors[np.array([image])])[0]
    others = np.asarray(rows.descriptors[rivals])
    lengths = np.linalg.norm(mine) * np.linalg.norm(others, axis=1)
    return bool((others @ mine >= min_cosine * lengths).any())


def _neighbours(
    planar: NDArray[np.float64], order: NDArray[np.int64], radius_m: float
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.int64]]]]:
    """Images in the given order and for each those within the radius, in parts that fit in memory."""
    tree = cKDTree(planar)
    for begin in range(0, len(order), _IMAGES_AT_ONCE):
        some = order[begin : begin + _IMAGES_AT_ONCE]
        counts = np.cumsum(tree.query_ball_point(planar[some], radius_m, return_length=True))
        cuts = np.flatnonzero(np.diff(counts // _NEIGHBOURS_AT_ONCE)) + 1
        for part in np.split(some, cuts):
            found = tree.query_ball_point(planar[part], radius_m, return_sorted=True)
            yield part, [np.asarray(near, np.int64) for near in found]


def _found(
    geomap: GeoMap,
    queries: NDArray[np.float32],
    truth_m: NDArray[np.float64],
    radius_m: float,
    themselves: NDArray[np.int64] | None = None,
) -> float:
    """Share of queries whose nearest image, other than the query itself, lies within the radius of the truth."""
    indices = geomap.search(queries, 1 if themselves is None else 2).indices
    nearest = indices[:, 0]
    if themselves is not None:
        nearest = np.where(nearest == themselves, indices[:, -1], nearest)
    return float(np.mean(np.linalg.norm(geomap.positions_m[nearest, :2] - truth_m, axis=1) <= radius_m))
