"""Images that are to be written into a map: descriptors are read block by block, so that a map may exceed memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap.positions import MapPositions
from vgssl_core.geomap.rows import Rows


class DescriptorRows:
    """`Rows` out of several others, mostly memory-mapped arrays; they are read when ``np.asarray`` asks for them.

    Attributes:
        shape: (N, D).
    """

    def __init__(self, parts: Sequence[Rows], chosen: NDArray[np.int64] | None = None) -> None:
        """Choose rows.

        Args:
            parts: (N_i, D) each, fp32 or fp16.
            chosen: (N,) indices that count through all parts; None takes all rows.
        """
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._chosen = np.arange(self._starts[-1]) if chosen is None else chosen

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self._chosen), int(self._parts[0].shape[1])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, chosen: slice | NDArray[np.integer]) -> DescriptorRows:
        """Rows again: those of a slice, or of an array of indices in its order; nothing is read yet."""
        return DescriptorRows(self._parts, self._chosen[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("The rows are gathered from several places: they cannot be had without a copy.")
        rows = np.empty(self.shape, np.float32)
        owners = np.searchsorted(self._starts, self._chosen, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            rows[mine] = np.asarray(self._parts[owner][self._chosen[mine] - self._starts[owner]])
        return rows.astype(dtype or np.float32, copy=False)

    @classmethod
    def joined(cls, several: Sequence[DescriptorRows]) -> DescriptorRows:
        """The rows of several choices of one dimension, one after the other."""
        offsets = np.cumsum([0, *(rows._starts[-1] for rows in several)])
        chosen = [rows._chosen + offset for rows, offset in zip(several, offsets[:-1], strict=True)]
        return cls([part for rows in several for part in rows._parts], np.concatenate(chosen))


@dataclass(frozen=True)
class MapRows:
    """N images of a map: everything that belongs to an image stays together.

    Attributes:
        descriptors: Of each image.
        poses: (N,) of ``POSE_DTYPE``, in the map's frame.
        positions: What ``records.parquet`` tells of each image.
    """

    descriptors: DescriptorRows
    poses: NDArray[np.void]
    positions: MapPositions

    def __len__(self) -> int:
        return len(self.poses)

    def subset(self, indices: NDArray[np.integer]) -> MapRows:
        """The images of the given indices, in that order."""
        return MapRows(self.descriptors[indices], self.poses[indices], self.positions.subset(indices))

    @classmethod
    def joined(cls, parts: Sequence[MapRows]) -> MapRows:
        """The images of several sources in one frame, one after the other."""
        return cls(
            DescriptorRows.joined([part.descriptors for part in parts]),
            np.concatenate([part.poses for part in parts]),
            MapPositions.joined([part.positions for part in parts]),
        )
