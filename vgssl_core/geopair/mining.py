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


def make_pairs(
    pairs: GeoPairs,
    queries: NDArray[np.int64],
    negatives: int,
    rng: np.random.Generator,
    embed_queries: Embed,
    embed_database: Embed,
) -> PairList:
    """Choose a positive and the negatives of each query (partial mining, Berton et al., 2022).

    Only what is needed is embedded: the queries, their positives and a random sample of the database; nothing at all
    for random positives without negatives.

    Args:
        pairs: The set and its settings.
        queries: (P,) queries of the coming steps.
        negatives: Hard negatives per query.
        rng: Source of the draws.
        embed_queries: The network on queries.
        embed_database: The network on database images.

    Raises:
        DataError: Too few database images lie beyond the negative radius of a query.
    """
    nearest = pairs.config.positive == "nearest"
    if not nearest and not negatives:
        empty = np.zeros((len(queries), 0), np.int64)
        return PairList(queries, pairs.random_positives(queries, rng), empty)
    near = [pairs.positives(query) for query in queries]
    sample = rng.permutation(len(pairs.database))[: pairs.config.mining_database] if negatives else np.zeros(0, int)
    wanted = np.unique(np.concatenate([*(near if nearest else []), sample])).astype(np.int64)
    query_rows, database_rows = embed_queries(queries), embed_database(wanted)
    similarity = query_rows @ database_rows.T
    chosen = pairs.random_positives(queries, rng)
    if nearest:
        lists = enumerate(near)
        chosen = np.array([own[int(similarity[i, np.searchsorted(wanted, own)].argmax())] for i, own in lists])
    if not negatives:
        return PairList(queries, chosen, np.zeros((len(queries), 0), np.int64))
    columns = np.searchsorted(wanted, np.sort(sample))
    return PairList(queries, chosen, _hardest(pairs, queries, wanted[columns], similarity[:, columns], negatives))


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
