"""Descriptors that were computed once and may be taken again, within a limit on memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DescriptorCache:
    """The newest descriptors of up to N images; beyond the limit those that came first make room.

    Descriptors lie on the device that they come from. The state is plain tensors, so that a training resumes exactly.

    Args:
        images: N.
        limit_bytes: Of the descriptors.
        dtype: How they are stored.
    """

    def __init__(self, images: int, limit_bytes: int, dtype: torch.dtype) -> None:
        self._limit_bytes, self._dtype = limit_bytes, dtype
        self._slots = np.full(images, -1, np.int64)  # of each image; -1: none
        self._owners = np.zeros(0, np.int64)  # image of each slot
        self._steps = np.zeros(0, np.int64)  # of each slot
        self._rows: Tensor | None = None
        self._next = 0

    def note(self, indices: NDArray[np.int64], descriptors: Tensor, step: int) -> None:
        """Take up descriptors.

        Args:
            indices: (n,) images; of one that comes twice the last row counts.
            descriptors: (n, D).
            step: Steps of the optimiser that the network had seen.
        """
        if not len(indices):
            return
        images, last = np.unique(indices[::-1], return_index=True)
        if self._rows is None:
            self._allocate(descriptors)
        assert self._rows is not None
        fresh = images[self._slots[images] < 0][: len(self._owners)]
        slots = (self._next + np.arange(len(fresh))) % max(1, len(self._owners))
        evicted = self._owners[slots]
        self._slots[evicted[evicted >= 0]] = -1
        self._slots[fresh], self._owners[slots] = slots, fresh
        self._next = int((self._next + len(fresh)) % max(1, len(self._owners)))
        kept = self._slots[images] >= 0  # one that was here may itself have made room
        slots, rows = self._slots[images[kept]], len(indices) - 1 - last[kept]
        self._steps[slots] = step
        self._rows[torch.from_numpy(slots)] = descriptors[torch.from_numpy(rows)].to(self._rows)

    def holds(self, indices: NDArray[np.int64], oldest_step: int) -> NDArray[np.bool_]:
        """(n,) which images have a descriptor of that step or a later one."""
        slots = self._slots[indices]
        found = slots >= 0
        found[found] = self._steps[slots[found]] >= oldest_step
        return found

    def rows(self, indices: NDArray[np.int64]) -> Tensor:
        """(n, D) descriptors of images that the cache holds."""
        assert self._rows is not None
        return self._rows[torch.from_numpy(self._slots[indices])]

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; empty where nothing was noted."""
        if self._rows is None:
            return {}
        arrays = {"owners": torch.from_numpy(self._owners), "steps": torch.from_numpy(self._steps)}
        return {**arrays, "rows": self._rows, "next": self._next}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`, for a cache of the same size."""
        if not state:
            return
        self._owners, self._steps = (state[name].cpu().numpy().copy() for name in ("owners", "steps"))
        self._rows, self._next = state["rows"].clone(), state["next"]
        self._slots[:] = -1
        taken = np.flatnonzero(self._owners >= 0)
        self._slots[self._owners[taken]] = taken

    def _allocate(self, descriptors: Tensor) -> None:
        capacity = min(len(self._slots), self._limit_bytes // (descriptors.shape[1] * self._dtype.itemsize))
        self._owners = np.full(capacity, -1, np.int64)
        self._steps = np.full(capacity, -1, np.int64)
        self._rows = torch.zeros((capacity, descriptors.shape[1]), dtype=self._dtype, device=descriptors.device)
