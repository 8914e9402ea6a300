"""From a hypothesis about the camera to the pose of the robot's base, ready to be published.

A hypothesis tells where the camera was and where its optical axis pointed, in the map frame (REP-103: x east,
y north, z up). The extrinsics are the pose of the camera in the base frame, for a camera frame with x along the
optical axis, y left and z up (the optical frame of REP-103 turned upright). The base is taken as level: then its yaw
is the camera's less the yaw of the optical axis in the base, and the lever arm turns with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geodesy import LocalFrame
from vgssl_core.localization import Hypothesis, Localizer
from vgssl_core.localization.odometry_track import PlanarPose

#: Standard deviation of roll and pitch, which are taken as 0.
LEVEL_SIGMA_RAD = math.radians(5.0)
_KNOWN_YAW_SIGMA_RAD = 1.5


@dataclass(frozen=True)
class DefaultAltitude:
    """What stands in where the map knows no altitude.

    Attributes:
        altitude_m: Metres above the ellipsoid; z of a local map.
        sigma_m: Its standard deviation.
    """

    altitude_m: float
    sigma_m: float


@dataclass(frozen=True)
class BasePose:
    """One hypothesis about the base; every number is finite.

    Attributes:
        position_m: (3,) in the map frame.
        yaw_rad: ENU yaw; 0 where the heading is unknown, which its standard deviation then tells.
        sigma_m: (3,) standard deviation along each axis, positive.
        horizontal_sigma_m: Standard deviation along the worst horizontal direction, as `Hypothesis.sigma_m`.
        yaw_sigma_rad: Standard deviation of the yaw.
        score: Share of the weight of all hypotheses.
        probability: That the position is right, in [0, 1].
        support: Number of matches.
        rank: 0 is the best.
        latitude_deg, longitude_deg, altitude_m: WGS84; None for a local map.
    """

    position_m: NDArray[np.float64]
    yaw_rad: float
    sigma_m: NDArray[np.float64]
    horizontal_sigma_m: float
    yaw_sigma_rad: float
    score: float
    probability: float
    support: int
    rank: int
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None

    @property
    def has_heading(self) -> bool:
        """Whether anything is known about the yaw: what is known of nothing has a deviation of 1.81 rad."""
        return self.yaw_sigma_rad < _KNOWN_YAW_SIGMA_RAD

    def floored(self, position_m: float, yaw_rad: float) -> BasePose:
        """The same with standard deviations of at least so much."""
        return replace(
            self,
            sigma_m=np.maximum(self.sigma_m, position_m),
            horizontal_sigma_m=max(self.horizontal_sigma_m, position_m),
            yaw_sigma_rad=max(self.yaw_sigma_rad, yaw_rad),
        )


class CameraMount:
    """Where the camera sits on the robot.

    Args:
        extrinsics: x, y, z in metres and roll, pitch, yaw in radians of the camera in the base frame.
    """

    def __init__(self, extrinsics: Sequence[float]) -> None:
        _, pitch, yaw = extrinsics[3:]
        self._lever_arm_m = np.asarray(extrinsics[:3], np.float64)
        # Roll turns about the optical axis, so it does not move it.
        self._axis_yaw_rad = math.atan2(math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch))

    @property
    def planar(self) -> PlanarPose:
        """The camera in the base frame, seen from above."""
        return PlanarPose(float(self._lever_arm_m[0]), float(self._lever_arm_m[1]), self._axis_yaw_rad)

    def base_pose(self, hypothesis: Hypothesis, datum: LocalFrame | None, default: DefaultAltitude) -> BasePose:
        """The base's pose for a hypothesis about the camera.

        Args:
            hypothesis: From the localizer; z and yaw may be NaN.
            datum: The map's datum; None for a local map.
            default: What stands in for an unknown altitude.
        """
        camera_m = np.array(hypothesis.position_m, np.float64)
        covariance = np.array(hypothesis.covariance, np.float64)[:3, :3]
        if not math.isfinite(camera_m[2]):
            camera_m[2] = _default_up_m(camera_m, datum, default.altitude_m)
            covariance[2, 2] = default.sigma_m**2
        yaw = self._base_yaw_rad(hypothesis.yaw_rad)
        yaw_sigma = math.sqrt(hypothesis.covariance[3, 3])
        arm_m = self._lever_arm_m.copy()
        if yaw is None:
            # The arm points anywhere: its whole length is doubt.
            covariance[:2, :2] += np.eye(2) * float(arm_m[:2] @ arm_m[:2])
            arm_m[:2] = 0.0
        else:
            cosine, sine = math.cos(yaw), math.sin(yaw)
            arm_m[:2] = cosine * arm_m[0] - sine * arm_m[1], sine * arm_m[0] + cosine * arm_m[1]
            swing_m = np.array([-arm_m[1], arm_m[0]]) * yaw_sigma
            covariance[:2, :2] += np.outer(swing_m, swing_m)
        base_m = camera_m - arm_m
        latitude, longitude, altitude = (None,) * 3 if datum is None else map(float, datum.to_wgs84(base_m))
        return BasePose(
            position_m=base_m,
            yaw_rad=yaw or 0.0,
            sigma_m=np.sqrt(np.diagonal(covariance)),
            horizontal_sigma_m=math.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1]),
            yaw_sigma_rad=yaw_sigma,
            score=float(hypothesis.score),
            probability=float(hypothesis.probability),
            support=int(hypothesis.support),
            rank=int(hypothesis.rank),
            latitude_deg=latitude,
            longitude_deg=longitude,
            altitude_m=altitude,
        )

    def _base_yaw_rad(self, camera_yaw_rad: float) -> float | None:
        if not math.isfinite(camera_yaw_rad):
            return None
        return (camera_yaw_rad - self._axis_yaw_rad + math.pi) % (2 * math.pi) - math.pi


def told_pose(localizer: Localizer, mount: CameraMount, hypothesis: Hypothesis, default: DefaultAltitude) -> BasePose:
    """What is published of a localizer's hypothesis: the base's pose, never surer than the floors allow."""
    pose = mount.base_pose(hypothesis, localizer.geomap.datum, default)
    # The filter over time may become surer than a map can be.
    return pose.floored(localizer.config.position_floor_m, math.radians(localizer.config.heading_floor_deg))


def _default_up_m(camera_m: NDArray[np.float64], datum: LocalFrame | None, altitude_m: float) -> float:
    """Z in the map frame of the default altitude, at the camera's place."""
    if datum is None:
        return altitude_m
    latitude, longitude, _ = datum.to_wgs84(np.array([camera_m[0], camera_m[1], 0.0]))
    return float(datum.to_enu(latitude, longitude, altitude_m)[2])
