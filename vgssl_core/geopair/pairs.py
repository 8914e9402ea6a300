"""Which images make a pair: queries with a database image of the same place, and what is surely another place."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.places import Places, PlaceSet, within_radius

logger = logging.getLogger(__name__)

POSITIVE_CHOICES = ("nearest", "random")


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made; the defaults are the papers'.

    Attributes:
        positive_radius_m: A positive lies within this distance of its query.
        negative_radius_m: A negative lies beyond this distance of its query.
        positive: Which of the positives is taken: the ``nearest`` in descriptor space, or a ``random`` one.
        mining_database: Database images, drawn anew at each refresh, among which negatives are sought.
        refresh_queries: Queries between two refreshes of nearest positives and hard negatives.
    """

    positive_radius_m: float = 10.0
    negative_radius_m: float = 25.0
    positive: str = "nearest"
    mining_database: int = 1000
    refresh_queries: int = 1000


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

    Attributes:
        database, queries: The images.
        config: How pairs are made.
        usable: (U,) int64 queries that have a positive.
        dropped: Number of queries without one.
    """

    def __init__(self, places: PlaceSet, config: PairConfig) -> None:
        _check(config)
        if not len(places.queries):
            raise DataError(
                f"{places.name} has no queries (folder images/…/queries): pairs need images of the same places "
                "taken at another time."
            )
        self.database: Places = places.database
        self.queries: Places = places.queries
        self.config = config
        near = within_radius(self.queries.planar_m, self.database.planar_m, config.positive_radius_m)
        self._starts, self._near = near.indptr, near.indices.astype(np.int64)
        self.usable = np.flatnonzero(np.diff(self._starts)).astype(np.int64)
        self.dropped = len(self.queries) - len(self.usable)
        if not len(self.usable):
            raise DataError(
                f"{places.name}: none of the {len(self.queries)} queries has a database image within "
                f"{config.positive_radius_m:g} m: check that both use the same coordinates, or raise "
                "--pairs.positive_radius_m."
            )
        if self.dropped:
            logger.info(
                "%d of %d queries have no database image within %g m and are left out.",
                self.dropped,
                len(self.queries),
                config.positive_radius_m,
            )

    def __len__(self) -> int:
        """Number of queries that make a pair."""
        return len(self.usable)

    def positives(self, query: int) -> NDArray[np.int64]:
        """Database images within the positive radius of a query, ascending."""
        return self._near[self._starts[query] : self._starts[query + 1]]

    def epoch_order(self, seed: int, epoch: int, count: int | None) -> NDArray[np.int64]:
        """Queries of one epoch: a fresh permutation, at most ``count`` of it."""
        return generator(Stream.ORDER, seed, epoch).permutation(self.usable)[:count]

    def random_positives(self, queries: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """One positive of each query, each as likely."""
        starts = self._starts[queries]
        counts = self._starts[queries + 1] - starts
        return self._near[starts + (rng.random(len(queries)) * counts).astype(np.int64)]


def _check(config: PairConfig) -> None:
    if config.positive not in POSITIVE_CHOICES:
        raise ConfigError(f"pairs.positive is {config.positive}: choose one of {', '.join(POSITIVE_CHOICES)}.")
    if not 0 < config.positive_radius_m <= config.negative_radius_m:
        raise ConfigError(
            f"pairs.positive_radius_m is {config.positive_radius_m:g} and pairs.negative_radius_m "
            f"{config.negative_radius_m:g}: the first must be above 0 and not above the second."
        )
    if config.mining_database < 1 or config.refresh_queries < 1:
        raise ConfigError("pairs.mining_database and pairs.refresh_queries must be at least 1.")
