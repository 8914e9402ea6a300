"""Negatives beyond a radius: random ones, and the hardest by one matrix product, an exclusion and a top-k per block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.pairs import GeoPairs
from vgssl_core.places import Places, within_radius

#: Largest block of similarities: larger ones take memory and are no faster.
_ROWS, _COLUMNS = 1024, 4096


@dataclass(frozen=True)
class SearchBlocks:
    """How much of a search is in memory at once.

    Attributes:
        queries: Rows of a block of similarities.
        database: Columns of it, and descriptors of the database that are held.
    """

    queries: int
    database: int


def search_blocks(limit_bytes: int, queries: int, database: int, dimension: int, value_bytes: int) -> SearchBlocks:
    """The largest useful blocks that fit beside the descriptors of all queries: halves for database and similarities.

    Args:
        limit_bytes: For everything.
        queries: Number of queries.
        database: Number of database images.
        dimension: Of a descriptor.
        value_bytes: Of one number.

    Raises:
        ConfigError: Not even one database image fits beside the queries.
    """
    # A block of the database exists twice while it is gathered; similarities, while the best are sought.
    row_bytes = dimension * value_bytes
    free = limit_bytes - queries * row_bytes
    columns = min(database, _COLUMNS, free // 2 // (2 * row_bytes))
    rows = min(queries, _ROWS, free // 2 // max(1, 2 * columns * value_bytes))
    if min(columns, rows) < 1 <= min(queries, database):
        raise ConfigError(
            f"pairs.mining_memory_mib leaves {limit_bytes / 2**20:.1f} MiB to the search, which the descriptors of "
            f"{queries} queries ({queries * row_bytes / 2**20:.1f} MiB) fill: raise it, or lower "
            "pairs.refresh_queries."
        )
    return SearchBlocks(rows, columns)


class HardestNegatives:
    """The most similar database images beyond the negative radius of each query, while the database passes by.

    Args:
        pairs: The set.
        queries: (P,) int64.
        descriptors: (P, D) of the queries.
        count: Negatives per query, M.
        block: Queries that are compared at once.
    """

    def __init__(
        self, pairs: GeoPairs, queries: NDArray[np.int64], descriptors: Tensor, count: int, block: int
    ) -> None:
        self._pairs, self._queries, self._descriptors = pairs, queries, descriptors
        self._count, self._block, self._seen = count, block, 0
        shape, device = (len(queries), count), descriptors.device
        self._similarity = torch.full(shape, -torch.inf, device=device)
        self._images = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, images: NDArray[np.int64], descriptors: Tensor) -> None:
        """Compare all queries with (B,) database images and their (B, D) descriptors."""
        pairs = self._pairs
        self._seen += len(images)
        candidates = torch.from_numpy(images).to(descriptors.device)
        places_m, database_m = pairs.queries.planar_m[self._queries], pairs.database.planar_m[images]
        too_near = within_radius(places_m, database_m, pairs.config.negative_radius_m)
        for start in range(0, len(self._queries), self._block):
            part = slice(start, start + self._block)
            similarity = self._descriptors[part] @ descriptors.T
            similarity[tuple(torch.from_numpy(axis).long() for axis in too_near[part].nonzero())] = -torch.inf
            best = similarity.topk(min(self._count, len(images)), dim=1)
            values = torch.cat([self._similarity[part], best.values.float()], dim=1)
            known = torch.cat([self._images[part], candidates[best.indices]], dim=1)
            self._similarity[part], chosen = values.topk(self._count, dim=1)
            self._images[part] = known.gather(1, chosen)

    def result(self) -> NDArray[np.int64]:
        """(P, M) database images, the hardest first.

        Raises:
            DataError: Too few of the images lie beyond the radius of a query.
        """
        free = torch.isfinite(self._similarity).sum(dim=1).cpu().numpy()
        paths = [self._pairs.queries.paths[query] for query in self._queries]
        _check_enough(self._pairs, paths, free, self._seen, self._count)
        return self._images.cpu().numpy()


def random_negatives(
    pairs: GeoPairs, places: Places, images: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Different database images beyond the negative radius of each of P images, all equally likely.

    Args:
        pairs: The set.
        places: Its queries or its database.
        images: (P,) indices into ``places``.
        count: Negatives of each, M.
        rng: Source of the draws.

    Returns:
        (P, M) int64.

    Raises:
        DataError: Too few database images lie beyond the radius of one.
    """
    too_near = within_radius(places.planar_m[images], pairs.database.planar_m, pairs.config.negative_radius_m)
    free = len(pairs.database) - too_near.getnnz(axis=1)
    _check_enough(pairs, [places.paths[image] for image in images], free, len(pairs.database), count)
    chosen = np.empty((len(images), count), np.int64)
    for row in range(len(images)):
        taken = too_near.indices[too_near.indptr[row] : too_near.indptr[row + 1]]
        ranks = rng.choice(free[row], count, replace=False)
        # The free image of rank r comes after as many taken ones as have at most r free images before them.
        chosen[row] = ranks + np.searchsorted(taken - np.arange(len(taken)), ranks, side="right")
    return chosen


def _check_enough(pairs: GeoPairs, paths: Sequence[Path], free: NDArray[np.integer], searched: int, count: int) -> None:
    if not len(free) or free.min() >= count:
        return
    sampled = searched < len(pairs.database)
    remedy = "raise --pairs.mining_database" if sampled else "lower --pairs.negative_radius_m"
    wanted = f"{count} negatives are wanted: lower --options.negatives, or" if count > 1 else "one is wanted:"
    raise DataError(
        f"{paths[int(free.argmin())]}: only {free.min()} of {searched} {'sampled ' * sampled}database images lie "
        f"beyond {pairs.config.negative_radius_m:g} m, but {wanted} {remedy}."
    )
