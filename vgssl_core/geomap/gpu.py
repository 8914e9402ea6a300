"""Exact search on the GPU, where the installed FAISS has one."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap.blocks import Blocks

#: Rows that are copied to the GPU at once.
_ROWS_AT_ONCE = 65536


def gpu_count(faiss: ModuleType) -> int:
    """GPUs that the installed faiss can use; none for faiss-cpu, which knows the function but not the classes."""
    return faiss.get_num_gpus() if hasattr(faiss, "GpuIndexFlatL2") else 0


class GpuCandidates:
    """A flat index on the first GPU, that proposes candidates; the caller computes their distances anew.

    fp16 descriptors become fp32 there, because FAISS would round the queries to fp16 too and lose exactness.

    Attributes:
        most_neighbours: The GPU's selection cannot give more of them.
    """

    most_neighbours = 2048

    def __init__(self, faiss: ModuleType, blocks: Blocks) -> None:
        # FAISS does not keep the resources alive.
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.GpuIndexFlatL2(self._resources, blocks.dimension)
        for _, rows in blocks.parts(most=_ROWS_AT_ONCE):
            self._index.add(np.ascontiguousarray(rows))

    def candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(Q, k) nearest rows but for rounding."""
        return self._index.search(np.ascontiguousarray(queries), k)[1]
