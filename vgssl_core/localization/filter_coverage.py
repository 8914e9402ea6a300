"""Where a map has images and which way they look: what a frame can be recognised by."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_BINS = 8
#: Rows of a map that are looked at together.
_CHUNK = 1 << 18
_SHIFT = 1 << 28


class Coverage:
    """Squares of the ground that hold map images, by the direction in which these look.

    Takes 8 bytes for each square and direction that holds an image, and answers by binary search.
    """

    def __init__(self, cell_m: float, keys: NDArray[np.int64]) -> None:
        """Take ready keys; `of_poses` makes them.

        Args:
            cell_m: Side of a square.
            keys: (K,) sorted and unique.
        """
        self.cell_m, self._keys = cell_m, keys

    @classmethod
    def of_poses(cls, positions_m: ArrayLike, yaw_rad: ArrayLike, count: int, cell_m: float) -> Coverage:
        """Squares of a map.

        Args:
            positions_m: Takes slices or indices of ``count`` images: x, y and perhaps z.
            yaw_rad: The same: ENU yaw, NaN where unknown; such an image looks everywhere.
            count: Images.
            cell_m: Side of a square.
        """
        keys = [np.zeros(0, np.int64)]
        for start in range(0, count, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, count))
            planar, yaw = positions_m[rows][:, :2], np.asarray(yaw_rad[rows])
            cells = _cells(planar, cell_m)
            known = np.isfinite(yaw)
            keys.append(np.unique(_keys(cells[known], _bins(yaw[known]))))
            for direction in range(_BINS if not known.all() else 0):
                keys.append(np.unique(_keys(cells[~known], direction)))
        return cls(cell_m, np.unique(np.concatenate(keys)))

    def __len__(self) -> int:
        return len(self._keys)

    def holds(self, planar_m: Floats, yaw_rad: Floats, any_heading: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether the map has images about a place that look about the same way (to 45° or somewhat more).

        Args:
            planar_m: (n, 2) places; images in the same square or one beside it count.
            yaw_rad: (n,) ways.
            any_heading: (n,) whether all directions count, because the way is not known.
        """
        if not len(self._keys):
            return np.zeros(len(planar_m), bool)
        around = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
        cells = _cells(planar_m, self.cell_m)[:, None] + around
        turns = np.arange(_BINS)
        bins = (_bins(yaw_rad)[:, None] + turns - 1) % _BINS
        wanted = any_heading[:, None] | (turns < 3)
        keys = _keys(cells[:, :, None], bins[:, None])
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return ((self._keys[at] == keys) & wanted[:, None]).any(axis=(1, 2))


def _cells(planar_m: Floats, cell_m: float) -> NDArray[np.int64]:
    return np.clip(np.floor(planar_m / cell_m), 1 - _SHIFT, _SHIFT - 2).astype(np.int64)


def _bins(yaw_rad: Floats) -> NDArray[np.int64]:
    return np.floor((np.asarray(yaw_rad, np.float64) % math.tau) * (_BINS / math.tau)).astype(np.int64) % _BINS


def _keys(cells: NDArray[np.int64], bins: NDArray[np.int64] | int) -> NDArray[np.int64]:
    return ((cells[..., 0] + _SHIFT) * (2 * _SHIFT) + cells[..., 1] + _SHIFT) * _BINS + bins
