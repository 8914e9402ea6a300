"""Simulated descriptors and positions of maps of any size: two kinds along trajectories, and `uniform` beside them.

They draw streets of 500 images, 2 m apart, each driven twice. A descriptor is a common mean plus a residual; along a
street the residual is an autoregressive process, and the second drive sees the same places in another condition. Two
networks of 256 dimensions, trained with `vgssl train` on the synthetic town, gave the parameters (`KINDS`) on real
images, KITTI odometry 00 (651 map images, queries of a second pass) and for the first spectrum 1800 of Nordland:

- `trajectories-1`: SimCLR, hardly trained. The eigenvalues of the covariance fall as i^-1.27 (HOG: 0.95; least squares
  in log-log over i = 1..128), the mean holds 0.88 of a descriptor's squared length (HOG 0.78), residuals correlate by
  0.71, 0.65, 0.41, 0.26 at 1, 2, 5 and 10 m, and a query's residual by 0.61 with that of its best match.
- `trajectories-2`: MoCo v2, trained (79 % Recall@1 in its town). Chosen so that as many simulated images have its
  statistics on KITTI, here in brackets: 0.962 (0.973) of the variance in 32 dimensions and 0.987 (0.989) in 64, 0.55
  (0.55) in the mean, correlation at 2 m 0.78 (0.79), and of a query with its best match 0.79 (0.78).

The axes are turned by a random rotation: no dimension of a real descriptor is special. `uniform` is uniform on the unit
sphere, which no network makes, and has queries that correlate by 0.61.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STREET_IMAGES, SPACING_M, DRIVES = 500, 2.0, 2
IMAGES_PER_HECTARE = 40.0


@dataclass(frozen=True)
class Kind:
    """Statistics of a network's descriptors.

    Attributes:
        exponent: Eigenvalue i of the covariance goes with i to the power of minus this.
        mean_share: Of a descriptor's squared length.
        correlation: Of residuals of two drives at one place.
        length_m: Over which the correlation falls to 1 / e.
        query_correlation: Of a query's residual with that of an image of its place.
    """

    exponent: float
    mean_share: float
    correlation: float
    length_m: float
    query_correlation: float


KINDS = {"trajectories-1": Kind(1.27, 0.88, 0.75, 9.0, 0.61), "trajectories-2": Kind(1.7, 0.5, 0.9, 11.0, 0.5)}
UNIFORM = "uniform"
_UNIFORM_QUERY_CORRELATION = 0.61


@dataclass(frozen=True)
class Simulated:
    """A simulated map and queries.

    Attributes:
        descriptors: (N, D) float32 unit rows.
        planar_m: (N, 2) float64, where the images are, in a local plane.
        queries: (Q, D) float32 unit rows.
        query_planar_m: (Q, 2) float64, where the queries were taken.
    """

    descriptors: NDArray[np.float32]
    planar_m: NDArray[np.float64]
    queries: NDArray[np.float32]
    query_planar_m: NDArray[np.float64]


def simulate(kind: str, count: int, dimension: int, queries: int, seed: int = 0) -> Simulated:
    """Draw a map of ``count`` images and queries taken at some of them.

    Args:
        kind: One of `KINDS`, or `UNIFORM`.
        count: N.
        dimension: D.
        queries: Q.
        seed: Of everything.
    """
    if kind not in (*KINDS, UNIFORM):
        raise ValueError(f"There is no kind {kind!r}: take {', '.join(KINDS)} or {UNIFORM}.")
    rng = np.random.default_rng(seed)
    planar_m = _streets(count, rng)
    law = KINDS.get(kind)
    exponent, mean_share = (0.0, 0.0) if law is None else (law.exponent, law.mean_share)
    deviation = np.sqrt(np.arange(1, dimension + 1, dtype=np.float32) ** -exponent)
    deviation *= np.sqrt((1 - mean_share) / (deviation**2).sum())
    rotation = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    mean = np.sqrt(mean_share) * rotation[:, rng.integers(dimension)]
    residuals = _normal((count, dimension), rng) if law is None else _along_streets(count, dimension, law, rng)
    correlation = _UNIFORM_QUERY_CORRELATION if law is None else law.query_correlation
    places = rng.integers(count, size=queries)
    seen = correlation * residuals[places] + np.sqrt(1 - correlation**2) * _normal((queries, dimension), rng)
    return Simulated(
        _descriptors(residuals, deviation, rotation, mean),
        planar_m,
        _descriptors(seen, deviation, rotation, mean),
        planar_m[places] + rng.normal(0, 1, (queries, 2)),
    )


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


def _streets(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(N, 2) positions: straight streets, anywhere in a square with 40 images per hectare, each driven twice."""
    streets = -(-count // (STREET_IMAGES * DRIVES))
    side_m = np.sqrt(count / IMAGES_PER_HECTARE) * 100.0
    heading = rng.uniform(0, 2 * np.pi, (streets, 1, 1))
    begin = rng.uniform(0, side_m, (streets, 1, 1, 2))
    along = np.arange(STREET_IMAGES)[None, None] * SPACING_M * np.ones((1, DRIVES, 1))
    line = np.stack([along * np.cos(heading), along * np.sin(heading)], axis=-1)
    return ((begin + line + rng.normal(0, 0.5, line.shape)) % side_m).reshape(-1, 2)[:count]


def _along_streets(count: int, dimension: int, law: Kind, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, D) residuals of unit variance, in the order of `_streets`; all streets advance together."""
    streets = -(-count // (STREET_IMAGES * DRIVES))
    residuals = np.empty((streets, DRIVES, STREET_IMAGES, dimension), np.float32)
    keep = np.float32(np.exp(-SPACING_M / law.length_m))
    place = _normal((streets, 1, dimension), rng)
    for step in range(STREET_IMAGES):
        place = keep * place + np.sqrt(1 - keep**2) * _normal(place.shape, rng)
        own = _normal((streets, DRIVES, dimension), rng)
        residuals[:, :, step] = np.sqrt(law.correlation) * place + np.sqrt(1 - law.correlation) * own
    return residuals.reshape(-1, dimension)[:count]


def _descriptors(
    residuals: NDArray[np.float32], deviation: NDArray[np.float32], rotation: NDArray[np.float32], mean: NDArray
) -> NDArray[np.float32]:
    rows = (residuals * deviation) @ rotation.T
    rows += mean
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32, copy=False)
