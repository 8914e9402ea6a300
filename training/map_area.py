"""The area that the options of a program describe."""

from __future__ import annotations

from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_core.geomap.area import Area, Box, Circle
from vgssl_core.geomap.manifest import Manifest

AREA_OPTIONS = ("latitude_deg", "longitude_deg", "x_m", "y_m", "radius_m", "low_m", "high_m")
_FORMS = (
    ("latitude_deg", "longitude_deg", "radius_m"),
    ("x_m", "y_m", "radius_m"),
    ("low_m", "high_m"),
)


def chosen_area(config: Any, manifest: Manifest) -> Area:
    """The circle or box of a configuration with ``AREA_OPTIONS``.

    Args:
        config: Unset options are None or empty.
        manifest: The map's.

    Raises:
        ConfigError: The options are too few, too many, or a corner has not two numbers.
        DataError: They describe no area, or latitude and longitude in a local map.
    """
    given = {name for name in AREA_OPTIONS if getattr(config, name) not in (None, [])}
    form = next((form for form in _FORMS if given == set(form)), None)
    if form is None:
        ways = "; or ".join(" ".join(f"--{name}" for name in form) for form in _FORMS)
        raise ConfigError(f"An area is given by {ways}: give one of these completely and nothing of the others.")
    if "latitude_deg" in form:
        return Circle.around(manifest.datum, config.latitude_deg, config.longitude_deg, config.radius_m)
    if "x_m" in form:
        return Circle(config.x_m, config.y_m, config.radius_m)
    if len(config.low_m) != 2 or len(config.high_m) != 2:
        raise ConfigError("--low_m and --high_m are corners: give each as two numbers, x and y in metres.")
    return Box((config.low_m[0], config.low_m[1]), (config.high_m[0], config.high_m[1]))
