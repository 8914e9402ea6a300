"""One refresh of mining on cached features: ours, against a flat index built for every query.

The reference implementations choose the nearest positive and the hardest negatives of each query by building a FAISS
index of its allowed candidates and searching it. Both get the same features and the same candidates; their answers are
compared: ``python benchmarks/mining.py``. Prints seconds, their ratio, and how many answers are equal. With the full
database as candidates the reference answers some of the queries only, and its time is scaled up to all.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from torch.nn.functional import normalize

from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.pairs import GeoPairs, PairConfig, PairList
from vgssl_core.inference.threads import set_threads
from vgssl_core.places import UNKNOWN_STAMP_NS, Places, PlaceSet, within_radius

THREADS = 1
DATABASE, QUERIES, DIMENSION, NEGATIVES = 10_000, 1_000, 1024, 10
ROUNDS = 5
#: Queries that the reference answers.
ASKED = {"partial": QUERIES, "full": QUERIES // 10}


def places(positions_m: np.ndarray) -> Places:
    unknown, stamps = np.full(len(positions_m), np.nan), np.full(len(positions_m), UNKNOWN_STAMP_NS)
    return Places((Path("image"),) * len(positions_m), positions_m, unknown, unknown, unknown, unknown, stamps)


def town(database: int, queries: int, rng: np.random.Generator) -> PlaceSet:
    """Images spread so that about a dozen lie within 25 m of a place, and queries within 5 m of some of them."""
    positions = rng.uniform(0, 13.0 * np.sqrt(database), (database, 2))
    near = positions[rng.integers(database, size=queries)] + rng.uniform(-5, 5, (queries, 2))
    return PlaceSet("town", Path("."), places(positions), places(near))


def by_index_per_query(
    pairs: GeoPairs, queries: np.ndarray, candidates: np.ndarray, query_rows: np.ndarray, database_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest positive and hardest negatives of each query, with two indices for each."""
    near = within_radius(pairs.queries.planar_m, pairs.database.planar_m, pairs.config.negative_radius_m)
    positives, negatives = [], []
    for query in queries:
        own = pairs.positives(query)
        too_near = near.indices[near.indptr[query] : near.indptr[query + 1]]
        allowed = np.setdiff1d(candidates, too_near, assume_unique=True)
        for chosen, count, answers in ((own, 1, positives), (allowed, NEGATIVES, negatives)):
            index = faiss.IndexFlatL2(DIMENSION)
            index.add(database_rows[chosen])
            answers.append(chosen[index.search(query_rows[query : query + 1], count)[1][0]])
    return np.array(positives), np.array(negatives)


def measure(mining: str, features: tuple[torch.Tensor, torch.Tensor], chosen: PlaceSet) -> None:
    """Time both ways in one process and print."""
    pairs = GeoPairs(chosen, PairConfig(mining=mining))
    query_rows, database_rows = features
    miner = Miner(pairs, 1, NEGATIVES, lambda i: query_rows[i], lambda i: database_rows[i])
    candidates = miner._candidates(np.random.default_rng(0))

    def refresh() -> tuple[float, PairList]:
        begin = time.perf_counter()
        made = miner.make_pairs(pairs.usable, np.random.default_rng(0))
        return time.perf_counter() - begin, made

    refresh()  # the first one allocates
    ours_s, made = zip(*(refresh() for _ in range(ROUNDS)), strict=True)
    asked = pairs.usable[: ASKED[mining]]
    begin = time.perf_counter()
    positives, negatives = by_index_per_query(pairs, asked, candidates, query_rows.numpy(), database_rows.numpy())
    reference_s = (time.perf_counter() - begin) * len(pairs) / len(asked)
    best_s = statistics.median(ours_s)
    equal = [
        (theirs == own[: len(asked)]).mean()
        for theirs, own in ((positives, made[0].positives), (negatives, made[0].negatives))
    ]
    print(f"{mining} mining: {len(candidates)} candidates, {len(pairs)} queries, {NEGATIVES} negatives")
    print(f"  an index per query  {reference_s:8.3f} s (of {len(asked)} queries, scaled to all)")
    print(f"  ours                {best_s:8.3f} s (median of {ROUNDS}, {min(ours_s):.3f} to {max(ours_s):.3f})")
    print(f"  ratio               {reference_s / best_s:8.1f}")
    print(f"  equal answers       {equal[0]:.4%} of positives, {equal[1]:.4%} of negatives")


def main() -> None:
    """Measure partial and full mining."""
    torch.set_num_threads(set_threads(THREADS))
    chosen = town(DATABASE, QUERIES, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    queries, database = (normalize(torch.randn(n, DIMENSION, generator=generator)) for n in (QUERIES, DATABASE))
    print(f"database of {DATABASE} images, {DIMENSION} dimensions, float32, {torch.get_num_threads()} thread")
    for mining in ("partial", "full"):
        measure(mining, (queries, database), chosen)


if __name__ == "__main__":
    main()
