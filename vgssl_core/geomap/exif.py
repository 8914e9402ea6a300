"""Where and when a photograph was taken, from its EXIF (version 3.0, sections 4.6.5 and 4.6.7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgssl_core.geomap.stamps import has_offset, parse_stamp
from vgssl_core.places import UNKNOWN_STAMP_NS

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TAKEN, _TAKEN_OFFSET, _TAKEN_SUBSECOND = 0x9003, 0x9011, 0x9291
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE, _TIME = range(1, 8)
_DIRECTION_REF, _DIRECTION, _DATE = 0x10, 0x11, 0x1D


@dataclass(frozen=True)
class PhotoTags:
    """What a photograph's EXIF tells.

    Attributes:
        latitude_deg, longitude_deg: WGS84.
        altitude_m: NaN where unknown.
        heading_deg: Compass heading of the optical axis, NaN where unknown.
        is_magnetic: Whether the heading is from magnetic north.
        stamp_ns: ``UNKNOWN_STAMP_NS`` where unknown.
        is_local_time: Whether the camera did not tell its offset, so that its clock is taken as UTC.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    heading_deg: float
    is_magnetic: bool
    stamp_ns: int
    is_local_time: bool


def read_tags(path: Path) -> PhotoTags:
    """Read a photograph's EXIF; its pixels are not decoded.

    Raises:
        ValueError: It does not open, or has no position; tells why.
    """
    from PIL import Image

    try:
        with Image.open(path) as photograph:
            exif = photograph.getexif()
            gps, taken = dict(exif.get_ifd(_GPS_IFD)), dict(exif.get_ifd(_EXIF_IFD))
    except Exception as problem:  # On damaged files Pillow raises what it happens upon.
        raise ValueError(f"it does not open ({type(problem).__name__})") from problem
    if _LATITUDE not in gps or _LONGITUDE not in gps:
        raise ValueError("it has no GPS position")
    latitude = _degrees(gps[_LATITUDE], gps.get(_LATITUDE_REF), "NS", 90)
    longitude = _degrees(gps[_LONGITUDE], gps.get(_LONGITUDE_REF), "EW", 180)
    if latitude == longitude == 0:
        raise ValueError("its GPS position is 0, 0, which cameras write without a fix")
    stamp_ns, is_local_time = _stamp(gps, taken)
    heading = _number(gps.get(_DIRECTION))
    return PhotoTags(
        latitude,
        longitude,
        _altitude(gps),
        heading % 360 if 0 <= heading <= 360 else math.nan,
        _text(gps.get(_DIRECTION_REF)).upper().startswith("M"),
        stamp_ns,
        is_local_time,
    )


def _degrees(values: Any, reference: Any, directions: str, limit: int) -> float:
    """Degrees, minutes and seconds with N, S, E or W as signed degrees."""
    parts = [_number(value) for value in (values if isinstance(values, tuple | list) else (values,))]
    direction = _text(reference).upper()[:1]
    value = sum(part / 60**power for power, part in enumerate(parts))
    good = 1 <= len(parts) <= 3 and all(part >= 0 for part in parts) and all(part <= 60 for part in parts[1:])
    if not good or not value <= limit:
        raise ValueError(f"its GPS position {str(values)[:60]} is damaged")
    if not direction or direction not in directions:
        raise ValueError(f"its GPS position does not tell {' or '.join(directions)}")
    return -value if direction == directions[1] else value


def _altitude(gps: Mapping[int, Any]) -> float:
    altitude, reference = _number(gps.get(_ALTITUDE)), gps.get(_ALTITUDE_REF, 0)
    # A byte, which writers store in several ways; 1 and 3 are below the sea and below the ellipsoid.
    reference = reference[:1] in (b"\x01", b"\x03", b"1", b"3") if isinstance(reference, bytes) else reference in (1, 3)
    return -altitude if reference else altitude


def _stamp(gps: Mapping[int, Any], taken: Mapping[int, Any]) -> tuple[int, bool]:
    """Time of the fix, which is UTC, else that of the camera's clock; and whether that did not tell its offset."""
    hours = [_number(value) for value in gps.get(_TIME) or ()] if isinstance(gps.get(_TIME), tuple | list) else []
    if len(hours) == 3 and all(math.isfinite(part) for part in hours):
        seconds = round(hours[0] * 3600 + hours[1] * 60 + hours[2], 6)
        stamp_ns = _parsed(f"{_text(gps.get(_DATE)).replace('-', ':')} 00:00:00")
        if stamp_ns != UNKNOWN_STAMP_NS and 0 <= seconds <= 86400:
            return stamp_ns + round(seconds * 1e6) * 1000, False
    fraction = _text(taken.get(_TAKEN_SUBSECOND))
    text = _text(taken.get(_TAKEN)) + (f".{fraction}" if fraction.isdecimal() else "") + _text(taken.get(_TAKEN_OFFSET))
    stamp_ns = _parsed(text)
    return stamp_ns, stamp_ns != UNKNOWN_STAMP_NS and not has_offset(text)


def _parsed(text: str) -> int:
    try:
        # A bare number is no time here.
        return parse_stamp(text) if ":" in text else UNKNOWN_STAMP_NS
    except ValueError:
        return UNKNOWN_STAMP_NS


def _number(value: Any) -> float:
    """A rational as float; NaN for what is not there, 0/0 and everything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    return text.replace("\0", "").strip()
