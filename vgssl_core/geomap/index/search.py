"""Search with an approximate index: it proposes candidates, which are ranked by their exact distances."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.faiss_package import load_faiss, tuned_for
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import QUERIES_AT_ONCE, SPARE_CANDIDATES, ExactSearch, rank
from vgssl_core.geomap.index.entry import IndexEntry
from vgssl_core.geomap.index.load import open_index

_log = logging.getLogger(__name__)


class IndexedSearch:
    """Candidates from an index, and from exact search over the rows that it does not cover.

    Distances are those of exact search to the last bit; only that an image is among the candidates is approximate.

    Attributes:
        name: What searches, with its measured recall, for reports.
        blocks: The descriptors.
    """

    def __init__(self, index: Any, entry: IndexEntry, blocks: Blocks) -> None:
        """Join an index with the descriptors that it was built of, and those that came after.

        Args:
            index: As `open_index` gives it.
            entry: The manifest's.
            blocks: All descriptors of the map; the index covers the first ``entry.count``.
        """
        self._faiss = load_faiss()
        self._index, self._covered, self.blocks = index, entry.count, blocks
        self._refine_factor = entry.parameters["refine_factor"]
        later = int(np.searchsorted(blocks.starts, entry.count))
        self._uncovered = ExactSearch(blocks.arrays[later:]) if entry.count < len(blocks) else None
        quality = entry.quality
        self.name = (
            f"{entry.kind}, faiss {self._faiss.__version__}, recall@1 {quality.recall_at_1:.3f}, "
            f"@10 {quality.recall_at_10:.3f} against exact"
        )
        if self._uncovered is not None:
            self.name += f"; {len(self._uncovered)} images beside it exactly"

    def __len__(self) -> int:
        return len(self.blocks)

    @functools.cached_property
    def exact(self) -> ExactSearch:
        """Exact search over the same descriptors."""
        return ExactSearch(self.blocks)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """About the k nearest rows of each query, in the order and with the distances of exact search.

        A query for which the index finds fewer than k rows is searched exactly.

        Args:
            queries: (Q, D) float32.
            k: At most the number of rows.

        Returns:
            (Q, k) indices and (Q, k) L2 distances.

        Raises:
            MapError: The index names rows that it does not have: the file is damaged.
        """
        indices = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        for begin in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(begin, min(begin + QUERIES_AT_ONCE, len(queries)))
            candidates = self._candidates(queries[part], k + SPARE_CANDIDATES)
            few = part.start + np.flatnonzero((candidates >= 0).sum(axis=1) < k)
            if len(few) < len(candidates):
                indices[part], distances[part] = rank(self.blocks, queries[part], candidates, k)
            if len(few):
                indices[few], distances[few] = self.exact.search(queries[few], k)
        return indices, distances

    def _candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(Q, C) rows, −1 for none."""
        with tuned_for(self._faiss, len(queries)):
            found = self._index.search(queries, min(k * self._refine_factor, self._covered))[1]
        if found.size and (found.min() < -1 or found.max() >= self._covered):
            raise MapError(
                "The map's index names images that it does not hold: make it anew with `vgssl map index MAP`."
            )
        if self._uncovered is None:
            return found
        beside = self._uncovered.candidates(queries, min(k, len(self._uncovered)))
        return np.concatenate([found, self._covered + beside], axis=1)


def open_search(
    folder: Path, entry: IndexEntry | None, blocks: Blocks, verify: bool = False
) -> ExactSearch | IndexedSearch:
    """What searches a map.

    Args:
        folder: The map's folder.
        entry: Of its index; None searches exactly.
        blocks: The map's descriptors.
        verify: Compare the index file's sha256 too.

    Raises:
        MapError: The index is missing, damaged, not that of the map, or needs a FAISS that is not there.
    """
    if entry is None:
        return ExactSearch(blocks)
    search = IndexedSearch(open_index(folder / entry.file, entry, blocks.dimension, verify), entry, blocks)
    _log.info("Search of %d images: %s.", len(search), search.name)
    return search
