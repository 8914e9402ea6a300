"""The filter's time step: components move by odometry or by the velocity prior, and some of the belief gets lost."""

from __future__ import annotations

import math

import numpy as np

from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.filter_mixture import STATES, VX, VY, YAW, Mixture, X, Y, Z, bounded, log_sum
from vgssl_core.localization.motion import Motion, VelocityPrior, wrapped

#: A heading of more than this variance is cut into parts before odometry turns with it: (40°)².
_VAGUE = math.radians(40.0) ** 2
#: Above this one it counts as uniform: (85°)².
_UNIFORM = math.radians(85.0) ** 2
_PARTS = 12
#: Roads climb by about this: standard deviation of the altitude after one metre, growing with the root.
_CLIMB = 0.1


def predicted(mixture: Mixture, dt_s: float, motion: Motion | None, config: FilterConfig) -> Mixture:
    """The belief after a time, before anything is seen.

    Args:
        mixture: The belief at the last update.
        dt_s: Time since then, not negative.
        motion: Of the robot since then; None takes the velocity prior.
        config: The settings.
    """
    kidnapped = -math.expm1(-config.kidnap_rate_hz * dt_s)
    if not len(mixture):
        return mixture
    found = math.log(max(kidnapped, 1e-300)) + log_sum(mixture.log_weight)
    lost = float(np.logaddexp(mixture.log_lost, found))
    # After years all is lost; the bound keeps logarithms finite.
    kept = mixture.log_weight + math.log(max(1.0 - kidnapped, 1e-300))
    mixture = Mixture(kept, mixture.mean, mixture.covariance, lost)
    moved = _coasted(mixture, dt_s, config) if motion is None else _driven(_split(mixture), dt_s, motion, config)
    return Mixture(moved.log_weight, moved.mean, bounded(moved.covariance), moved.log_lost)


def travelled_m(mixture: Mixture, dt_s: float, motion: Motion | None, config: FilterConfig) -> float:
    """How far the robot went, as far as is known: root mean square over the belief where no odometry tells."""
    if motion is not None:
        return motion.distance_m
    variance = mixture.covariance[:, VX, VX] + mixture.covariance[:, VY, VY]
    squared = (mixture.mean[:, [VX, VY]] ** 2).sum(axis=1) + variance
    lost = math.exp(mixture.log_lost) * 2 * config.speed_mps**2
    return math.sqrt(float(mixture.weight @ squared) + lost) * dt_s


def _coasted(mixture: Mixture, dt_s: float, config: FilterConfig) -> Mixture:
    """Without odometry: the velocity goes on and is forgotten, heading and velocity turn together."""
    transition, noise = np.eye(STATES), np.zeros((STATES, STATES))
    step, added = VelocityPrior(config.speed_mps, config.speed_memory_s).step(dt_s)
    for axes in ([X, VX], [Y, VY]):
        transition[np.ix_(axes, axes)], noise[np.ix_(axes, axes)] = step, added
    noise[Z, Z] = _CLIMB**2 * config.speed_mps * dt_s
    covariance = transition @ mixture.covariance @ transition.T + noise + _turning(mixture, dt_s, config)
    return Mixture(mixture.log_weight, mixture.mean @ transition.T, covariance, mixture.log_lost)


def _turning(mixture: Mixture, dt_s: float, config: FilterConfig) -> np.ndarray:
    """(M, 6, 6) noise of robots that turn: the heading wanders and takes velocity and way with it.

    Vehicles turn faster than they brake, and a camera that is mounted on one turns as it does, whichever way it looks:
    a match that tells the heading after a corner tells where the robot goes.
    """
    bounded_s = min(dt_s, config.speed_memory_s)
    turned = np.zeros((len(mixture), STATES))
    turned[:, YAW] = 1.0
    turned[:, VX], turned[:, VY] = -mixture.mean[:, VY], mixture.mean[:, VX]
    moved = np.zeros((len(mixture), STATES))
    moved[:, X], moved[:, Y] = turned[:, VX], turned[:, VY]
    cross = turned[:, :, None] * moved[:, None]
    noise = turned[:, :, None] * turned[:, None] * bounded_s
    noise += (cross + np.swapaxes(cross, 1, 2)) * (bounded_s**2 / 2)
    noise += moved[:, :, None] * moved[:, None] * (bounded_s**3 / 3)
    noise[:, YAW, YAW] = dt_s
    return math.radians(config.turn_deg) ** 2 * noise


