"""Settings of the synthetic town."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgssl_core.errors import ConfigError


@dataclass(frozen=True)
class TownConfig:
    """How large the town is, how it is photographed, and how hard it is.

    Attributes:
        train_size: Crossings along each side of the training district, so ``2 n (n - 1)`` streets.
        val_size: Crossings along each side of the validation district.
        test_size: Crossings along each side of the test district, where the drive takes place.
        block_m: Mean distance between two crossings.
        spacing_m: Distance between two database images, and between two queries, along a street.
        drive_s: Length of the drive in seconds; 0 writes no drive.
        drive_hz: Camera rate of the drive.
        width: Image width in pixels.
        height: Image height in pixels.
        field_of_view_deg: Horizontal field of view.
        camera_height_m: Height of the camera above the road.
        lateral_m: Standard deviation of a query's sideways offset from the database's lane.
        heading_deg: Standard deviation of a query's change of heading.
        latitude_deg: Latitude of the datum.
        longitude_deg: Longitude of the datum.
        altitude_m: Ellipsoidal height of the datum.
        workers: Processes that render; 0 takes one per core.
    """

    train_size: int = 6
    val_size: int = 3
    test_size: int = 4
    block_m: float = 88.0
    spacing_m: float = 5.0
    drive_s: float = 90.0
    drive_hz: float = 5.0
    width: int = 256
    height: int = 192
    field_of_view_deg: float = 76.0
    camera_height_m: float = 1.6
    lateral_m: float = 1.6
    heading_deg: float = 10.0
    latitude_deg: float = 52.0907
    longitude_deg: float = 5.1214
    altitude_m: float = 47.5
    workers: int = 0

    def check(self) -> None:
        """Refuse settings that make no town.

        Raises:
            ConfigError: Names the setting.
        """
        for name in ("train_size", "val_size", "test_size"):
            if not 2 <= getattr(self, name) <= 40:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 2 to 40 crossings along a side.")
        limits = {
            "block_m": (50, 300),
            "spacing_m": (0.5, 50),
            "drive_s": (0, 3600),
            "drive_hz": (0.5, 60),
            "width": (32, 4096),
            "height": (24, 4096),
            "field_of_view_deg": (20, 120),
            "camera_height_m": (0.3, 4),
            "lateral_m": (0, 2),
            "heading_deg": (0, 30),
            "latitude_deg": (-79, 83),
            "longitude_deg": (-180, 180),
            "altitude_m": (-500, 9000),
            "workers": (0, 256),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}: give a value from {low} to {high}.")
