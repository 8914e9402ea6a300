"""A belief as a sum of Gaussians over places and one share that is lost: log weights, merging, pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vgssl_core.localization.hypotheses import UNKNOWN_YAW_VARIANCE
from vgssl_core.localization.motion import wrapped

Floats = NDArray[np.float64]
#: What a component knows: x, y in metres, yaw in radians, velocity in the map's frame in m/s, z in metres.
X, Y, YAW, VX, VY, Z = range(6)
STATES = 6
#: Of an altitude of which nothing is known.
UNKNOWN_Z_VARIANCE = 100.0**2
#: Least and largest variance of every entry of the state: beyond them rounding would take over.
_LEAST, _MOST = 1e-6, 1e12
#: A component lighter than this share of everything is dropped.
_LIGHT = math.log(1e-7)
_INVISIBLE = math.log(1e-6)
#: Squared distance, in standard deviations of either, up to which two components are taken for one.
_MERGED_AT = 2.0
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclass(frozen=True)
class Mixture:
    """M Gaussians and the share that is at none of them; all shares together are 1.

    Attributes:
        log_weight: (M,) logarithms of the shares.
        mean: (M, 6) states.
        covariance: (M, 6, 6), symmetric positive definite.
        log_lost: Logarithm of the share that could be anywhere, in the map or beside it.
    """

    log_weight: Floats
    mean: Floats
    covariance: Floats
    log_lost: float

    @classmethod
    def lost(cls) -> Mixture:
        """Nothing is known."""
        return cls(np.zeros(0), np.zeros((0, STATES)), np.zeros((0, STATES, STATES)), 0.0)

    def __len__(self) -> int:
        return len(self.log_weight)

    @property
    def weight(self) -> Floats:
        """(M,) shares."""
        return np.exp(self.log_weight)

    def joined(self, other: Mixture) -> Mixture:
        """The components of both beside this one's lost share; not normalised."""
        return Mixture(
            np.concatenate([self.log_weight, other.log_weight]),
            np.concatenate([self.mean, other.mean]),
            np.concatenate([self.covariance, other.covariance]),
            self.log_lost,
        )

    def only(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Mixture:
        """Some of the components beside the same lost share; not normalised."""
        return Mixture(self.log_weight[kept], self.mean[kept], self.covariance[kept], self.log_lost)

    def normalised(self) -> Mixture:
        """The same with shares that sum to 1."""
        total = log_sum(np.append(self.log_weight, self.log_lost))
        if not math.isfinite(total):
            return Mixture.lost()
        return Mixture(self.log_weight - total, self.mean, self.covariance, self.log_lost - total)

    def reduced(self, limit: int, max_sigma_m: float) -> Mixture:
        """At most so many components: those that say the same are merged, hopeless ones go to the lost share.

        Args:
            limit: Components to keep.
            max_sigma_m: One whose position is known less well is dropped.
        """
        variance = self.covariance[:, X, X] + self.covariance[:, Y, Y]
        sane = np.isfinite(self.mean).all(axis=1) & np.isfinite(self.covariance).all(axis=(1, 2))
        kept = np.flatnonzero(sane & (self.log_weight > _LIGHT) & (variance <= 2 * max_sigma_m**2))
        # Heaviest first; equal ones in the order of their age, so that nothing depends on chance.
        kept = kept[np.argsort(-self.log_weight[kept], kind="stable")]
        merged = _merged(self.only(kept[: 2 * limit]))
        merged = merged.only(np.argsort(-merged.log_weight, kind="stable")[:limit])
        left = max(0.0, 1.0 - float(np.exp(merged.log_weight).sum()))
        return Mixture(merged.log_weight, merged.mean, merged.covariance, math.log(max(left, 1e-12))).normalised()

    def within(self, centres_m: Floats, radius_m: float) -> Floats:
        """(C,) probability that the true position lies within a radius of each of (C, 2) centres."""
        # What is this light changes nothing that anyone sees.
        counts = np.flatnonzero(self.log_weight > _INVISIBLE)
        offset = self.mean[None, counts, :2] - centres_m[:, None]
        variance = self.covariance[counts, X, X] + self.covariance[counts, Y, Y]
        near = (offset**2).sum(axis=2) <= (radius_m + 6.0 * np.sqrt(variance)) ** 2
        inside = np.zeros(near.shape)
        rows = counts[np.nonzero(near)[1]]
        inside[near] = probability_in_circle(offset[near], self.covariance[rows, :2, :2], radius_m)
        return np.clip(inside @ self.weight[counts], 0.0, 1.0)

    def groups(self, radius_m: float, limit: int) -> list[NDArray[np.int64]]:
        """Components that tell of one place: around the heaviest that is free, again and again.

        Args:
            radius_m: Reach of a seed.
            limit: At most this many groups.
        """
        order = np.argsort(-self.log_weight, kind="stable")
        groups = []
        while len(order) and len(groups) < limit:
            near = np.linalg.norm(self.mean[order, :2] - self.mean[order[0], :2], axis=1) <= radius_m
            groups.append(order[near])
            order = order[~near]
        return groups

    def moments(self, members: NDArray[np.int64]) -> tuple[float, Floats, Floats]:
        """Logarithm of the share, mean and covariance of some components together."""
        log_weight = log_sum(self.log_weight[members])
        share = np.exp(self.log_weight[members] - log_weight)
        offsets = self.mean[members] - self.mean[members[0]]
        # Angles are averaged around the first one, where they do not wrap.
        offsets[:, YAW] = wrapped(offsets[:, YAW])
        middle = share @ offsets
        mean = self.mean[members[0]] + middle
        mean[YAW] = wrapped(mean[YAW])
        spread = offsets - middle
        covariance = np.einsum("m,mab->ab", share, self.covariance[members])
        covariance += (spread * share[:, None]).T @ spread
        return log_weight, mean, 0.5 * (covariance + covariance.T)


def log_sum(logarithms: Floats) -> float:
    """Logarithm of the sum of what (n,) logarithms stand for; minus infinity for none."""
    return float(np.logaddexp.reduce(logarithms, initial=-np.inf))


def bounded(covariance: Floats) -> Floats:
    """(M, 6, 6) covariances made symmetric, neither too small nor too large for double precision."""
    covariance = 0.5 * (covariance + np.swapaxes(covariance, -1, -2))
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    most = np.full(STATES, _MOST)
    most[YAW] = UNKNOWN_YAW_VARIANCE
    # Scaling rows and columns alike keeps a matrix positive definite.
    scale = np.sqrt(np.minimum(1.0, most / np.maximum(variance, _LEAST)))
    covariance = covariance * scale[..., :, None] * scale[..., None, :]
    return covariance + _LEAST * np.eye(STATES)


def _merged(mixture: Mixture) -> Mixture:
    """Components, heaviest first, with each one's neighbours that cannot be told from it taken into it."""
    if len(mixture) < 2:
        return mixture
    close = _close(mixture)
    free = np.ones(len(mixture), bool)
    chosen, weights, means, covariances = [], [], [], []
    for seed in np.flatnonzero(close.sum(axis=1) > 1):
        members = np.flatnonzero(close[seed] & free)
        if not free[seed] or len(members) < 2:
            continue
        free[members] = False
        log_weight, mean, covariance = mixture.moments(members)
        chosen.append(seed), weights.append(log_weight), means.append(mean), covariances.append(covariance)
    if not chosen:
        return mixture
    rest = mixture.only(free)
    return Mixture(np.array(weights), np.array(means), np.array(covariances), mixture.log_lost).joined(rest)


def _close(mixture: Mixture) -> NDArray[np.bool_]:
    """(M, M) whether two components are nearer in position and heading than either knows."""
    offset = mixture.mean[:, None, :3] - mixture.mean[None, :, :3]
    offset[..., YAW] = wrapped(offset[..., YAW])
    a, b, c = (mixture.covariance[:, i, j] for i, j in ((X, X), (X, Y), (Y, Y)))
    determinant = a * c - b * b
    dx, dy = offset[..., X], offset[..., Y]
    squared = (c * dx * dx - 2 * b * dx * dy + a * dy * dy) / determinant
    squared += offset[..., YAW] ** 2 / mixture.covariance[:, YAW, YAW]
    return np.maximum(squared, squared.T) <= _MERGED_AT


def probability_in_circle(offset_m: Floats, covariance: Floats, radius_m: float) -> Floats:
    """Probability that a Gaussian point lies in a circle around the origin, to about 1e-4.

    Along the long axis of the Gaussian by Gauss-Legendre quadrature where it counts, across it in closed form.

    Args:
        offset_m: (..., 2) mean.
        covariance: (..., 2, 2), broadcast against it.
        radius_m: Of the circle.

    Returns:
        (...,) in [0, 1].
    """
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    angle = 0.5 * np.arctan2(2 * b, a - c)
    half, gap = 0.5 * (a + c), np.hypot(0.5 * (a - c), b)
    sigma_u, sigma_v = np.sqrt(np.maximum(half + gap, 1e-12)), np.sqrt(np.maximum(half - gap, 1e-12))
    cosine, sine = np.cos(angle), np.sin(angle)
    along = cosine * offset_m[..., 0] + sine * offset_m[..., 1]
    across = cosine * offset_m[..., 1] - sine * offset_m[..., 0]
    low = np.clip(along - 6 * sigma_u, -radius_m, radius_m)
    high = np.clip(along + 6 * sigma_u, -radius_m, radius_m)
    u = (0.5 * (high + low))[..., None] + (0.5 * (high - low))[..., None] * _NODES
    reach = np.sqrt(np.maximum(radius_m**2 - u * u, 0.0))
    sigma_v, across = np.broadcast_to(sigma_v, along.shape)[..., None], across[..., None]
    inside = ndtr((reach - across) / sigma_v) - ndtr((-reach - across) / sigma_v)
    density = np.exp(-0.5 * ((u - along[..., None]) / sigma_u[..., None]) ** 2) / sigma_u[..., None]
    return np.clip((density * inside) @ _NODE_WEIGHTS * 0.5 * (high - low) / math.sqrt(2 * math.pi), 0.0, 1.0)
