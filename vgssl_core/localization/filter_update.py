"""The filter's look at an image: each component is held against its hypotheses, the lost share is born anew at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.filter_mixture import STATES, UNKNOWN_Z_VARIANCE, VX, VY, YAW, Mixture, X, Y, Z, bounded
from vgssl_core.localization.hypotheses import UNKNOWN_YAW_VARIANCE, Hypothesis
from vgssl_core.localization.motion import wrapped

Floats = NDArray[np.float64]
#: No image is believed more than this: the evidence of one that cannot err would be infinite.
_MOST_SURE = 0.99


@dataclass(frozen=True)
class Sighting:
    """What one image says: J places, each with its share of the probability that any of them is right.

    Attributes:
        probability: That one of the places is right, in (0, 1).
        share: (J,) of the places, sum 1.
        position_m: (J, 2).
        position_noise: (J, 2, 2).
        yaw_rad: (J,) NaN where unknown.
        yaw_noise: (J,).
        z_m: (J,) NaN where unknown.
        z_noise: (J,).
    """

    probability: float
    share: Floats
    position_m: Floats
    position_noise: Floats
    yaw_rad: Floats
    yaw_noise: Floats
    z_m: Floats
    z_noise: Floats

    @classmethod
    def of(cls, hypotheses: Sequence[Hypothesis], reversed_share: float, radius_m: float) -> Sighting | None:
        """The places of a localizer's hypotheses; None where none is possible, as for a black image.

        Hypotheses that lie within each other's radius may all be right at once, but the robot is at one place: what
        each of them says is divided among those that it covers, by the weight of their matches.

        Args:
            hypotheses: Of one image.
            reversed_share: Of the probability of each: that the place is right and the heading the opposite one.
            radius_m: Within which of the truth a hypothesis counts as right.
        """
        possible = [item for item in hypotheses if item.probability > 1e-9]
        if not possible:
            return None
        places = [
            (item, item.probability * part, item.yaw_rad)
            for item, part in zip(possible, _parts(possible, radius_m), strict=True)
        ]
        # A street looks alike up and down: such a place counts twice.
        places = [(item, p * (1 - reversed_share * math.isfinite(yaw)), yaw) for item, p, yaw in places] + [
            (item, p * reversed_share, yaw + math.pi) for item, p, yaw in places if math.isfinite(yaw)
        ]
        probability = np.array([share for _, share, _ in places])
        covariance = np.stack([item.covariance for item, *_ in places])
        return cls(
            min(float(probability.sum()), _MOST_SURE),
            probability / probability.sum(),
            np.stack([item.position_m[:2] for item, *_ in places]),
            covariance[:, :2, :2],
            wrapped(np.array([yaw for *_, yaw in places], np.float64)),
            covariance[:, 3, 3],
            np.array([item.position_m[2] for item, *_ in places], np.float64),
            covariance[:, 2, 2],
        )


def _parts(hypotheses: Sequence[Hypothesis], radius_m: float) -> Floats:
    """(J,) of what lies within the radius of each hypothesis, its own part by the weight of the matches."""
    position_m = np.stack([item.position_m[:2] for item in hypotheses])
    score = np.maximum([item.score for item in hypotheses], 1e-9)
    covers = np.linalg.norm(position_m[:, None] - position_m, axis=2) <= radius_m
    return score / (covers @ score)


def updated(
    mixture: Mixture,
    sighting: Sighting,
    covered: NDArray[np.bool_],
    newness: float,
    area_m2: float,
    config: FilterConfig,
) -> Mixture:
    """The belief after an image.

    Args:
        mixture: The belief before it.
        sighting: What it says.
        covered: (M,) whether a component stands where the map has images.
        newness: In (0, 1], how much of the image's evidence is not that of the last one again.
        area_m2: Ground that the map covers.
        config: The settings.
    """
    p, seen = sighting.probability, config.mapped_share * config.detection_share
    log_background = newness * math.log1p(-seen)
    log_born = mixture.log_lost + log_background - newness * math.log1p(-p)
    log_born += math.log(-math.expm1(newness * math.log1p(-p)))
    born = _born(sighting, log_born, config)
    if len(mixture):
        mixture = _held_against(mixture, sighting, covered, newness, area_m2, config)
    joined = mixture.joined(born)
    return Mixture(
        joined.log_weight, joined.mean, bounded(joined.covariance), mixture.log_lost + log_background
    ).normalised()


def _born(sighting: Sighting, log_weight: float, config: FilterConfig) -> Mixture:
    """Components at the places of a sighting, of which nothing else is known."""
    count = len(sighting.share)
    mean, covariance = np.zeros((count, STATES)), np.zeros((count, STATES, STATES))
    yaw_known, z_known = np.isfinite(sighting.yaw_rad), np.isfinite(sighting.z_m)
    mean[:, :2] = sighting.position_m
    mean[:, YAW] = np.where(yaw_known, sighting.yaw_rad, 0.0)
    mean[:, Z] = np.where(z_known, sighting.z_m, 0.0)
    covariance[:, :2, :2] = sighting.position_noise
    covariance[:, YAW, YAW] = np.where(yaw_known, sighting.yaw_noise, UNKNOWN_YAW_VARIANCE)
    covariance[:, VX, VX] = covariance[:, VY, VY] = config.speed_mps**2
    covariance[:, Z, Z] = np.where(z_known, sighting.z_noise, UNKNOWN_Z_VARIANCE)
    with np.errstate(divide="ignore"):
        return Mixture(log_weight + np.log(sighting.share), mean, covariance, 0.0)


def _held_against(
    mixture: Mixture,
    sighting: Sighting,
    covered: NDArray[np.bool_],
    newness: float,
    area_m2: float,
    config: FilterConfig,
) -> Mixture:
    """Components weighed by a sighting and pulled towards its places (probabilistic data association)."""
    p, seen = sighting.probability, config.mapped_share * config.detection_share
    log_gain = math.log(p / (1 - p) * (1 - seen) / config.mapped_share)
    miss = np.log1p(-config.detection_share * covered)
    with np.errstate(divide="ignore"):
        hit = log_gain + np.log(sighting.share) + _log_density(mixture, sighting, area_m2)
    log_terms = np.concatenate([miss[:, None], hit], axis=1)
    log_ratio = np.logaddexp.reduce(log_terms, axis=1)
    belongs = np.exp(log_terms - log_ratio[:, None])[:, 1:]
    # Evidence that is partly old is an image with more noise.
    wider = 1.0 / max(newness, 1e-3)
    mean, covariance = mixture.mean, mixture.covariance
    offset = sighting.position_m - mean[:, None, :2]
    mean, covariance = _pulled(mean, covariance, [X, Y], offset, sighting.position_noise * wider, belongs)
    for axis, value, noise in (
        (YAW, sighting.yaw_rad, sighting.yaw_noise),
        (Z, sighting.z_m, sighting.z_noise),
    ):
        known = np.isfinite(value)
        if known.any():
            offset = value[known] - mean[:, None, axis]
            offset = (wrapped(offset) if axis == YAW else offset)[..., None]
            noise = noise[known, None, None] * wider
            mean, covariance = _pulled(mean, covariance, [axis], offset, noise, belongs[:, known])
    mean[:, YAW] = wrapped(mean[:, YAW])
    return Mixture(mixture.log_weight + newness * log_ratio, mean, covariance, mixture.log_lost)


def _log_density(mixture: Mixture, sighting: Sighting, area_m2: float) -> Floats:
    """(M, J) how much more likely a component expects each place and heading than chance does."""
    offset = sighting.position_m - mixture.mean[:, None, :2]
    total = mixture.covariance[:, None, :2, :2] + sighting.position_noise
    a, b, c = total[..., 0, 0], total[..., 0, 1], total[..., 1, 1]
    determinant = a * c - b * b
    dx, dy = offset[..., 0], offset[..., 1]
    squared = (c * dx * dx - 2 * b * dx * dy + a * dy * dy) / determinant
    place = math.log(area_m2 / math.tau) - 0.5 * np.log(determinant) - 0.5 * squared
    variance = mixture.covariance[:, YAW, YAW][:, None] + sighting.yaw_noise
    turn = wrapped(sighting.yaw_rad - mixture.mean[:, None, YAW])
    heading = 0.5 * (math.log(math.tau) - np.log(variance) - turn**2 / variance)
    vague = ~np.isfinite(turn) | (variance >= UNKNOWN_YAW_VARIANCE)
    return place + np.where(vague, 0.0, heading)


def _pulled(
    mean: Floats, covariance: Floats, axes: list[int], offset: Floats, noise: Floats, belongs: Floats
) -> tuple[Floats, Floats]:
    """Kalman updates by every place at once, mixed again to one Gaussian for each component.

    Args:
        mean: (M, 6).
        covariance: (M, 6, 6).
        axes: The d entries of the state that are measured.
        offset: (M, J, d) measured minus expected.
        noise: (J, d, d).
        belongs: (M, J) probability that a component is at a place; what is missing to 1 leaves it as it is.
    """
    cross = covariance[:, :, axes]
    inverse = _inverse(covariance[:, None][..., axes, :][..., axes] + noise)
    # K_j = P Hᵀ S_j⁻¹, and P − K_j S_j K_jᵀ = P − K_j H P; the sums over j need only what is left of P Hᵀ.
    pull = (inverse @ offset[..., None])[..., 0]
    share = belongs[..., None]
    middle = (share * pull).sum(axis=1)
    spread = np.swapaxes(share * pull, 1, 2) @ pull - middle[:, :, None] * middle[:, None]
    spread -= (share[..., None] * inverse).sum(axis=1)
    crossed = np.swapaxes(cross, 1, 2)
    return mean + (cross @ middle[..., None])[..., 0], covariance + cross @ spread @ crossed


def _inverse(matrices: Floats) -> Floats:
    """Inverses of (..., d, d) positive definite matrices of d = 1 or 2: by hand ten times faster than in general."""
    if matrices.shape[-1] == 1:
        return 1.0 / matrices
    a, b, c = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]
    inverse = np.empty_like(matrices)
    inverse[..., 0, 0], inverse[..., 1, 1], inverse[..., 0, 1], inverse[..., 1, 0] = c, a, -b, -b
    return inverse / (a * c - b * b)[..., None, None]
