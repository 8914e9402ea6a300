"""Odometry for tests and benchmarks, made from relative ground truth by a noise model with a seed.

Between two frames the truth gives a motion in the robot's own frame: (dx, dy) in metres along its heading and to the
left, and a turn dψ. With d = √(dx² + dy²), the odometry tells

    (dx, dy) · (1 + s) + n,    n ~ N(0, (0.02)² · d) in each direction (m², d in m),
    dψ + m,                    m ~ N(0, (0.5°)² · d),
    s ~ N(0, 0.02²), drawn once for a run: wheels of a wrong size.

So each metre of way errs anew by 2 % and 0.5°, whatever the rate of the frames, and all of them by one scale. After 100
metres that is 0.2 m and 5° of random error (one standard deviation), which leads about 5 m astray, and 2 m of
scale. Only differences of positions and headings enter: the absolute pose cannot reach whoever gets the motions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError
from vgssl_core.localization.motion import Motion


@dataclass(frozen=True)
class OdometryNoise:
    """How a simulated odometry errs.

    Attributes:
        share: Standard deviation of the distance after one metre, as a share; grows with the root of the way.
        turn_deg: Standard deviation of the heading after one metre; grows with the root of the way.
        scale: Standard deviation of the scale of a run.
    """

    share: float = 0.02
    turn_deg: float = 0.5
    scale: float = 0.02


def simulate_odometry(
    positions_m: NDArray[np.float64],
    yaw_rad: NDArray[np.float64] | None = None,
    seed: int = 0,
    noise: OdometryNoise | None = None,
) -> list[Motion | None]:
    """Motions of a run; the first is None, since nothing lies before it.

    Args:
        positions_m: (F, 2) or (F, 3) true positions, in the order of time.
        yaw_rad: (F,) true headings; None takes the direction of the way.
        seed: Of the run.
        noise: None takes the defaults.

    Returns:
        F motions, each since the frame before; their covariances are those of the noise without the scale, which an
        odometry does not know.

    Raises:
        DataError: A position or a heading is not finite.
    """
    planar = np.asarray(positions_m, np.float64)[:, :2]
    yaw = direction_of_way(planar) if yaw_rad is None else np.asarray(yaw_rad, np.float64)
    if not (np.isfinite(planar).all() and np.isfinite(yaw).all()):
        raise DataError("Odometry is made from true poses and one of them is not finite: leave those frames out.")
    noise, rng = noise or OdometryNoise(), np.random.default_rng(seed)
    scale = 1.0 + noise.scale * rng.standard_normal()
    motions: list[Motion | None] = [None]
    for before, step, turn in zip(yaw[:-1], np.diff(planar, axis=0), np.diff(yaw), strict=True):
        true = Motion.between((0.0, 0.0, before), (step[0], step[1], before + turn))
        sigma = np.array([noise.share, noise.share, math.radians(noise.turn_deg)]) * math.sqrt(true.distance_m)
        error = sigma * rng.standard_normal(3)
        motions.append(
            Motion(
                true.dx_m * scale + float(error[0]),
                true.dy_m * scale + float(error[1]),
                true.dyaw_rad + float(error[2]),
                np.diag(sigma**2),
            )
        )
    return motions


def direction_of_way(planar_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) direction of the step that leads away from each of (F, 2) positions; the last one keeps the one before.

    A robot that stands keeps its direction.
    """
    steps = np.diff(planar_m, axis=0)
    moves = np.flatnonzero(np.linalg.norm(steps, axis=1) > 0)
    if not len(moves):
        return np.zeros(len(planar_m))
    angles = np.arctan2(steps[moves, 1], steps[moves, 0])
    last = np.clip(np.searchsorted(moves, np.arange(len(planar_m)), side="right") - 1, 0, None)
    return angles[last]
