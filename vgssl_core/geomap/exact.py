"""Exact nearest-neighbour search over memory-mapped descriptors, with FAISS or with numpy alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from vgssl_core.faiss_package import load_faiss

#: More candidates are fetched than asked for, and their distances computed anew: the fast kernels' rounding then
#: changes neither order nor distance, and both ways of searching give the same result.
_SPARE_CANDIDATES = 16
_QUERIES_AT_ONCE = 256
_ROWS_AT_ONCE = 65536
#: Below this FAISS compares the queries one by one, without BLAS.
_FEW_QUERIES = 20
_log = logging.getLogger(__name__)


class ExactSearch:
    """All images are compared with the query.

    Attributes:
        name: What searches, for reports.
    """

    def __init__(self, blocks: Sequence[NDArray[np.floating]], use_faiss: bool | None = None) -> None:
        """Take the descriptors as they are; fp32 is not copied, fp16 becomes fp32 in memory.

        Args:
            blocks: (N_i, D) descriptors; the index of a row counts through all blocks.
            use_faiss: None takes FAISS where it is installed.

        Raises:
            MapError: Two FAISS distributions are installed.
        """
        self._blocks = [np.asarray(block).astype(np.float32, copy=False) for block in blocks]
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])
        self._faiss = None if use_faiss is False else load_faiss()
        self._squares: list[NDArray[np.float32]] = []
        if self._faiss is None:
            self.name = "exact, numpy"
            reason = "numpy was asked for" if use_faiss is False else "no faiss-cpu or faiss-gpu is installed"
            self._squares = [np.einsum("nd,nd->n", block, block) for block in self._blocks]
        else:
            self.name, reason = f"exact, faiss {self._faiss.__version__}", "it is installed"
        _log.info("Search of %d images: %s (%s).", len(self), self.name, reason)

    def __len__(self) -> int:
        return int(self._starts[-1])

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
        for begin in range(0, len(queries), _QUERIES_AT_ONCE):
            part = slice(begin, begin + _QUERIES_AT_ONCE)
            indices[part], distances[part] = self._search_some(queries[part], k)
        return indices, distances

    def _search_some(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        wanted = k + _SPARE_CANDIDATES
        found = [
            self._starts[number] + self._candidates(queries, number, min(wanted, len(block)))
            for number, block in enumerate(self._blocks)
        ]
        candidates = np.sort(np.concatenate(found, axis=1), axis=1)
        differences = self.rows(candidates) - queries[:, None, :]
        squares = np.einsum("qkd,qkd->qk", differences, differences)
        nearest = np.argsort(squares, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(candidates, nearest, 1), np.sqrt(np.take_along_axis(squares, nearest, 1))

    def _candidates(self, queries: NDArray[np.float32], number: int, k: int) -> NDArray[np.int64]:
        """(Q, k) rows of one block, in any order."""
        if self._faiss is None:
            return _numpy_candidates(queries, self._blocks[number], self._squares[number], k)
        return _faiss_candidates(self._faiss, queries, self._blocks[number], k)

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """(Q, C, D) descriptors of (Q, C) indices."""
        if len(self._blocks) == 1:
            return self._blocks[0][indices]
        rows = np.empty((*indices.shape, self._blocks[0].shape[1]), np.float32)
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        for number, block in enumerate(self._blocks):
            chosen = owner == number
            rows[chosen] = block[indices[chosen] - self._starts[number]]
        return rows


def _faiss_candidates(
    faiss: ModuleType, queries: NDArray[np.float32], block: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    threads = faiss.omp_get_max_threads()
    # One query is not divided among threads, and waking them costs tens of milliseconds on a busy machine.
    faiss.omp_set_num_threads(1 if len(queries) < _FEW_QUERIES else threads)
    try:
        return faiss.knn(queries, block, k)[1]
    finally:
        faiss.omp_set_num_threads(threads)


def _numpy_candidates(
    queries: NDArray[np.float32], block: NDArray[np.float32], squares: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """(Q, k) rows of the smallest |x|² − 2 q·x, in any order, by matrix products over slices of the block."""
    best = np.empty((len(queries), 0), np.int64)
    values = np.empty((len(queries), 0), np.float32)
    for begin in range(0, len(block), _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, len(block))
        rows = block[begin:end]
        # BLAS would divide even one query among threads, which costs as much as in FAISS.
        products = np.einsum("qd,nd->qn", queries, rows) if len(queries) < _FEW_QUERIES else queries @ rows.T
        here = squares[begin:end] - 2.0 * products
        indices = np.broadcast_to(np.arange(begin, end), here.shape)
        best, values = np.concatenate([best, indices], axis=1), np.concatenate([values, here], axis=1)
        if values.shape[1] > k:
            chosen = np.argpartition(values, k - 1, axis=1)[:, :k]
            best, values = np.take_along_axis(best, chosen, 1), np.take_along_axis(values, chosen, 1)
    return best
