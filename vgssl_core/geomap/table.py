"""Map images from a CSV table: one line per image with its position."""

from __future__ import annotations

import csv
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError
from vgssl_core.geomap.map_images import MapImages, images_of_files
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.geomap.stamps import UNITS, parse_stamp
from vgssl_core.places import UNKNOWN_STAMP_NS

#: Headers of each column, in lower case, with _ for spaces, dots and hyphens, without a unit in brackets.
HEADERS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "path", "image_path", "file", "filename", "file_name", "image_name", "photo", "sourcefile"),
    "latitude": ("latitude", "lat", "latitude_deg", "lat_deg", "gps_latitude", "gpslatitude"),
    "longitude": ("longitude", "lon", "lng", "long", "longitude_deg", "lon_deg", "gps_longitude", "gpslongitude"),
    "x": ("x", "x_m", "east", "east_m", "easting"),
    "y": ("y", "y_m", "north", "north_m", "northing"),
    "altitude": ("altitude", "alt", "altitude_m", "alt_m", "elevation", "height", "gpsaltitude", "z", "z_m"),
    "heading": ("heading", "heading_deg", "compass", "compass_angle", "bearing", "azimuth", "gpsimgdirection"),
    "stamp": ("timestamp", "stamp", "time", "datetime", "date_time", "captured_at", "stamp_ns"),
}
_DELIMITERS = ",;\t"
_NAMED = 3
_log = logging.getLogger(__name__)


def from_table(path: str | Path, missing_ok: bool = False) -> MapImages:
    """The images that a CSV table lists.

    The first line names the columns, in any order and case (``HEADERS``): the image, a path that is absolute or
    relative to the table; latitude and longitude in degrees (WGS84), or x and y in metres for a local map; and where
    they are known altitude in metres, compass heading in degrees, and time (`parse_stamp`; a name that ends in
    ``_s``, ``_ms``, ``_us`` or ``_ns`` sets the unit of numbers). Empty or NaN is unknown. Other columns are not used,
    and neither are x and y beside latitude and longitude. UTF-8, separated by comma, semicolon or tab.

    Args:
        path: The table.
        missing_ok: Images that are not there are left to the embedding, which counts them among the damaged ones.

    Raises:
        DataError: A column is missing or there twice; a cell cannot be used; images are missing or listed twice. The
            message names file, line and column.
    """
    path = Path(path)
    rows = _rows(path)
    _, header = next(rows, (0, []))
    lines, values = _read_lines(path, rows, header, _recognised(path, header))
    if not lines:
        raise DataError(f"{path} lists no image: below its header there is no line.")
    images = [path.parent / name for name in values["image"]]
    _check_images(path, lines, images, missing_ok)
    return images_of_files(images, _positions(values), f"table {path}")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line and cells of each row that is not empty."""
    line = 0
    try:
        # Some spreadsheets begin with a mark that is not part of the first header.
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = max(_DELIMITERS, key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
            for cells in reader:
                line = reader.line_num
                if any(cell.strip() for cell in cells):
                    yield line, [cell.strip() for cell in cells]
    except OSError as problem:
        raise DataError(f"Cannot read the table {path}: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 after line {line}: save it as CSV in UTF-8.") from problem
    except csv.Error as problem:
        raise DataError(f"{path}, after line {line}: {problem}. Correct the table.") from problem


def _recognised(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Which column is where."""
    columns: dict[str, int] = {}
    for index, name in enumerate(header):
        plain = re.sub(r"[ .\-]+", "_", re.sub(r"\s*[\[(].*[\])]$", "", name.lower()))
        bare = re.sub(rf"_({'|'.join(UNITS)})$", "", plain)
        for column in (c for c, names in HEADERS.items() if plain in names or (c == "stamp" and bare in names)):
            if column in columns:
                raise DataError(
                    f"{path}, line 1: the columns {header[columns[column]]!r} and {name!r} both tell the {column}. "
                    "Rename or remove one of them."
                )
            columns[column] = index
    planar = not columns.keys() & {"latitude", "longitude"} and columns.keys() & {"x", "y"}
    for column in ("image", *(("x", "y") if planar else ("latitude", "longitude"))):
        if column not in columns:
            raise DataError(
                f"{path}, line 1: there is no column of the {column} ({', '.join(HEADERS[column])}); there are "
                f"{', '.join(map(repr, header)) or 'none'}. Add it, or name one so."
            )
    if not planar:
        columns = {column: index for column, index in columns.items() if column not in ("x", "y")}
    if unused := [name for index, name in enumerate(header) if index not in columns.values()]:
        _log.info("%s: the columns %s are not used.", path, ", ".join(map(repr, unused)))
    return columns


