"""Exact nearest-neighbour search over memory-mapped descriptors, with FAISS or with numpy alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vgssl_core.faiss_package import FEW_QUERIES, load_faiss, tuned_for
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.gpu import GpuCandidates, gpu_count

#: More candidates are fetched than asked for, and their distances computed anew: the fast kernels' rounding then
#: changes neither order nor distance, and every way of searching gives the same result.
SPARE_CANDIDATES = 16
QUERIES_AT_ONCE = 256
#: Rows whose products with the queries numpy keeps at once.
_ROWS_AT_ONCE = 65536
_log = logging.getLogger(__name__)


class ExactSearch:
    """All images are compared with the query.

    Attributes:
        name: What searches, for reports.
        blocks: The descriptors.
    """

    def __init__(
        self,
        blocks: Blocks | Sequence[NDArray[np.floating]],
        use_faiss: bool | None = None,
        use_gpu: bool | None = None,
    ) -> None:
        """Take the descriptors as they are, without a copy; fp16 becomes fp32 in small parts while it is searched.

        Args:
            blocks: (N_i, D) descriptors; the index of a row counts through all blocks.
            use_faiss: None takes FAISS where it is installed.
            use_gpu: None takes the GPU where the installed FAISS has one; the descriptors are then copied onto it.

        Raises:
            MapError: Two FAISS distributions are installed.
        """
        self.blocks = blocks if isinstance(blocks, Blocks) else Blocks(blocks)
        self._faiss = None if use_faiss is False else load_faiss()
        self._gpu = None
        self._squares: dict[int, NDArray[np.float32]] = {}
        if self._faiss is None:
            self.name = "exact, numpy"
            reason = "numpy was asked for" if use_faiss is False else "no faiss-cpu or faiss-gpu is installed"
        else:
            self.name, reason = f"exact, faiss {self._faiss.__version__}", "it is installed"
            if use_gpu is not False and gpu_count(self._faiss):
                reason = self._move_to_gpu()
        _log.info("Search of %d images: %s (%s).", len(self), self.name, reason)

    def __len__(self) -> int:
        return len(self.blocks)

    def _move_to_gpu(self) -> str:
        """Copy the descriptors to the GPU if they fit there; why it was done, for the log."""
        try:
            self._gpu = GpuCandidates(self._faiss, self.blocks)
        except RuntimeError as problem:
            _log.warning("The GPU cannot take the map's descriptors, the CPU searches: %s", problem)
            return "the GPU has no room"
        self.name = f"{self.name} on the GPU"
        return "the installed faiss has one"

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest rows of each query, nearest first, the lower index first where distances are equal.

        Args:
            queries: (Q, D) float32.
            k: At most the number of rows.

        Returns:
            (Q, k) indices and (Q, k) L2 distances.
        """
        indices = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        for begin in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(begin, begin + QUERIES_AT_ONCE)
            candidates = self.candidates(queries[part], min(k + SPARE_CANDIDATES, len(self)))
            indices[part], distances[part] = rank(self.blocks, queries[part], candidates, k)
        return indices, distances

    def candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(Q, k) rows nearest to each of up to `QUERIES_AT_ONCE` queries but for rounding, in any order."""
        if self._gpu is not None and k <= self._gpu.most_neighbours:
            return self._gpu.candidates(queries, k)
        best = np.empty((len(queries), 0), np.int64)
        values = np.empty((len(queries), 0), np.float32)
        for begin, rows in self.blocks.parts(most=_ROWS_AT_ONCE if self._faiss is None else None):
            here, indices = self._nearest(queries, begin, rows, min(k, len(rows)))
            best = np.concatenate([best, begin + indices], axis=1)
            values = np.concatenate([values, here], axis=1)
            if values.shape[1] > k:
                best, values = _smallest(best, values, k)
        return best

    def _nearest(
        self, queries: NDArray[np.float32], begin: int, rows: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(Q, k) squared distances, up to a constant of each query, and rows of a part."""
        if self._faiss is not None:
            with tuned_for(self._faiss, len(queries)):
                return self._faiss.knn(queries, rows, k)
        if begin not in self._squares:
            self._squares[begin] = np.einsum("nd,nd->n", rows, rows)
        # BLAS would divide even one query among threads, and waking them costs tens of milliseconds on a busy machine.
        few = len(queries) < FEW_QUERIES
        products = np.einsum("qd,nd->qn", queries, rows) if few else queries @ rows.T
        values = self._squares[begin] - 2.0 * products
        indices, values = _smallest(np.broadcast_to(np.arange(len(rows)), values.shape), values, k)
        return values, indices


def _smallest(
    indices: NDArray[np.int64], values: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k smallest values of each row and their indices, in any order."""
    if k >= values.shape[1]:
        return indices, values
    chosen = np.argpartition(values, k - 1, axis=1)[:, :k]
    return np.take_along_axis(indices, chosen, 1), np.take_along_axis(values, chosen, 1)


def rank(
    blocks: Blocks, queries: NDArray[np.float32], candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest of each query's candidates by distances that do not depend on who proposed them.

    Args:
        blocks: The descriptors.
        queries: (Q, D) float32.
        candidates: (Q, C) different rows of each query; −1 stands for none.
        k: At most C; a query with fewer rows than that gets −1 at an infinite distance for the missing ones.

    Returns:
        (Q, k) indices, nearest first, the lower index first where distances are equal, and (Q, k) L2 distances.
    """
    candidates = np.sort(candidates, axis=1)
    some_missing = bool((candidates[:, :1] < 0).any())
    differences = blocks.take(np.maximum(candidates, 0) if some_missing else candidates)
    differences -= queries[:, None, :]
    squares = np.einsum("qkd,qkd->qk", differences, differences)
    if some_missing:
        squares[candidates < 0] = np.inf
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :k]
    each = np.arange(len(queries))[:, None]  # Several times as fast as np.take_along_axis.
    return candidates[each, nearest], np.sqrt(squares[each, nearest])
