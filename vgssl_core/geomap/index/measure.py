"""How good an index is on its own map: recall against exact search, and time of a query."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.index.entry import IndexQuality
from vgssl_core.geomap.index.search import IndexedSearch

#: Correlation of a query's deviation from the mean with that of the image it was made of. Between images of a second
#: drive and their best matches it was 0.6 (KITTI odometry 00, see `benchmarks/simulated_map.py`).
QUERY_CORRELATION = 0.6
QUERIES = 1000
_POOL = 4096
_WANTED = 10


def simulated_queries(blocks: Blocks, count: int = QUERIES, seed: int = 0) -> NDArray[np.float32]:
    """Queries as a robot may ask them: images of the map, perturbed in the way in which its images differ.

    With m the mean of a pool of images of the map, C their covariance, and x a random image of the map,
    ``q = m + 0.6 (x - m) + 0.8 g``, ``g ~ N(0, C)``, made of unit length. No query is in the map.

    Args:
        blocks: The map's descriptors.
        count: Q.
        seed: Of everything.

    Returns:
        (Q, D) float32 unit rows.
    """
    rng = np.random.default_rng(seed)
    pool = blocks.take(np.sort(rng.choice(len(blocks), min(_POOL, len(blocks)), replace=False)))
    mean = pool.mean(axis=0)
    pool -= mean
    chosen = blocks.take(rng.integers(len(blocks), size=count)) - mean
    weights = rng.standard_normal((count, len(pool)), np.float32) / np.float32(np.sqrt(len(pool)))
    queries = mean + QUERY_CORRELATION * chosen + np.sqrt(1 - QUERY_CORRELATION**2) * (weights @ pool)
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def recall(search: IndexedSearch, queries: NDArray[np.float32], truth: NDArray[np.float32]) -> tuple[float, float]:
    """Recall@1 and @10 against exact search; among images at equal distances any is right.

    Args:
        search: The index.
        queries: (Q, D).
        truth: (Q, k) distances of the nearest images by exact search, k = 10 or the size of a smaller map.
    """
    distances = search.search(queries, truth.shape[1])[1]
    return float((distances[:, 0] <= truth[:, 0]).mean()), float((distances <= truth[:, -1:]).mean())


def true_distances(blocks: Blocks, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, 10) distances of the nearest images by exact search; fewer columns where the map is smaller."""
    return ExactSearch(blocks).search(queries, min(_WANTED, len(blocks)))[1]


def latency_ms(search: ExactSearch | IndexedSearch, queries: NDArray[np.float32], k: int) -> tuple[float, float]:
    """Median and 99th percentile of the time of one query, after every query was asked once to warm the caches."""
    search.search(queries, k)
    times = []
    for query in queries:
        begin = time.perf_counter()
        search.search(query[None], k)
        times.append((time.perf_counter() - begin) * 1e3)
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def measure(
    search: IndexedSearch, path: Path, queries: NDArray[np.float32], found: tuple[float, float]
) -> IndexQuality:
    """Everything that the manifest says about an index, with its `recall`; latency is of a search for 10 images."""
    p50_ms, p99_ms = latency_ms(search, queries, min(_WANTED, len(search)))
    return IndexQuality(
        *(round(value, 4) for value in found),
        round(p50_ms, 4),
        round(p99_ms, 4),
        round(path.stat().st_size / len(search), 1),
    )