def _read_lines(
    path: Path, rows: Iterator[tuple[int, list[str]]], header: Sequence[str], columns: Mapping[str, int]
) -> tuple[list[int], dict[str, list[Any]]]:
    """Line numbers, and the values of each column."""
    readers = dict(_READERS)
    if "stamp" in columns:
        unit = re.search(rf"[_ .(\[-]({'|'.join(UNITS)})[)\]]?$", header[columns["stamp"]].lower())
        readers["stamp"] = functools.partial(_stamp, unit=unit[1] if unit else None)
    lines: list[int] = []
    values: dict[str, list[Any]] = {column: [] for column in columns}
    problems: list[str] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, line {line} has {len(cells)} cells, the header {len(header)}: correct the line.")
        lines.append(line)
        for column, index in columns.items():
            try:
                values[column].append(readers[column](cells[index]))
            except ValueError as problem:
                problems.append(f"line {line}, column {header[index]!r}: {cells[index][:60]!r} {problem}")
    if problems:
        raise DataError(f"{path}: {len(problems)} values cannot be used: {_listed(problems)}. Correct the table.")
    return lines, values


def _image(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("names no file")
    return text


def _stamp(text: str, unit: str | None) -> int:
    return parse_stamp(text, unit) if text else UNKNOWN_STAMP_NS


def _number(text: str) -> float:
    try:
        value = float("text" if "_" in text else text)
    except ValueError:
        comma = " (write a decimal point, not a comma)" if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
        raise ValueError(f"is not a number{comma}") from None
    if math.isinf(value):
        raise ValueError("is not finite")
    return value


def _needed(text: str, limit: float = math.inf) -> float:
    if not text:
        raise ValueError("is empty: give the image a position or leave it out")
    value = _number(text)
    if not abs(value) <= limit:
        raise ValueError("is no position" if math.isnan(value) else f"is beyond {limit:g} degrees")
    return value


def _optional(text: str) -> float:
    return _number(text) if text else math.nan


def _heading(text: str) -> float:
    value = _optional(text)
    if abs(value) > 360:
        raise ValueError("is no compass heading in degrees")
    return value % 360


_READERS: Mapping[str, Callable[[str], Any]] = {
    "image": _image,
    "latitude": lambda text: _needed(text, 90),
    "longitude": lambda text: _needed(text, 180),
    "x": _needed,
    "y": _needed,
    "altitude": _optional,
    "heading": _heading,
}


def _check_images(path: Path, lines: Sequence[int], images: Sequence[Path], missing_ok: bool) -> None:
    first: dict[str, int] = {}
    twice = []
    for line, image in zip(lines, images, strict=True):
        before = first.setdefault(os.path.normpath(image), line)
        if before != line:
            twice.append(f"line {line}: {image} is in line {before} too")
    if twice:
        raise DataError(f"{path}: {len(twice)} images are listed again: {_listed(twice)}. Remove one line of each.")
    pairs = () if missing_ok else zip(lines, images, strict=True)
    missing = [f"line {line}: {image}" for line, image in pairs if not image.is_file()]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(images)} images are missing: {_listed(missing)}. Correct the paths (they "
            "are absolute or relative to the table), or give --skip-damaged."
        )


def _listed(problems: Sequence[str]) -> str:
    return "; ".join(problems[:_NAMED]) + ("; …" if len(problems) > _NAMED else "")


def _positions(values: Mapping[str, list[Any]]) -> MapPositions:
    count = len(values["image"])

    def numbers(column: str) -> NDArray[np.float64]:
        return np.array(values.get(column, [math.nan] * count), np.float64)

    return MapPositions(
        numbers("latitude"),
        numbers("longitude"),
        numbers("altitude"),
        numbers("heading"),
        np.array(values.get("stamp", [UNKNOWN_STAMP_NS] * count), np.int64),
        tuple(values["image"]),
        np.stack([numbers("x"), numbers("y")], axis=1) if "x" in values else None,
    )
