"""Map images from a folder of geotagged photographs."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vgssl_core.errors import DataError
from vgssl_core.geomap.exif import PhotoTags, read_tags
from vgssl_core.geomap.map_images import MapImages, images_of_files
from vgssl_core.geomap.positions import HIGHEST_M, MapPositions
from vgssl_core.places import IMAGE_SUFFIXES, UNKNOWN_STAMP_NS

#: Photographs that our decoder does not read; named, so that nobody wonders where they are.
_FOREIGN_SUFFIXES = {".heic", ".heif", ".avif", ".jxl", ".dng", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".rw2"}
_NAMED = 3
_log = logging.getLogger(__name__)


def from_photographs(folder: str | Path, skip_untagged: bool = False) -> MapImages:
    """The photographs below a folder, with the positions, headings and times of their EXIF.

    Subfolders are walked too (links to folders are not), in the order of their names; hidden files and folders are
    left out. A heading from magnetic north is taken as it is, with a warning; an altitude that is impossible is taken
    as unknown, with another one. Time is the GPS's, else the camera's
    clock, which is taken as UTC where it does not tell its offset.

    Args:
        folder: The folder.
        skip_untagged: Leave out photographs without position instead of refusing them; they are counted and named.

    Raises:
        DataError: No folder, no photograph in it, or photographs without position.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one with photographs.")
    paths = _photographs(folder)
    tagged: list[tuple[Path, PhotoTags]] = []
    untagged: list[str] = []
    for path in tqdm(paths, desc="read EXIF", unit="image", delay=1.0):
        try:
            tagged.append((path, read_tags(path)))
        except ValueError as problem:
            untagged.append(f"{path} ({problem})")
    if untagged:
        named = f"{', '.join(untagged[:_NAMED])}{', …' if len(untagged) > _NAMED else ''}"
        text = f"{len(untagged)} of {len(paths)} photographs have no usable GPS position: {named}"
        if not (skip_untagged and tagged):
            remedy = ", or give --skip-untagged" if tagged else ""
            raise DataError(f"{text}. Give them one or remove them{remedy}.")
        _log.warning("%s. They are left out.", text)
    _warn([tags for _, tags in tagged])
    return images_of_files([path for path, _ in tagged], _positions(tagged), f"photographs {folder}")


def _photographs(folder: Path) -> list[Path]:
    """Image files below the folder, in the order of their names, folder by folder."""

    def refuse(problem: OSError) -> None:
        raise DataError(f"Cannot read the folder {problem.filename}: {problem.strerror}.") from problem

    found: list[Path] = []
    foreign: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                found.append(Path(place, name))
            elif suffix in _FOREIGN_SUFFIXES:
                foreign[suffix] += 1
    if foreign:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(foreign.items()))
        _log.warning("%s holds files that are not read (%s): convert them to JPEG with their EXIF.", folder, listed)
    if not found:
        raise DataError(f"{folder} holds no photograph ({', '.join(sorted(IMAGE_SUFFIXES))}): put some there.")
    return found


def _warn(tags: list[PhotoTags]) -> None:
    magnetic = sum(item.is_magnetic and not math.isnan(item.heading_deg) for item in tags)
    if magnetic:
        _log.warning(
            "%d of %d headings are from magnetic north and taken as they are: they may be some degrees off.",
            *(magnetic, len(tags)),
        )
    impossible = sum(abs(item.altitude_m) > HIGHEST_M for item in tags)
    if impossible:
        _log.warning("%d of %d altitudes are impossible and taken as unknown.", impossible, len(tags))
    clocks = sum(item.is_local_time for item in tags)
    if clocks:
        _log.info("%d of %d times are of a clock that does not tell its offset: taken as UTC.", clocks, len(tags))
    unknown = sum(item.stamp_ns == UNKNOWN_STAMP_NS for item in tags)
    if unknown:
        _log.info("%d of %d photographs do not tell when they were taken.", unknown, len(tags))


def _positions(tagged: list[tuple[Path, PhotoTags]]) -> MapPositions:
    def numbers(name: str) -> np.ndarray:
        return np.array([getattr(tags, name) for _, tags in tagged], np.float64)

    altitude = numbers("altitude_m")
    return MapPositions(
        numbers("latitude_deg"),
        numbers("longitude_deg"),
        np.where(np.abs(altitude) > HIGHEST_M, np.nan, altitude),
        numbers("heading_deg"),
        np.array([tags.stamp_ns for _, tags in tagged], np.int64),
        tuple(str(path) for path, _ in tagged),
    )
