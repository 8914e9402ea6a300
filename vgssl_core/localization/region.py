"""A prior place: where to search when something else already tells about where the robot is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgssl_core.errors import DataError
from vgssl_core.geomap.positions import FARTHEST_M


@dataclass(frozen=True)
class Region:
    """A circle in the map's frame; only map images inside are searched, exactly.

    What lies outside is taken as impossible: probabilities presume that the robot is inside.

    Attributes:
        x_m: Centre.
        y_m: Centre.
        radius_m: Horizontal radius.
    """

    x_m: float
    y_m: float
    radius_m: float

    def __post_init__(self) -> None:
        """Refuse what is no circle.

        Raises:
            DataError: A value that is not finite or too far away, or a radius that is not positive.
        """
        if not all(math.isfinite(v) and abs(v) <= FARTHEST_M for v in (self.x_m, self.y_m, self.radius_m)):
            raise DataError(f"There is no region of {self.radius_m} m around ({self.x_m}, {self.y_m}): give metres.")
        if self.radius_m <= 0:
            raise DataError(f"A region's radius is {self.radius_m} m: it must be positive.")
