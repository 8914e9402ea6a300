"""Times that people and cameras write, as nanoseconds since 1970."""

from __future__ import annotations

import decimal
import re
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MOMENT = re.compile(
    r"(\d{4})[-:](\d\d)[-:](\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*(?:(Z|UTC)|([+-])(\d\d):?(\d\d)?)?",
    re.IGNORECASE,
)
#: Nanoseconds per unit, by the end of a column's name.
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
#: Numbers below these are seconds, milliseconds, microseconds; the first is the year 5138, and the others are 1973.
_MAGNITUDES = ((10**11, "s"), (10**14, "ms"), (10**17, "us"))


def parse_stamp(text: str, unit: str | None = None) -> int:
    """Nanoseconds since 1970-01-01 UTC.

    Args:
        text: ISO 8601 with date and time (``2024-05-01T10:30:00.25+02:00``; EXIF's colons in the date are taken too),
            or a number. Without offset it is UTC.
        unit: Of a number: one of ``UNITS``. None tells by its size: below 10^11 seconds, below 10^14 milliseconds,
            below 10^17 microseconds, else nanoseconds, which is right from 1973 to 5138.

    Raises:
        ValueError: Neither, no such date, before 1970, or after 2262.
    """
    matched = _MOMENT.fullmatch(text.strip())
    stamp_ns = _from_moment(matched) if matched else _from_number(text, unit)
    if not 0 <= stamp_ns < 2**63:
        raise ValueError("is not between 1970 and 2262")
    return stamp_ns


def has_offset(text: str) -> bool:
    """Whether an ISO 8601 text says where its clock stood."""
    matched = _MOMENT.fullmatch(text.strip())
    return matched is not None and (matched[8] or matched[9]) is not None


def _from_moment(matched: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (int(part or 0) for part in matched.groups()[:6])
    offset = timedelta(hours=int(matched[10] or 0), minutes=int(matched[11] or 0))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
        moment -= -offset if matched[9] == "-" else offset
    except (ValueError, OverflowError) as problem:
        raise ValueError(f"is no date and time ({problem})") from None
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9 + int((matched[7] or "0")[:9].ljust(9, "0"))


def _from_number(text: str, unit: str | None) -> int:
    try:
        # Not float: it has no room for the nanoseconds of our time.
        number = decimal.Decimal(text.strip()) if "_" not in text else decimal.Decimal("nan")
    except decimal.InvalidOperation:
        number = decimal.Decimal("nan")
    # Its digits are counted first: a number like 1e999999999 is not to be computed with.
    if not number.is_finite() or number.adjusted() > 18:
        raise ValueError("is neither an ISO 8601 date and time nor a number since 1970")
    unit = unit or next((name for limit, name in _MAGNITUDES if abs(number) < limit), "ns")
    return int((number * UNITS[unit]).to_integral_value())
