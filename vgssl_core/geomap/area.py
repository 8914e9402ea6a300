"""Areas of a map, to choose images by where they were taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError
from vgssl_core.geodesy import LocalFrame

Point = tuple[float, float]


class Area(Protocol):
    """A part of the map's plane; as text it is what messages call it."""

    def contains(self, planar_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of (N, 2) positions lie inside; the edge belongs to it."""

    def meets(self, low_m: Point, high_m: Point) -> bool:
        """Whether the area and a box have a common point."""


@dataclass(frozen=True)
class Circle:
    """All points within a radius of a centre in the map's frame.

    Attributes:
        x_m: The centre.
        y_m: The same.
        radius_m: The radius.
        given: The centre as people gave it, where they did not give x and y.

    Raises:
        DataError: A centre that is not finite, or no positive radius.
    """

    x_m: float
    y_m: float
    radius_m: float
    given: str = ""

    def __str__(self) -> str:
        return f"the circle of {self.radius_m:.10g} m around {self.given or _told((self.x_m, self.y_m))}"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x_m) and math.isfinite(self.y_m) and 0 < self.radius_m < math.inf):
            raise DataError(f"A circle of {self.radius_m} m around ({self.x_m}, {self.y_m}) is no area.")

    @classmethod
    def around(cls, datum: LocalFrame | None, latitude_deg: float, longitude_deg: float, radius_m: float) -> Circle:
        """The circle around a point on Earth.

        Args:
            datum: The map's; None is that of a local map.
            latitude_deg: WGS84.
            longitude_deg: WGS84.
            radius_m: Radius in the map's plane.

        Raises:
            DataError: A local map, a point that is not on Earth, or no positive radius.
        """
        if datum is None:
            raise DataError("A local map has no latitude and longitude: give the centre as x and y in its plane.")
        if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
            raise DataError(f"Latitude {latitude_deg}, longitude {longitude_deg} is no point on Earth.")
        east, north, _ = datum.to_enu(latitude_deg, longitude_deg)
        return cls(float(east), float(north), radius_m, f"latitude {latitude_deg}, longitude {longitude_deg}")

    def contains(self, planar_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of (N, 2) positions lie inside; the edge belongs to it."""
        return np.hypot(planar_m[:, 0] - self.x_m, planar_m[:, 1] - self.y_m) <= self.radius_m

    def meets(self, low_m: Point, high_m: Point) -> bool:
        """Whether the circle and a box have a common point."""
        nearest = min(max(self.x_m, low_m[0]), high_m[0]), min(max(self.y_m, low_m[1]), high_m[1])
        return math.hypot(nearest[0] - self.x_m, nearest[1] - self.y_m) <= self.radius_m


@dataclass(frozen=True)
class Box:
    """All points between two corners (x, y) in the map's frame.

    Raises:
        DataError: Corners that are not finite or not in order.
    """

    low_m: Point
    high_m: Point

    def __str__(self) -> str:
        return f"the box from {_told(self.low_m)} to {_told(self.high_m)}"

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.low_m, *self.high_m)))
        if not (finite and self.low_m[0] <= self.high_m[0] and self.low_m[1] <= self.high_m[1]):
            raise DataError(f"A box from {self.low_m} to {self.high_m} is no area: give its lower corner first.")

    def contains(self, planar_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of (N, 2) positions lie inside; the edge belongs to it."""
        return ((planar_m >= self.low_m) & (planar_m <= self.high_m)).all(axis=1)

    def meets(self, low_m: Point, high_m: Point) -> bool:
        """Whether the two boxes have a common point."""
        return all(self.low_m[axis] <= high_m[axis] and low_m[axis] <= self.high_m[axis] for axis in (0, 1))


def _told(point: Point) -> str:
    return f"x {point[0]:.10g} m, y {point[1]:.10g} m"
