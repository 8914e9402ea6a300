"""A map of which only what lies near the robot is in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError, DataError, MapError
from vgssl_core.geomap.geo_map import GeoMap, InMapFrame, Matches
from vgssl_core.geomap.manifest import Manifest, SegmentEntry, read_manifest, still_there
from vgssl_core.geomap.positions import POSE_DTYPE
from vgssl_core.geomap.records import read_sources
from vgssl_core.geomap.segment import open_poses

#: What a map in memory holds of an image beside its float32 descriptor: pose, position and heading.
_POSE_BYTES = POSE_DTYPE.itemsize + 4 * 8
_log = logging.getLogger(__name__)


class TiledMap(InMapFrame):
    """Stands in for a `GeoMap` in a `Localizer`: indices count through the whole map, the loaded tiles are searched.

    A tile is a segment of the map; `build_map` and `compact` cut them by ``tile_m``. `move_to` decides which are
    loaded; it and `search` are for one thread.

    Attributes:
        path: The map's folder.
        budget_bytes: What the loaded tiles may take together, descriptors counted as float32.
        manifest, model_id, dimension, datum, calibration, spacing_m, search_name: As of a `GeoMap`.
        positions_m: Takes indices of any image, loaded or not: (n, 3) float64.
        yaw_rad: Takes indices of any image, loaded or not: (n,) float64.
        sources: Takes the index of any image.
    """

    def __init__(self, path: str | Path, budget_bytes: int, hysteresis_m: float = 10.0) -> None:
        """Read the manifest; nothing is loaded before `move_to`.

        Args:
            path: The map's folder.
            budget_bytes: At least what the largest tile takes.
            hysteresis_m: A tile is loaded in place of another one only when it is nearer by this much. Should be small
                against the tiles, and below the error that may be made near a border of the loaded ones.

        Raises:
            MapError: No map, damaged, or a tile that does not fit the budget.
            ConfigError: A negative hysteresis.
        """
        if not 0 <= hysteresis_m < math.inf:
            raise ConfigError(f"hysteresis_m is {hysteresis_m}: give a distance of 0 m or more.")
        self.path, self.budget_bytes, self._hysteresis_m = Path(path), budget_bytes, hysteresis_m
        self._adopt(read_manifest(self.path))
        self.positions_m = _Rows(self, lambda poses: np.stack([poses[axis] for axis in "xyz"], axis=-1))
        self.yaw_rad = _Rows(self, lambda poses: poses["yaw"].astype(np.float64))
        self.sources = _Sources(self)

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def loaded(self) -> tuple[int, ...]:
        """Numbers of the loaded tiles, ascending: places in the manifest's list of segments."""
        return tuple(self._tiles)

    @property
    def loaded_bytes(self) -> int:
        """What the loaded tiles count against the budget."""
        return int(self._costs[list(self._tiles)].sum())

    def move_to(self, x_m: float, y_m: float) -> bool:
        """Load the tiles nearest to the robot as far as the budget goes, and drop the others.

        A loaded tile that the robot stands in is never dropped.

        Args:
            x_m: The robot's x in the map's frame.
            y_m: The robot's y in the map's frame.

        Returns:
            Whether the loaded tiles are others than before.

        Raises:
            DataError: A position that is not finite.
            MapError: A damaged tile, or another map has taken the place of this one.
        """
        if not (math.isfinite(x_m) and math.isfinite(y_m)):
            raise DataError(f"The robot cannot be at ({x_m}, {y_m}): give its position in the map's frame in metres.")
        while True:
            try:
                return self._load(self._wanted(np.array([x_m, y_m])))
            except MapError:
                # A writer may have switched the map and swept the tile.
                current = read_manifest(self.path)
                if current == self.manifest:
                    raise
                self._adopt(current)

    def search(self, descriptors: NDArray[np.floating], k: int) -> Matches:
        """The k nearest images in the loaded tiles (all of them where there are fewer); as `GeoMap.search`.

        Raises:
            MapError: No tile is loaded, or descriptors of another length than the map's.
            DataError: A descriptor is not finite, or k < 1.
        """
        return self._nearest(k, lambda tile: tile.search(descriptors, k))

    def search_near(
        self, descriptors: NDArray[np.floating], k: int, x_m: float, y_m: float, radius_m: float
    ) -> Matches:
        """The k nearest images in the loaded tiles among those around a place; as `GeoMap.search_near`.

        Raises:
            MapError: No tile is loaded, or descriptors of another length than the map's.
            DataError: A descriptor is not finite, the place is not on Earth, the radius is not positive, or k < 1.
        """
        return self._nearest(k, lambda tile: tile.search_near(descriptors, k, x_m, y_m, radius_m))

    def _nearest(self, k: int, search: Callable[[GeoMap], Matches]) -> Matches:
        """What a search of each loaded tile finds, as one list."""
        if not self._tiles:
            raise MapError(f"No tile of map {self.path} is loaded: say where the robot is with `move_to` first.")
        found = [(self._starts[number], search(tile)) for number, tile in self._tiles.items()]
        indices = np.concatenate([start + matches.indices for start, matches in found], axis=1)
        distances = np.concatenate([matches.distances for _, matches in found], axis=1)
        # Tiles come in ascending order, and among equal distances the lower index goes first.
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return Matches(np.take_along_axis(indices, nearest, 1), np.take_along_axis(distances, nearest, 1))

    def owners(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number of the tile of each image, and the image's place in it.

        Raises:
            IndexError: The map has no such image.
        """
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"Map {self.path} has the images 0 to {len(self) - 1}.")
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        return owner, indices - self._starts[owner]

    def tile_poses(self, number: int) -> NDArray[np.void]:
        """Poses of a tile, loaded or not."""
        tile = self._tiles.get(number)
        if tile is not None:
            return tile.poses
        segment = self.manifest.segments[number]
        with still_there(self.path, segment):
            return open_poses(self.path, segment)

    def _adopt(self, manifest: Manifest) -> None:
        """Take a version of the map; nothing of it is loaded yet."""
        old = getattr(self, "manifest", manifest)
        if (old.model_id, old.dimension, old.datum) != (manifest.model_id, manifest.dimension, manifest.datum):
            raise MapError(f"Another map has taken the place of {self.path}: open it anew.")
        self._starts = np.cumsum([0, *(item.count for item in manifest.segments)])
        self._costs = np.array([tile_bytes(item, manifest.dimension) for item in manifest.segments])
        if self._costs.max() > self.budget_bytes:
            raise MapError(
                f"A tile of map {self.path} takes {self._costs.max()} bytes and the budget is {self.budget_bytes}: "
                "give more memory, or cut the map into smaller tiles with `vgssl map compact --tile_m`."
            )
        self._low = np.array([item.low_m for item in manifest.segments])
        self._high = np.array([item.high_m for item in manifest.segments])
        self._tiles: dict[int, GeoMap] = {}
        self.manifest, self.model_id, self.dimension = manifest, manifest.model_id, manifest.dimension
        self.datum, self.spacing_m = manifest.datum, manifest.spacing_m
        self.calibration: dict[str, Any] | None = manifest.calibration
        self.search_name = f"exact, tiles in {self.budget_bytes} bytes"

    def _wanted(self, robot_m: NDArray[np.float64]) -> list[int]:
        """Numbers of the nearest tiles that fit the budget together, ascending."""
        away = np.maximum(np.maximum(self._low - robot_m, robot_m - self._high), 0.0)
        distance = np.hypot(away[:, 0], away[:, 1])
        new = np.ones(len(distance), bool)
        new[list(self._tiles)] = False
        distance[~new] -= self._hysteresis_m
        centre = np.linalg.norm((self._low + self._high) / 2 - robot_m, axis=1)
        # Where boxes overlap, several are at no distance: the loaded ones first, then the one around the robot.
        order = np.lexsort((centre, new, distance))
        fitting = np.cumsum(self._costs[order]) <= self.budget_bytes
        return sorted(int(number) for number in order[fitting])

    def _load(self, wanted: list[int]) -> bool:
        if wanted == list(self._tiles):
            return False
        # What is dropped goes first, so that the old and the new are never in memory together.
        self._tiles = {number: tile for number, tile in self._tiles.items() if number in wanted}
        opened = {number: self._tiles[number] if number in self._tiles else self._open(number) for number in wanted}
        self._tiles = opened
        _log.info(
            "Map %s: %d of %d tiles are loaded, %.1f MB.",
            self.path,
            len(opened),
            len(self.manifest.segments),
            self.loaded_bytes / 1e6,
        )
        return True

    def _open(self, number: int) -> GeoMap:
        return GeoMap(self.path, self.manifest.restricted_to([self.manifest.segments[number]]))


class _Rows:
    """Values of a `TiledMap`'s images by their indices, read from the files for those that are not loaded."""

    def __init__(self, owner: TiledMap, values: Callable[[NDArray[np.void]], NDArray[np.float64]]) -> None:
        self._map, self._values = owner, values

    def __len__(self) -> int:
        return len(self._map)

    def __getitem__(self, indices: NDArray[np.integer] | int | slice) -> NDArray[np.float64]:
        asked = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, np.int64)
        owners, places = self._map.owners(asked)
        poses = np.empty(asked.shape, POSE_DTYPE)
        for number in np.unique(owners):
            mine = owners == number
            poses[mine] = self._map.tile_poses(int(number))[places[mine]]
        return self._values(poses)


class _Sources:
    """Where each image comes from, read from the records of its tile."""

    def __init__(self, owner: TiledMap) -> None:
        self._map = owner

    def __len__(self) -> int:
        return len(self._map)

    def __getitem__(self, index: int) -> str:
        owner, place = self._map.owners(np.asarray(index, np.int64))
        segment = self._map.manifest.segments[int(owner)]
        with still_there(self._map.path, segment):
            return read_sources(self._map.path, segment)[int(place)]


def tile_bytes(segment: SegmentEntry, dimension: int) -> int:
    """What a segment takes in memory, with float32 descriptors."""
    return segment.count * (4 * dimension + _POSE_BYTES)
