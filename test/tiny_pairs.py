"""Place sets and descriptors for tests of pairs, without files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.pairs import GeoPairs
from vgssl_core.places import UNKNOWN_STAMP_NS, Places, PlaceSet


def places(
    positions_m: NDArray[np.float64], heading_deg: NDArray | None = None, stamp_s: NDArray | None = None
) -> Places:
    """Local places with names only."""
    count = len(positions_m)
    unknown = np.full(count, np.nan)
    stamps = np.full(count, UNKNOWN_STAMP_NS) if stamp_s is None else np.asarray(stamp_s, float) * 1e9
    heading = unknown if heading_deg is None else np.asarray(heading_deg, float)
    paths = tuple(Path(f"{i}.jpg") for i in range(count))
    return Places(paths, np.asarray(positions_m, float), unknown, unknown, unknown, heading, stamps.astype(np.int64))


def place_set(database_m: NDArray[np.float64], queries_m: NDArray[np.float64] | None = None) -> PlaceSet:
    """A set at the given (n, 2) positions; of one drive where no queries are given."""
    queries = np.zeros((0, 2)) if queries_m is None else queries_m
    return PlaceSet("set", Path("."), places(database_m), places(queries))


def scattered(seed: int, count: int = 40, side_m: float = 120.0) -> PlaceSet:
    """Images all over a square, and queries near half of them."""
    rng = np.random.default_rng(seed)
    database = rng.uniform(0, side_m, (count, 2))
    return place_set(database, database[: count // 2] + rng.uniform(-12, 12, (count // 2, 2)))


def unit_rows(count: int, seed: int, dimension: int = 6) -> torch.Tensor:
    """Random descriptors."""
    return normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)), dim=1)


class Network:
    """Stands for a network: random descriptors of queries and database, and a record of what was embedded."""

    def __init__(self, pairs: GeoPairs, dimension: int = 6, seed: int = 0) -> None:
        self.database = unit_rows(len(pairs.database), seed, dimension)
        self.queries = self.database if pairs.own_streets else unit_rows(len(pairs.queries), seed + 1, dimension)
        self.calls: list[tuple[str, NDArray[np.int64]]] = []

    def embed_queries(self, indices: NDArray[np.int64]) -> torch.Tensor:
        self.calls.append(("queries", indices))
        return self.queries[indices]

    def embed_database(self, indices: NDArray[np.int64]) -> torch.Tensor:
        self.calls.append(("database", indices))
        return self.database[indices]

    def miner(self, pairs: GeoPairs, positives: int = 1, negatives: int = 0) -> Miner:
        return Miner(pairs, positives, negatives, self.embed_queries, self.embed_database)

    def embedded(self) -> list[tuple[str, int]]:
        """Store and index of every image that was embedded since the last call."""
        made = [(store, int(index)) for store, indices in self.calls for index in indices]
        self.calls.clear()
        return made


def metres(first: Places, first_indices: NDArray, second: Places, second_indices: NDArray) -> NDArray[np.float64]:
    """Distances; indices broadcast."""
    return np.linalg.norm(first.planar_m[first_indices] - second.planar_m[second_indices], axis=-1)
