"""Simulated descriptors and positions of maps of any size: `trajectories-1`, and `uniform` beside it.

`trajectories-1` draws streets of 500 images, 2 m apart, each driven twice. A descriptor is a common mean plus a
residual; along a street the residual is an autoregressive process, and the second drive sees the same places in another
condition. Its parameters were fitted to real images: the 256-dimensional descriptors of a small network that
`vgssl train` trained with SimCLR on the synthetic town, and HOG's, on Nordland (1800 images, for the spectrum) and on
KITTI odometry 00 (651 map images and 225 queries of a second pass, for all else):

- the eigenvalues of the covariance fall as i^-1.27 (network; HOG 0.95; least squares in log-log over i = 1..128);
- the mean holds 0.88 of a descriptor's squared length (network; HOG 0.78);
- the correlation of residuals at 1, 2, 5 and 10 m is 0.71, 0.65, 0.41, 0.26 (network), near 0.75 exp(-d / 9 m);
- a query's residual correlates by 0.61 with that of its best match (network).

The axes are turned by a random rotation: no dimension of a real descriptor is special. `uniform` is uniform on the unit
sphere, which no network makes, and has the same queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STREET_IMAGES, SPACING_M, DRIVES = 500, 2.0, 2
IMAGES_PER_HECTARE = 40.0
SPECTRUM_EXPONENT, MEAN_SHARE = 1.27, 0.88
CORRELATION_AT_0, CORRELATION_LENGTH_M = 0.75, 9.0
QUERY_CORRELATION = 0.61


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
        kind: ``trajectories-1`` or ``uniform``.
        count: N.
        dimension: D.
        queries: Q.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    planar_m = _streets(count, rng)
    deviation = np.sqrt(np.arange(1, dimension + 1, dtype=np.float32) ** -SPECTRUM_EXPONENT)
    deviation *= np.sqrt((1 - MEAN_SHARE) / (deviation**2).sum())
    rotation = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    mean = np.sqrt(MEAN_SHARE) * rotation[:, rng.integers(dimension)]
    if kind == "uniform":
        deviation, mean = np.full(dimension, dimension**-0.5, np.float32), np.zeros(dimension, np.float32)
    elif kind != "trajectories-1":
        raise ValueError(f"There is no kind {kind!r}: take trajectories-1 or uniform.")
    residuals = _normal((count, dimension), rng) if kind == "uniform" else _along_streets(count, dimension, rng)
    places = rng.integers(count, size=queries)
    seen = QUERY_CORRELATION * residuals[places] + np.sqrt(1 - QUERY_CORRELATION**2) * _normal(
        (queries, dimension), rng
    )
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


def _along_streets(count: int, dimension: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, D) residuals of unit variance, in the order of `_streets`; all streets advance together."""
    streets = -(-count // (STREET_IMAGES * DRIVES))
    residuals = np.empty((streets, DRIVES, STREET_IMAGES, dimension), np.float32)
    keep = np.float32(np.exp(-SPACING_M / CORRELATION_LENGTH_M))
    place = _normal((streets, 1, dimension), rng)
    for step in range(STREET_IMAGES):
        place = keep * place + np.sqrt(1 - keep**2) * _normal(place.shape, rng)
        own = _normal((streets, DRIVES, dimension), rng)
        residuals[:, :, step] = np.sqrt(CORRELATION_AT_0) * place + np.sqrt(1 - CORRELATION_AT_0) * own
    return residuals.reshape(-1, dimension)[:count]


def _descriptors(
    residuals: NDArray[np.float32], deviation: NDArray[np.float32], rotation: NDArray[np.float32], mean: NDArray
) -> NDArray[np.float32]:
    rows = (residuals * deviation) @ rotation.T
    rows += mean
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32, copy=False)
