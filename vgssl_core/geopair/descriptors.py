"""Descriptors of the images of one store: embedded when they are asked for, or taken where they are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.geopair.descriptor_cache import DescriptorCache

#: Embeds images by index: (n,) int64 to (n, D) unit rows.
Embed = Callable[[NDArray[np.int64]], Tensor]

#: Images that are embedded before their descriptors are stored in the wanted precision.
_AT_ONCE = 4096


@dataclass(frozen=True)
class Age:
    """When a refresh happens, in steps of the optimiser.

    Attributes:
        step: Now.
        oldest_step: Descriptors of this step or a later one need not be computed again.
    """

    step: int
    oldest_step: int


class Descriptors:
    """Descriptors of N images.

    Args:
        embed: The network.
        images: N.
        dtype: Of the descriptors.
        kept_bytes: Memory for those that later refreshes may take; 0 keeps none.
    """

    def __init__(self, embed: Embed, images: int, dtype: torch.dtype, kept_bytes: int) -> None:
        self._embed, self._dtype = embed, dtype
        self._cache = DescriptorCache(images, kept_bytes, dtype) if kept_bytes else None

    def rows(self, indices: NDArray[np.int64], age: Age) -> Tensor:
        """(n, D) descriptors of different images."""
        if self._cache is None:
            return self._embedded(indices)
        held = self._cache.holds(indices, age.oldest_step)
        if held.all() and len(indices):
            return self._cache.rows(indices)
        known = self._cache.rows(indices[held]) if held.any() else None
        fresh = self._embedded(indices[~held])
        self._cache.note(indices[~held], fresh, age.step)
        if known is None:
            return fresh
        rows = fresh.new_empty((len(indices), fresh.shape[1]))
        rows[torch.from_numpy(held)], rows[torch.from_numpy(~held)] = known, fresh
        return rows

    def note(self, indices: NDArray[np.int64], descriptors: Tensor, step: int) -> None:
        """Take up descriptors of step ``step`` that were computed elsewhere; one image may come twice."""
        if self._cache is not None:
            self._cache.note(indices, descriptors, step)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; empty where nothing is kept."""
        return {} if self._cache is None else self._cache.state()

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        if self._cache is not None:
            self._cache.load(state)

    def _embedded(self, indices: NDArray[np.int64]) -> Tensor:
        first = self._embed(indices[:_AT_ONCE]).to(self._dtype)
        if len(indices) <= _AT_ONCE:
            return first
        rows = first.new_empty((len(indices), first.shape[1]))
        rows[:_AT_ONCE] = first
        for start in range(_AT_ONCE, len(indices), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            rows[part] = self._embed(indices[part]).to(self._dtype)
        return rows
