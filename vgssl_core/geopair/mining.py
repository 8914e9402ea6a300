"""Positives and negatives of the coming steps, by the network's own descriptors where the settings ask for it.

Mining as in Berton et al., 2022, https://arxiv.org/abs/2204.03444: the hardest negatives of the whole database or of a
sample. What costs is embedding: a refresh embeds no image twice, and none that no answer needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.descriptors import Age, Descriptors, Embed
from vgssl_core.geopair.negatives import HardestNegatives, random_negatives, search_blocks
from vgssl_core.geopair.pairs import GeoPairs, PairList

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NEVER = np.iinfo(np.int64).max


class Miner:
    """Makes the pairs of the coming steps.

    The answer depends on the arguments, the descriptors and what was noted alone: processes that share those make the
    same pairs.

    Args:
        pairs: The set and its settings.
        positives_per_query: K.
        negatives_per_query: M.
        embed_queries: The network on queries, in evaluation mode; of a set without queries it is not called.
        embed_database: The network on database images.

    Raises:
        ConfigError: The method needs negatives and the settings bring none.
    """

    def __init__(
        self,
        pairs: GeoPairs,
        positives_per_query: int,
        negatives_per_query: int,
        embed_queries: Embed,
        embed_database: Embed,
    ) -> None:
        config = pairs.config
        if negatives_per_query and config.mining == "none":
            raise ConfigError(
                f"pairs.mining is none, but the method wants {negatives_per_query} negatives per query: choose "
                "random, partial or full, or a method without negatives."
            )
        self._pairs, self._positives, self._negatives = pairs, positives_per_query, negatives_per_query
        self._period, self._period_step = -1, 0
        caching = config.refresh_epochs > 1 or config.reuse_steps > 0
        limit_bytes = config.mining_memory_mib * 2**20
        # Half of the memory is for what is kept, shared in proportion to the images.
        self._search_bytes, kept_bytes = (limit_bytes // 2, limit_bytes // 2) if caching else (limit_bytes, 0)
        self._dtype = _DTYPES[config.mining_precision]
        images = len(pairs.database) + (0 if pairs.own_streets else len(pairs.queries))
        self._database, self._queries = (
            Descriptors(embed, len(places), self._dtype, kept_bytes * len(places) // images)
            for embed, places in ((embed_database, pairs.database), (embed_queries, pairs.queries))
        )
        if pairs.own_streets:
            self._queries = self._database

    def make_pairs(
        self, queries: NDArray[np.int64], rng: np.random.Generator, epoch: int = 0, step: int = 0
    ) -> PairList:
        """Positives and negatives of each query, and the identical pairs of ``negative_ratio`` among them.

        Args:
            queries: (P,) queries of the coming steps.
            rng: Source of the draws.
            epoch: In which the steps are.
            step: Steps of the optimiser so far.

        Returns:
            `GeoPairs.rows_of` (P) pairs.

        Raises:
            ConfigError: The memory does not hold the descriptors of the queries.
            DataError: Too few database images lie beyond the negative radius of a query, or none is for identical
                pairs.
        """
        pairs, config = self._pairs, self._pairs.config
        near = pairs.near(queries)
        candidates = self._candidates(rng)
        ranks, negatives = rng.random(near.nnz), np.zeros((len(queries), 0), np.int64)
        if self._negatives and config.mining == "random":
            negatives = random_negatives(pairs, pairs.queries, queries, self._negatives, rng)
        if config.positive == "nearest" or len(candidates):
            age = Age(step, self._oldest_step(epoch, step))
            similarity, hardest = self._search(queries, near, candidates, age)
            ranks = similarity if config.positive == "nearest" else ranks
            negatives = hardest if len(candidates) else negatives
        made = PairList(queries, _best(near, ranks, self._positives), negatives, np.zeros(len(queries), bool))
        return self._with_identical(made, rng)

    def note(self, pairs: PairList, descriptors: Tensor, positive_descriptors: Tensor | None, step: int) -> None:
        """Take up what a training step computed, where ``reuse_steps`` asks for it.

        Args:
            pairs: The N pairs of the batch, over all processes.
            descriptors: (N, D) of its queries.
            positive_descriptors: (N, D) of the first positive of each, or None.
            step: Steps of the optimiser that the network had seen.
        """
        if not self._pairs.config.reuse_steps:
            return
        for store, rows in ((self._queries, ~pairs.identical), (self._database, pairs.identical)):
            store.note(pairs.queries[rows], descriptors[torch.from_numpy(rows)], step)
        if positive_descriptors is not None:
            self._database.note(pairs.positives[:, 0], positive_descriptors, step)

    def state(self) -> dict[str, Any]:
        """What a later refresh takes from earlier ones: tensors and plain values, for the checkpoint."""
        caches = {"database": self._database.state()}
        if not self._pairs.own_streets:
            caches["queries"] = self._queries.state()
        return {"period": self._period, "period_step": self._period_step, **caches}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._period, self._period_step = state["period"], state["period_step"]
        self._database.load(state["database"])
        if not self._pairs.own_streets:
            self._queries.load(state["queries"])

    def _candidates(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Database images, sorted, among which the hardest negatives are sought."""
        count, config = len(self._pairs.database), self._pairs.config
        if not self._negatives or config.mining not in ("partial", "full"):
            return np.zeros(0, np.int64)
        if config.mining == "full":
            return np.arange(count)
        return np.sort(rng.permutation(count)[: config.mining_database])

    def _oldest_step(self, epoch: int, step: int) -> int:
        """Descriptors of this step of the training or a later one are taken instead of embedding again."""
        config, oldest = self._pairs.config, _NEVER
        if config.refresh_epochs > 1:
            if epoch // config.refresh_epochs != self._period:
                self._period, self._period_step = epoch // config.refresh_epochs, step
            oldest = self._period_step
        return min(oldest, step - config.reuse_steps) if config.reuse_steps else oldest

    @torch.no_grad()
    def _search(
        self, queries: NDArray[np.int64], near: csr_matrix, candidates: NDArray[np.int64], age: Age
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarity of each query's positives (as in ``near``), and its hardest negatives, in one pass."""
        pairs, nearest = self._pairs, self._pairs.config.positive == "nearest"
        wanted = np.union1d(near.indices if nearest else [], candidates).astype(np.int64)
        own = self._queries.rows(queries, age)
        blocks = search_blocks(self._search_bytes, len(queries), len(wanted), own.shape[1], self._dtype.itemsize)
        hardest = HardestNegatives(pairs, queries, own, self._negatives, blocks.queries)
        similarity = np.zeros(near.nnz, np.float32)
        for start in range(0, len(wanted), blocks.database):
            block = wanted[start : start + blocks.database]
            rows = self._database_rows(block, queries, own, age)
            if nearest:
                inside = np.flatnonzero((near.indices >= block[0]) & (near.indices <= block[-1]))
                similarity[inside] = _dots(own, rows, near, inside, block)
            searched = candidates[slice(*np.searchsorted(candidates, [block[0], block[-1] + 1]))]
            if len(searched):
                hardest.add(searched, rows if len(searched) == len(block) else rows[np.searchsorted(block, searched)])
        return similarity, hardest.result() if len(candidates) else np.zeros((len(queries), 0), np.int64)

    def _database_rows(self, block: NDArray[np.int64], queries: NDArray[np.int64], own: Tensor, age: Age) -> Tensor:
        """Descriptors of database images; those that are queries too have theirs already."""
        if not self._pairs.own_streets:
            return self._database.rows(block, age)
        is_query = np.isin(block, queries)
        order = np.argsort(queries)
        rows = own.new_empty((len(block), own.shape[1]))
        rows[torch.from_numpy(is_query)] = own[order[np.searchsorted(queries, block[is_query], sorter=order)]]
        if not is_query.all():
            rows[torch.from_numpy(~is_query)] = self._database.rows(block[~is_query], age)
        return rows

    def _with_identical(self, made: PairList, rng: np.random.Generator) -> PairList:
        images = self._pairs.identical_images(len(made), rng)
        if not len(images):
            return made
        negatives = np.zeros((len(images), 0), np.int64)
        if self._negatives:  # no hard ones: they are negatives themselves
            negatives = random_negatives(self._pairs, self._pairs.database, images, self._negatives, rng)
        order = rng.permutation(len(made) + len(images))
        return PairList(
            np.concatenate([made.queries, images])[order],
            np.concatenate([made.positives, np.repeat(images[:, None], self._positives, axis=1)])[order],
            np.concatenate([made.negatives, negatives])[order],
            (np.arange(len(order)) >= len(made))[order],
        )


def _best(near: csr_matrix, ranks: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """(P, count) columns of each row with the highest ranks; from the first again where a row has fewer."""
    counts = np.diff(near.indptr)
    order = np.lexsort((-ranks, np.repeat(np.arange(len(counts)), counts)))
    places = near.indptr[:-1, None] + np.arange(count) % counts[:, None]
    return near.indices[order[places]].astype(np.int64)


def _dots(
    queries: Tensor, rows: Tensor, near: csr_matrix, entries: NDArray[np.integer], block: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Similarity of query and positive for some entries of ``near`` whose columns are all in ``block``."""
    query = np.searchsorted(near.indptr, entries, side="right") - 1
    positive = np.searchsorted(block, near.indices[entries])
    result = np.empty(len(entries), np.float32)
    size = max(1, len(block) // 3)  # three such tensors are in memory at once
    for start in range(0, len(entries), size):
        part = slice(start, start + size)
        products = queries[query[part]] * rows[positive[part]]
        result[part] = products.sum(dim=1, dtype=torch.float32).cpu().numpy()
    return result
