"""Recall@N of single-frame retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from vgssl_core.errors import DataError


def recall_at(
    neighbours: NDArray[np.integer], positives: csr_matrix, ns: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Share of queries with a positive among their N nearest database images.

    Args:
        neighbours: (Q, k) database indices of each query, nearest first, k >= max(ns) or the whole database.
        positives: (Q, D) boolean matrix, true where the database image lies within the positive radius.
        ns: The N of Recall@N.

    Returns:
        N → percent of the queries that have at least one positive.

    Raises:
        DataError: No query has a positive.
    """
    answerable = positives.getnnz(axis=1) > 0
    if not answerable.any():
        raise DataError(
            "No database image lies within the positive radius of any query: check that both use the same "
            "coordinates, or raise the radius."
        )
    hits = first_hit(neighbours, positives)[answerable]
    return {n: 100.0 * float(np.mean(hits < n)) for n in ns}


def check_overlap(queries_m: NDArray[np.float64], database_m: NDArray[np.float64], radius_m: float) -> None:
    """Refuse queries of which none has a database image within the radius.

    Args:
        queries_m: (Q, 2) positions.
        database_m: (N, 2) positions in the same plane.
        radius_m: The positive radius.

    Raises:
        DataError: Names the smallest distance.
    """
    nearest = float(cKDTree(database_m).query(queries_m)[0].min())
    if nearest > radius_m:
        raise DataError(
            f"No database image lies within the positive radius of {radius_m:g} m of any query; the nearest is "
            f"{nearest:.0f} m away. Check that both are of the same place and use the same coordinates."
        )


def first_hit(neighbours: NDArray[np.integer], positives: csr_matrix) -> NDArray[np.int64]:
    """(Q,) rank (from 0) of the first positive among the neighbours; k where there is none."""
    rows = np.repeat(np.arange(neighbours.shape[0]), neighbours.shape[1])
    correct = np.asarray(positives[rows, neighbours.ravel()]).reshape(neighbours.shape).astype(bool)
    return np.where(correct.any(axis=1), correct.argmax(axis=1), neighbours.shape[1])
