"""How a robot moved: from odometry where there is one, from a prior where there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wrapped(angle_rad: Floats) -> Floats:
    """Angles in [−pi, pi)."""
    return (np.asarray(angle_rad, np.float64) + np.pi) % (2 * np.pi) - np.pi


@dataclass(frozen=True)
class Motion:
    """Pose of the robot now in its own frame at the last update: from odometry.

    The frame is that of the map's poses: the camera's, x along its heading, y to the left. `of_mounted` turns the
    motion of a vehicle into that of its camera.

    Attributes:
        dx_m: Forward, metres.
        dy_m: To the left, metres.
        dyaw_rad: Counter-clockwise, radians.
        covariance: (3, 3) over dx, dy, dyaw. The filter never takes it as less than its own floor.
    """

    dx_m: float
    dy_m: float
    dyaw_rad: float
    covariance: Floats = field(default_factory=lambda: np.zeros((3, 3)))

    @property
    def distance_m(self) -> float:
        """How far, straight."""
        return math.hypot(self.dx_m, self.dy_m)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are finite and no variance is negative."""
        numbers = (self.dx_m, self.dy_m, self.dyaw_rad)
        covariance = np.asarray(self.covariance)
        return bool(
            all(math.isfinite(number) for number in numbers)
            and covariance.shape == (3, 3)
            and np.isfinite(covariance).all()
            and (np.diagonal(covariance) >= 0).all()
        )

    @classmethod
    def between(
        cls, before: tuple[float, float, float], after: tuple[float, float, float], covariance: Floats | None = None
    ) -> Motion:
        """The motion from one odometry pose to the next; their common frame does not matter.

        Args:
            before: x, y in metres and yaw in radians, at the last update.
            after: The same, now.
            covariance: Of the motion; None leaves it to the filter's floor.
        """
        east, north = after[0] - before[0], after[1] - before[1]
        cosine, sine = math.cos(before[2]), math.sin(before[2])
        turned = float(wrapped(np.float64(after[2] - before[2])))
        moved = (cosine * east + sine * north, cosine * north - sine * east, turned)
        return cls(*moved, np.zeros((3, 3)) if covariance is None else np.asarray(covariance, np.float64))

    def of_mounted(self, x_m: float, y_m: float, yaw_rad: float) -> Motion:
        """The same motion told by something mounted on the robot.

        Args:
            x_m: Where it is mounted, in the robot's frame.
            y_m: The same.
            yaw_rad: Where its x axis points, in the robot's frame.
        """
        cosine, sine = math.cos(self.dyaw_rad), math.sin(self.dyaw_rad)
        # Where the mount is now, seen from where it was, still along the robot's axes.
        ahead = self.dx_m + cosine * x_m - sine * y_m - x_m
        left = self.dy_m + sine * x_m + cosine * y_m - y_m
        turn = np.array([[math.cos(yaw_rad), math.sin(yaw_rad)], [-math.sin(yaw_rad), math.cos(yaw_rad)]])
        lever = np.array([-sine * x_m - cosine * y_m, cosine * x_m - sine * y_m])
        jacobian = np.eye(3)
        jacobian[:2, :2], jacobian[:2, 2] = turn, turn @ lever
        moved = turn @ (ahead, left)
        return Motion(
            float(moved[0]), float(moved[1]), self.dyaw_rad, jacobian @ np.asarray(self.covariance) @ jacobian.T
        )


@dataclass(frozen=True)
class VelocityPrior:
    """Velocity where nothing measures it: an Ornstein-Uhlenbeck process in each direction (Singer's model).

    It fades with ``memory_s`` towards a stationary standard deviation, so that a long silence makes a position vague
    without bounds but a velocity never more than ``speed_mps``.

    Attributes:
        speed_mps: Stationary standard deviation.
        memory_s: Time constant.
    """

    speed_mps: float
    memory_s: float

    def step(self, dt_s: float) -> tuple[Floats, Floats]:
        """What happens to one direction's (position, velocity) in a time.

        Args:
            dt_s: Not negative.

        Returns:
            (2, 2) transition and (2, 2) covariance of what is added.
        """
        relative = dt_s / self.memory_s
        lost = -math.expm1(-relative)
        transition = np.array([[1.0, self.memory_s * lost], [0.0, 1.0 - lost]])
        # The closed form cancels to nothing where the time is short; its series' first term is exact enough there.
        position = 2 * relative**3 / 3 if relative < 1e-3 else 2 * relative - 2 * lost - lost**2
        both = lost**2
        noise = np.array(
            [
                [self.memory_s**2 * position, self.memory_s * both],
                [self.memory_s * both, -math.expm1(-2 * relative)],
            ]
        )
        return transition, self.speed_mps**2 * noise
