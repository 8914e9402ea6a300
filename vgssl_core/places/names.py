"""The field's file name: ``@east@north@zone@letter@lat@lon@pano@tile@heading@pitch@roll@height@time@note@.jpg``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from vgssl_core import geodesy
from vgssl_core.errors import DataError
from vgssl_core.places.place_set import UNKNOWN_STAMP_NS

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class PlaceName:
    """What a file name tells about its image.

    Attributes:
        east_m, north_m: Planar position; UTM when ``zone`` is there.
        zone, letter: UTM zone and band, or None and "" for a local set.
        latitude_deg, longitude_deg: As written (rounded), NaN when empty: a check on UTM, or the position itself
            where no zone is given.
        heading_deg, altitude_m: NaN when empty.
        stamp_ns: ``UNKNOWN_STAMP_NS`` when empty or not a time.
        pano, note: Free text.
    """

    east_m: float
    north_m: float
    zone: int | None = None
    letter: str = ""
    latitude_deg: float = math.nan
    longitude_deg: float = math.nan
    heading_deg: float = math.nan
    altitude_m: float = math.nan
    stamp_ns: int = UNKNOWN_STAMP_NS
    pano: str = ""
    note: str = ""

    def format(self, suffix: str = ".jpg") -> str:
        """The file name; empty fields for what is not known. Time is written in nanoseconds.

        Raises:
            DataError: A text that would break the name: with an ``@``, a ``/`` or a control character.
        """
        for text in (self.letter, self.pano, self.note, suffix):
            if "@" in text or "/" in text or not text.isprintable():
                raise DataError(f"{text!r} cannot be part of an image's name: leave out @, / and control characters.")

        def number(value: float, pattern: str) -> str:
            return "" if math.isnan(value) else pattern.format(value)

        fields = [
            f"{self.east_m:010.2f}",
            f"{self.north_m:010.2f}",
            "" if self.zone is None else str(self.zone),
            self.letter,
            number(self.latitude_deg, "{:.7f}"),
            number(self.longitude_deg, "{:.7f}"),
            self.pano,
            "",
            number(self.heading_deg, "{:.2f}"),
            "",
            "",
            number(self.altitude_m, "{:.2f}"),
            "" if self.stamp_ns == UNKNOWN_STAMP_NS else str(self.stamp_ns),
            self.note,
        ]
        return "@" + "@".join(fields) + "@" + suffix


def parse_place_name(name: str) -> PlaceName:
    """Read a file name of the ``@`` layout.

    Raises:
        DataError: Not of that layout, or without a finite position.
    """
    fields = name.split("@")
    if len(fields) < 4 or fields[0]:
        raise DataError(f"{name}: not an @-name. Expected @east@north@zone@letter@lat@lon@…@.jpg.")
    fields = [field.strip() for field in fields[1:-1]] + [""] * 14

    def number(index: int, what: str, required: bool = False) -> float:
        text = fields[index]
        if not text and not required:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            raise DataError(f"{name}: {what} is {text!r}, not a number. Correct the file name.") from None
        if not math.isfinite(value):
            raise DataError(f"{name}: {what} is {text}. Give the image a position or remove it from the set.")
        return value

    zone = fields[2]
    if zone and not (re.fullmatch("[0-9]{1,2}", zone) and 1 <= int(zone) <= 60):
        raise DataError(f"{name}: UTM zone is {zone!r}, not a number from 1 to 60. Correct the file name.")
    letter = fields[3].upper()
    if zone and letter not in ("", *geodesy.UTM_LETTERS):
        raise DataError(f"{name}: UTM band is {letter!r}, not one of {geodesy.UTM_LETTERS}. Correct the file name.")
    return PlaceName(
        east_m=number(0, "UTM east", required=True),
        north_m=number(1, "UTM north", required=True),
        zone=int(zone) if zone else None,
        letter=letter,
        latitude_deg=number(4, "latitude"),
        longitude_deg=number(5, "longitude"),
        heading_deg=number(8, "heading"),
        altitude_m=number(11, "height"),
        stamp_ns=_parse_stamp(fields[12]),
        pano=fields[6],
        note=fields[13],
    )


def _parse_stamp(text: str) -> int:
    """``YYYYMMDD_HHMMSS``, or integer nanoseconds; anything else is unknown (the field is used freely)."""
    if re.fullmatch(r"\d{8}_\d{6}", text):
        try:
            moment = datetime.strptime(text, "%Y%m%d_%H%M%S").replace(tzinfo=timezone.utc)
        except ValueError:
            return UNKNOWN_STAMP_NS
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return int(text) if re.fullmatch(r"\d{16,19}", text) and int(text) < 2**63 else UNKNOWN_STAMP_NS
