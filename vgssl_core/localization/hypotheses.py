"""From matches to hypotheses: clusters in metres, each with position, heading, covariance, score and probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.localization.calibration import Calibration
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.features import match_features

#: Variance of a heading of which nothing is known: uniform over the circle.
UNKNOWN_YAW_VARIANCE = math.pi**2 / 3.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hypothesis:
    """A pose that some of the matches support.

    Attributes:
        rank: 0 for the best.
        position_m: (3,) x, y, z of the camera in the map's frame; z is NaN where the altitude is not known.
        yaw_rad: ENU yaw of the camera, NaN where unknown.
        covariance: (4, 4) over x, y, z, yaw in m² and rad²; finite, symmetric, positive definite. What is unknown
            has a large variance.
        score: Share of the matches' weight, in (0, 1]; no probability.
        probability: That the position lies within the calibration's ``radius_m`` of the truth, in [0, 1].
        support: Number of matches.
        latitude_deg: WGS84, NaN for a local map.
        longitude_deg: WGS84, NaN for a local map.
        altitude_m: WGS84 ellipsoidal or as the map was given it; NaN where unknown.
        sigma_m: Standard deviation along the worst horizontal direction.
    """

    rank: int
    position_m: Floats
    yaw_rad: float
    covariance: Floats
    score: float
    probability: float
    support: int
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    sigma_m: float


@dataclass(frozen=True)
class Candidate:
    """What becomes a hypothesis: a cluster with its pose and the evidence for it.

    Attributes:
        position_m, yaw_rad, covariance, score, support: As of a `Hypothesis`.
        features: (F,) see `match_features`.
    """

    position_m: Floats
    yaw_rad: float
    covariance: Floats
    score: float
    support: int
    features: Floats


@dataclass(frozen=True)
class Cluster:
    """Matches of one place: their places in the match list, best first, and their share of the weight."""

    members: NDArray[np.int64]
    score: float


def candidates_of(
    distances: NDArray[np.floating],
    positions_m: Floats,
    yaw_rad: Floats,
    spacing_m: float,
    config: LocalizerConfig,
    calibration: Calibration,
) -> list[Candidate]:
    """Cluster matches, best first by score.

    Args:
        distances: (k,) L2 distances of unit descriptors, nearest first.
        positions_m: (k, 3) of the matched map images, NaN z where unknown.
        yaw_rad: (k,) NaN where unknown.
        spacing_m: The map's spacing.
        config: The settings.
        calibration: Its radius and the scales of its covariances.
    """
    if not len(distances):
        return []
    weights = match_weights(distances, config.temperature)
    planar_m = positions_m[:, :2]
    candidates = []
    for cluster in cluster_matches(planar_m, weights, config.cluster_radius_m, config.max_hypotheses):
        members = cluster.members
        position, yaw, covariance = pose_of(
            positions_m[members], yaw_rad[members], weights[members], spacing_m, config, calibration
        )
        features = match_features(distances, weights, planar_m, position[:2], calibration.radius_m)
        candidates.append(Candidate(position, yaw, covariance, cluster.score, len(members), features))
    return candidates


def match_weights(distances: NDArray[np.floating], temperature: float) -> Floats:
    """(k,) weights of matches: a softmax over their cosines, whose temperature is relative to their spread.

    Args:
        distances: (k,) L2 distances of unit descriptors; cosine = 1 − distance² / 2.
        temperature: See `LocalizerConfig`.

    Returns:
        Positive weights, 1 for the best match.
    """
    cosine = 1.0 - 0.5 * np.asarray(distances, np.float64) ** 2
    # The least spread only guards the division when all matches are equally near.
    scale = temperature * max(float(np.ptp(cosine)), 1e-9)
    # The bound keeps the worst match positive at any temperature.
    return np.maximum(np.exp((cosine - cosine.max()) / scale), 1e-100)


def cluster_matches(planar_m: Floats, weights: Floats, radius_m: float, limit: int) -> list[Cluster]:
    """Group matches by position: the seed is the match with most weight around it, again and again.

    Args:
        planar_m: (k, 2) positions of the matches, best match first.
        weights: (k,) positive weights.
        radius_m: Reach of a seed.
        limit: At most this many clusters.

    Returns:
        Clusters of falling weight; equal ones in the order of their best match.
    """
    differences = planar_m[:, None] - planar_m[None]
    near = np.einsum("ijc,ijc->ij", differences, differences) <= radius_m**2
    free = np.ones(len(weights), bool)
    total = float(weights.sum())
    clusters = []
    while free.any():
        # Equal sums go to the best match: argmax takes the first.
        mass = np.where(free, near @ (weights * free), -1.0)
        members = np.flatnonzero(near[int(np.argmax(mass))] & free)
        free[members] = False
        clusters.append(Cluster(members, float(weights[members].sum()) / total))
    clusters.sort(key=lambda cluster: (-cluster.score, cluster.members[0]))
    return clusters[:limit]


def pose_of(
    positions_m: Floats,
    yaw_rad: Floats,
    weights: Floats,
    spacing_m: float,
    config: LocalizerConfig,
    calibration: Calibration,
) -> tuple[Floats, float, Floats]:
    """Weighted mean pose of a cluster and its covariance.

    One imagined match at half the cluster radius joins the spread, so that a single match claims little; the map's
    spacing is added, since no image says where between two map images it was taken. The calibration scales both so
    that measured errors fit; the settings' floors stay.

    Args:
        positions_m: (n, 3) of the cluster's matches, NaN z where unknown.
        yaw_rad: (n,) NaN where unknown.
        weights: (n,) positive.
        spacing_m: The map's spacing.
        config: The settings.
        calibration: Scales of the variances.

    Returns:
        (3,) position, yaw, (4, 4) covariance.
    """
    share = weights / weights.sum()
    effective = 1.0 / float(share @ share)
    position = np.append(share @ positions_m[:, :2], np.nan)
    offsets = positions_m[:, :2] - position[:2]
    covariance = np.zeros((4, 4))
    spread = (offsets * share[:, None]).T @ offsets
    spread = 0.5 * (spread + spread.T)  # Rounding leaves it not quite symmetric.
    imagined = (0.5 * config.cluster_radius_m) ** 2
    floor, scale = config.position_floor_m**2 + spacing_m**2, calibration.position_scale
    spread = (effective * spread + imagined * np.eye(2)) / (effective + 1.0)
    covariance[:2, :2] = scale * spread + max(scale * floor, config.position_floor_m**2) * np.eye(2)
    position[2], covariance[2, 2] = _altitude(positions_m[:, 2], weights, floor, config)
    yaw, variance = _heading(yaw_rad, weights)
    variance = max(calibration.heading_scale * variance, math.radians(config.heading_floor_deg) ** 2)
    covariance[3, 3] = min(variance, UNKNOWN_YAW_VARIANCE)
    return position, yaw, covariance


def _altitude(z_m: Floats, weights: Floats, floor: float, config: LocalizerConfig) -> tuple[float, float]:
    """Weighted mean of the known altitudes and its variance."""
    known = np.isfinite(z_m)
    if not known.any():
        return math.nan, config.unknown_altitude_m**2
    share = weights[known] / weights[known].sum()
    mean = float(share @ z_m[known])
    return mean, float(share @ (z_m[known] - mean) ** 2) + floor


def _heading(yaw_rad: Floats, weights: Floats) -> tuple[float, float]:
    """Weighted circular mean of the known headings and its variance −2 ln R; infinite where nothing is known.

    R is the length of the mean direction; one imagined match of no direction joins, as for the position.
    """
    known = np.isfinite(yaw_rad)
    if not known.any():
        return math.nan, math.inf
    share = weights[known] / weights[known].sum()
    east, north = float(share @ np.cos(yaw_rad[known])), float(share @ np.sin(yaw_rad[known]))
    effective = 1.0 / float(share @ share)
    length = math.hypot(east, north) * effective / (effective + 1.0)
    if length < 1e-9:
        return math.nan, math.inf
    return math.atan2(north, east), min(-2.0 * math.log(length), UNKNOWN_YAW_VARIANCE)
