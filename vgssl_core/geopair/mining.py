"""Nearest positives and hard negatives by the network's own descriptors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.errors import DataError
from vgssl_core.geopair.pairs import GeoPairs, PairList
from vgssl_core.places import within_radius

#: Embeds images of the database or of the queries by index: (n,) int64 to (n, D) unit rows.
Embed = Callable[[NDArray[np.int64]], Tensor]


class Miner:
    """Chooses positives and negatives by the network's own descriptors (partial mining, Berton et al., 2022).

    Only what is needed is embedded: the queries, their positives and a random sample of the database; nothing at all
    for random positives without negatives.

    Args:
        pairs: The set and its settings.
        positives: Positives per query.
        negatives: Negatives per query.
        embed_queries: The network on queries, in evaluation mode.
        embed_database: The network on database images.
    """

    def __init__(
        self, pairs: GeoPairs, positives: int, negatives: int, embed_queries: Embed, embed_database: Embed
    ) -> None:
        self._pairs, self._positives, self._negatives = pairs, positives, negatives
        self._embed_queries, self._embed_database = embed_queries, embed_database

    def make_pairs(self, queries: NDArray[np.int64], rng: np.random.Generator) -> PairList:
        """A positive and the negatives of each query.

        Args:
            queries: (P,) queries of the coming steps.
            rng: Source of the draws.

        Raises:
            DataError: Too few database images lie beyond the negative radius of a query.
        """
        pairs, negatives = self._pairs, self._negatives
        nearest = pairs.config.positive == "nearest"
        if not nearest and not negatives:
            return _listed(queries, pairs.random_positives(queries, rng), np.zeros((len(queries), 0), np.int64))
        near = [pairs.positives(query) for query in queries]
        sample = rng.permutation(len(pairs.database))[: pairs.config.mining_database] if negatives else np.zeros(0, int)
        wanted = np.unique(np.concatenate([*(near if nearest else []), sample])).astype(np.int64)
        query_rows, database_rows = self._embed_queries(queries), self._embed_database(wanted)
        similarity = query_rows @ database_rows.T
        chosen = pairs.random_positives(queries, rng)
        if nearest:
            lists = enumerate(near)
            chosen = np.array([own[int(similarity[i, np.searchsorted(wanted, own)].argmax())] for i, own in lists])
        if not negatives:
            return _listed(queries, chosen, np.zeros((len(queries), 0), np.int64))
        columns = np.searchsorted(wanted, np.sort(sample))
        hardest = _hardest(pairs, queries, wanted[columns], similarity[:, columns], negatives)
        return _listed(queries, chosen, hardest)


def _listed(queries: NDArray[np.int64], positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> PairList:
    return PairList(queries, positives[:, None], negatives, np.zeros(len(queries), bool))


def _hardest(
    pairs: GeoPairs, queries: NDArray[np.int64], candidates: NDArray[np.int64], similarity: Tensor, count: int
) -> NDArray[np.int64]:
    """(P, count) most similar candidates beyond the negative radius: one mask, one top-k."""
    radius = pairs.config.negative_radius_m
    too_near = within_radius(pairs.queries.planar_m[queries], pairs.database.planar_m[candidates], radius)
    free = len(candidates) - too_near.getnnz(axis=1)
    if free.min() < count:
        path = pairs.queries.paths[queries[int(free.argmin())]]
        raise DataError(
            f"{path}: only {free.min()} of {len(candidates)} sampled database images lie beyond {radius:g} m, but "
            f"{count} negatives are wanted: lower --options.negatives or raise --pairs.mining_database."
        )
    mask = torch.from_numpy(too_near.toarray()).to(similarity.device)
    best = similarity.masked_fill(mask, -torch.inf).topk(count, dim=1).indices
    return candidates[best.cpu().numpy()]
