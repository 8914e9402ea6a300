"""Where a camera sits on a vehicle: from poses of the vehicle to poses of the camera, and back.

Extrinsics are the pose of the camera in the vehicle's frame: x, y, z in metres and roll, pitch, yaw in radians, for a
camera frame with x along the optical axis, y left and z up. The vehicle is taken as level, so that only its yaw turns
the lever arm. Headings are compass headings of the vehicle's x axis, and of the optical axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError
from vgssl_core.geodesy import compass_to_yaw_rad

Floats = NDArray[np.float64]
#: x, y, z in metres, roll, pitch, yaw in radians.
Extrinsics = tuple[float, float, float, float, float, float]
#: A camera in the vehicle's origin that looks forward.
IN_ORIGIN: Extrinsics = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def check_extrinsics(extrinsics: Sequence[float], name: str = "--camera_extrinsics") -> None:
    """Refuse what is no pose.

    Raises:
        ConfigError: Not six finite numbers.
    """
    if len(extrinsics) != 6 or not all(map(math.isfinite, extrinsics)):
        given = " ".join(f"{value:g}" for value in extrinsics)
        raise ConfigError(f"{name} is {given}: give six finite numbers, x y z in metres, roll pitch yaw in radians.")


def optical_axis_yaw_rad(extrinsics: Sequence[float]) -> float:
    """Where the camera looks in the vehicle's frame; roll turns about the optical axis, so it does not move it."""
    _, pitch, yaw = extrinsics[3:]
    return math.atan2(math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch))


def camera_poses(vehicle_m: Floats, heading_deg: Floats, extrinsics: Sequence[float]) -> tuple[Floats, Floats]:
    """Positions and headings of the camera.

    Args:
        vehicle_m: (N, 3) positions of the vehicle, east, north, up; z may be NaN.
        heading_deg: (N,) its compass headings; where one is NaN the lever arm points anywhere and is left out.
        extrinsics: The camera in the vehicle's frame.

    Returns:
        (N, 3) positions, (N,) compass headings.
    """
    turn_deg = math.degrees(optical_axis_yaw_rad(extrinsics))
    return vehicle_m + _lever_arms_m(heading_deg, extrinsics), (heading_deg - turn_deg) % 360


def vehicle_poses(camera_m: Floats, heading_deg: Floats, extrinsics: Sequence[float]) -> tuple[Floats, Floats]:
    """Positions and headings of the vehicle, from those of the camera: the inverse of `camera_poses`."""
    heading_deg = (heading_deg + math.degrees(optical_axis_yaw_rad(extrinsics))) % 360
    return camera_m - _lever_arms_m(heading_deg, extrinsics), heading_deg


def _lever_arms_m(vehicle_heading_deg: Floats, extrinsics: Sequence[float]) -> Floats:
    """(N, 3) from the vehicle to the camera, east, north, up."""
    x, y, z = extrinsics[:3]
    yaw = compass_to_yaw_rad(vehicle_heading_deg)
    horizontal = np.nan_to_num((x + 1j * y) * np.exp(1j * yaw))
    return np.stack([horizontal.real, horizontal.imag, np.full_like(yaw, z)], axis=-1)