def _driven(mixture: Mixture, dt_s: float, motion: Motion, config: FilterConfig) -> Mixture:
    """By odometry: positions move along the component's heading, velocities become what was driven."""
    cosine, sine = np.cos(mixture.mean[:, YAW]), np.sin(mixture.mean[:, YAW])
    east, north = cosine * motion.dx_m - sine * motion.dy_m, sine * motion.dx_m + cosine * motion.dy_m
    # A velocity over no time is none; the one before stays.
    rate = 1.0 / dt_s if dt_s > 1e-3 else 0.0
    mean = mixture.mean.copy()
    mean[:, X] += east
    mean[:, Y] += north
    mean[:, YAW] = wrapped(mean[:, YAW] + motion.dyaw_rad)
    transition = np.tile(np.eye(STATES), (len(mixture), 1, 1))
    transition[:, X, YAW], transition[:, Y, YAW] = -north, east
    # How the noise of (dx, dy, dyaw, dz) enters the state.
    enters = np.zeros((len(mixture), STATES, 4))
    enters[:, X, 0], enters[:, X, 1], enters[:, Y, 0], enters[:, Y, 1] = cosine, -sine, sine, cosine
    enters[:, YAW, 2] = enters[:, Z, 3] = 1.0
    if rate:
        mean[:, VX], mean[:, VY] = east * rate, north * rate
        transition[:, [VX, VY], [VX, VY]] = 0.0
        transition[:, VX, YAW], transition[:, VY, YAW] = -north * rate, east * rate
        enters[:, [VX, VY]] = rate * enters[:, [X, Y]]
    noise = np.zeros((4, 4))
    noise[:3, :3] = motion_noise(motion, config)
    noise[3, 3] = _CLIMB**2 * motion.distance_m
    covariance = transition @ mixture.covariance @ np.swapaxes(transition, 1, 2)
    covariance += enters @ noise @ np.swapaxes(enters, 1, 2)
    return Mixture(mixture.log_weight, mean, covariance, mixture.log_lost)


def motion_noise(motion: Motion, config: FilterConfig) -> np.ndarray:
    """(3, 3) covariance of a motion: what odometry says, but no axis below the settings' floor."""
    floor = np.array([config.odometry_share, config.odometry_share, math.radians(config.odometry_turn_deg)])
    covariance = np.asarray(motion.covariance, np.float64)
    covariance = 0.5 * (covariance + covariance.T)
    missing = floor**2 * motion.distance_m - np.diagonal(covariance)
    # Adding to a diagonal leaves a covariance a covariance.
    return covariance + np.diag(np.maximum(missing, 0.0))


def _split(mixture: Mixture) -> Mixture:
    """Components of a vague heading cut into parts, since turning with a heading is linear only nearby."""
    variance = mixture.covariance[:, YAW, YAW]
    vague = np.flatnonzero(variance > _VAGUE)
    if not len(vague):
        return mixture
    turned = wrapped(2 * np.pi / _PARTS * np.arange(_PARTS))
    narrow = (np.pi / _PARTS) ** 2
    log_share = np.where(variance[vague, None] > _UNIFORM, 0.0, -0.5 * turned**2 / variance[vague, None])
    log_share -= np.log(np.exp(log_share).sum(axis=1, keepdims=True))
    gain = mixture.covariance[vague, :, YAW] / variance[vague, None]
    # What else a component knows follows its heading, but nothing follows a heading that is uniform.
    gain[variance[vague] > _UNIFORM] = np.eye(STATES)[YAW]
    mean = mixture.mean[vague, None] + gain[:, None] * turned[:, None]
    mean[..., YAW] = wrapped(mean[..., YAW])
    outer = gain[:, :, None] * gain[:, None]
    covariance = mixture.covariance[vague].copy()
    uniform = variance[vague] > _UNIFORM
    covariance[uniform, YAW] = covariance[uniform, :, YAW] = 0.0
    covariance[uniform, YAW, YAW] = variance[vague][uniform]
    covariance -= (variance[vague] - narrow)[:, None, None] * outer
    parts = Mixture(
        (mixture.log_weight[vague, None] + log_share).ravel(),
        mean.reshape(-1, STATES),
        np.repeat(covariance, _PARTS, axis=0),
        mixture.log_lost,
    )
    return mixture.only(variance <= _VAGUE).joined(parts)
