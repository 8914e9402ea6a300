"""Which images make a pair: images of the same place, and what is surely another place."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from vgssl_core.errors import DataError
from vgssl_core.geopair.own_streets import own_positives
from vgssl_core.geopair.pair_config import PairConfig
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.places import Places, PlaceSet, within_radius

__all__ = ["GeoPairs", "PairConfig", "PairList"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairList:
    """P pairs by index, in the order of training.

    Attributes:
        queries: (P,) int64 into the set's queries; into its database where ``identical``.
        positives: (P, K) int64 into its database, K at least 1.
        negatives: (P, M) int64 into its database.
        identical: (P,) bool, the first paper's database negatives: query and positive are one database image.
    """

    queries: NDArray[np.int64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    identical: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.queries)


class GeoPairs:
    """The pairs that a place set offers.

    A drive over one's own streets has no queries: each of its images is one, with positives by `own_positives`.

    Attributes:
        database, queries: The images; the same object where the database alone is trained on.
        config: How pairs are made.
        usable: (U,) int64 queries that have a positive.
        dropped: Number of queries without one.
    """

    def __init__(self, places: PlaceSet, config: PairConfig) -> None:
        """Find all positives.

        Raises:
            ConfigError: A setting that cannot work.
            DataError: No query has a positive.
        """
        config.check()
        self.database: Places = places.database
        alone = config.own_streets or not len(places.queries) or places.queries is places.database
        self.queries: Places = places.database if alone else places.queries
        self.config = config
        if self.own_streets:
            self._near = own_positives(self.database, config)
        else:
            self._near = within_radius(self.queries.planar_m, self.database.planar_m, config.positive_radius_m)
        self.usable = np.flatnonzero(self._near.getnnz(axis=1)).astype(np.int64)
        self.dropped = len(self.queries) - len(self.usable)
        self._centre_m = self.database.planar_m.mean(axis=0)
        what, other = ("images", "other") if self.own_streets else ("queries", "database")
        if not len(self.usable):
            queries = "" if len(places.queries) else "it has no queries, and "
            raise DataError(
                f"{places.name}: {queries}none of the {len(self.queries)} {what} has any {other} image within "
                f"{config.positive_radius_m:g} m: check that all use the same coordinates, or raise "
                "--pairs.positive_radius_m."
            )
        if self.dropped:
            logger.info(
                "%d of %d %s have no %s image within %g m and are left out.",
                self.dropped,
                len(self.queries),
                what,
                other,
                config.positive_radius_m,
            )

    def __len__(self) -> int:
        """Number of queries that make a pair."""
        return len(self.usable)

    @property
    def own_streets(self) -> bool:
        """Whether the database alone is trained on: its images are each other's positives."""
        return self.queries is self.database

    def near(self, queries: NDArray[np.int64]) -> csr_matrix:
        """(P, N) boolean CSR matrix, sorted: the positives of each query."""
        return self._near[queries]

    def positives(self, query: int) -> NDArray[np.int64]:
        """The positives of one query, ascending."""
        return self._near.indices[self._near.indptr[query] : self._near.indptr[query + 1]].astype(np.int64)

    def epoch_order(self, seed: int, epoch: int, count: int | None) -> NDArray[np.int64]:
        """Queries of one epoch: a fresh permutation, at most ``count`` of it."""
        return generator(Stream.ORDER, seed, epoch).permutation(self.usable)[:count]

    def rows_of(self, queries: int) -> int:
        """How many pairs so many queries make, with the database negatives of ``negative_ratio``."""
        return queries + round(self.config.negative_ratio * queries)

    def identical_images(self, queries: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Database images for the identical pairs that go with so many queries; each once, as far as they suffice.

        Raises:
            DataError: Every database image is somebody's positive.
        """
        wanted = self.rows_of(queries) - queries
        if not wanted:
            return np.zeros(0, np.int64)
        free = np.ones(len(self.database), bool)
        free[self._near.indices] = False
        if self.own_streets:
            free[self.usable] = False
        lonely = np.flatnonzero(free)
        if not len(lonely):
            raise DataError(
                f"pairs.negative_ratio is {self.config.negative_ratio:g}, but each of the {len(free)} database images "
                "is a positive of some query: set it to 0, or lower --pairs.positive_radius_m."
            )
        return np.resize(rng.permutation(lonely), wanted)

    def batch_positions_m(
        self, pairs: PairList, rows: NDArray[np.integer] | slice
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the images of a batch were taken, from the middle of the set, so that no device loses digits.

        Args:
            pairs: All pairs.
            rows: Which of them are the batch.

        Returns:
            (N, 2) of the queries and (N, M, 2) of the negatives, metres east and north.
        """
        queries, identical = pairs.queries[rows], pairs.identical[rows]
        positions = np.empty((len(queries), 2))
        positions[identical] = self.database.planar_m[queries[identical]]
        positions[~identical] = self.queries.planar_m[queries[~identical]]
        return positions - self._centre_m, self.database.planar_m[pairs.negatives[rows]] - self._centre_m
