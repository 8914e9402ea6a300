"""The calibrated pinhole camera of the town and its poses in the ENU frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Where the camera is and looks.

    Attributes:
        x_m, y_m, z_m: Optical centre, ENU metres.
        yaw_rad: Viewing direction, counter-clockwise from east.
        pitch_rad: Elevation of the optical axis, positive upwards.
    """

    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    pitch_rad: float = 0.0

    @property
    def position_m(self) -> Floats:
        """Optical centre, (3,)."""
        return np.array([self.x_m, self.y_m, self.z_m])

    @property
    def rotation(self) -> Floats:
        """(3, 3) matrix from ENU to the optical frame of REP-103: x right, y down, z forward."""
        cos_yaw, sin_yaw = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        cos_pitch, sin_pitch = math.cos(self.pitch_rad), math.sin(self.pitch_rad)
        forward = np.array([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch])
        right = np.array([sin_yaw, -cos_yaw, 0.0])
        return np.stack([right, np.cross(forward, right), forward])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion; pixel centres lie at integers.

    Attributes:
        width, height: Image size in pixels.
        focal_px: Focal length, equal in both directions.
        center_x, center_y: Principal point.
    """

    width: int
    height: int
    focal_px: float
    center_x: float
    center_y: float

    @classmethod
    def of_view(cls, width: int, height: int, field_of_view_deg: float) -> Camera:
        """Camera with the given horizontal field of view that sees more of the houses than of the road.

        The picture is a window of the sensor whose principal point lies at 60 % of the height.
        """
        focal = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
        return cls(width, height, focal, (width - 1) / 2, 0.6 * height - 0.5)

    def scaled(self, factor: float) -> Camera:
        """The same view with ``factor`` times as many pixels along each side."""
        return Camera(
            round(self.width * factor),
            round(self.height * factor),
            self.focal_px * factor,
            (self.center_x + 0.5) * factor - 0.5,
            (self.center_y + 0.5) * factor - 0.5,
        )

    @property
    def matrix(self) -> Floats:
        """The (3, 3) matrix K of CameraInfo."""
        return np.array([[self.focal_px, 0, self.center_x], [0, self.focal_px, self.center_y], [0, 0, 1.0]])

    def project(self, pose: Pose, points_m: Floats) -> tuple[Floats, Floats]:
        """Pixels (N, 2) and depths (N,) of ENU points (N, 3); pixels mean nothing where depth is not positive."""
        local = (np.asarray(points_m, float) - pose.position_m) @ pose.rotation.T
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        pixels = local[:, :2] / safe[:, None] * self.focal_px + (self.center_x, self.center_y)
        return pixels, depth
