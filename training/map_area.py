"""The area that the options of a program describe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from vgssl_core.errors import ConfigError
from vgssl_core.geomap.area import Area, Box, Circle
from vgssl_core.geomap.manifest import Manifest

_FORMS = (
    ("latitude_deg", "longitude_deg", "radius_m"),
    ("x_m", "y_m", "radius_m"),
    ("low_m", "high_m"),
)


@dataclass(frozen=True, kw_only=True)
class AreaOptions:
    """A circle or a box; what is not set is None or empty.

    Attributes:
        latitude_deg: Centre of a circle, WGS84.
        longitude_deg: Centre of a circle, WGS84.
        x_m: Centre of a circle, in the map's frame.
        y_m: Centre of a circle, in the map's frame.
        radius_m: Radius of the circle.
        low_m: Lower corner of a box, x and y in the map's frame.
        high_m: Upper corner of a box, x and y in the map's frame.
    """

    latitude_deg: float | None = None
    longitude_deg: float | None = None
    x_m: float | None = None
    y_m: float | None = None
    radius_m: float | None = None
    low_m: list[float] = field(default_factory=list)
    high_m: list[float] = field(default_factory=list)

    def area_options(self) -> set[str]:
        """Names of those that are set."""
        return {item.name for item in dataclasses.fields(AreaOptions) if getattr(self, item.name) not in (None, [])}


def chosen_area(options: AreaOptions, manifest: Manifest) -> Area:
    """The circle or box of the options.

    Args:
        options: Of the program.
        manifest: The map's.

    Raises:
        ConfigError: The options are too few, too many, or a corner has not two numbers.
        DataError: They describe no area, or latitude and longitude in a local map.
    """
    given = options.area_options()
    form = next((form for form in _FORMS if given == set(form)), None)
    if form is None:
        ways = "; or ".join(" ".join(f"--{name}" for name in form) for form in _FORMS)
        raise ConfigError(f"An area is given by {ways}: give one of these completely and nothing of the others.")
    if "latitude_deg" in form:
        return Circle.around(manifest.datum, options.latitude_deg, options.longitude_deg, options.radius_m)
    if "x_m" in form:
        return Circle(options.x_m, options.y_m, options.radius_m)
    if len(options.low_m) != 2 or len(options.high_m) != 2:
        raise ConfigError("--low_m and --high_m are corners: give each as two numbers, x and y in metres.")
    return Box((options.low_m[0], options.low_m[1]), (options.high_m[0], options.high_m[1]))
