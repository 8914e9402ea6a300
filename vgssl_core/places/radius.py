"""Which database images lie within a radius of each query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree


def within_radius(queries_m: NDArray[np.float64], database_m: NDArray[np.float64], radius_m: float) -> csr_matrix:
    """Neighbours of every query, in one pass of two k-d trees.

    Args:
        queries_m: (Q, 2) or (Q, 3) positions in metres.
        database_m: (N, 2) or (N, 3) positions in the same frame.
        radius_m: Radius, inclusive.

    Returns:
        (Q, N) boolean CSR matrix with sorted indices, true where the distance is at most ``radius_m``; row q's
        neighbours are ``indices[indptr[q]:indptr[q + 1]]``.
    """
    shape = (len(queries_m), len(database_m))
    if 0 in shape:
        return csr_matrix(shape, dtype=bool)
    pairs = cKDTree(queries_m).sparse_distance_matrix(cKDTree(database_m), radius_m, output_type="ndarray")
    matrix = csr_matrix((np.ones(len(pairs), bool), (pairs["i"], pairs["j"])), shape=shape)
    matrix.sort_indices()
    return matrix
