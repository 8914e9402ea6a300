"""Reader of the ``@``-named layout that the field's public sets come in."""

from __future__ import annotations

import collections
import logging
import os
from pathlib import Path

import numpy as np

from vgssl_core import geodesy
from vgssl_core.errors import DataError
from vgssl_core.places.names import PlaceName, parse_place_name
from vgssl_core.places.place_set import Places, PlaceSet

_log = logging.getLogger(__name__)
#: The written fields are rounded, and only a check on the UTM position: about 100 m.
_WRITTEN_TOLERANCE_DEG = 1e-3
SPLITS = ("train", "val", "test")
#: Ends of the names of image files, in lower case.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def read_place_set(root: str | Path, split: str | None = None) -> PlaceSet:
    """Read ``ROOT/images/SPLIT/{database,queries}`` or ``ROOT/images/{database,queries}``.

    Args:
        root: Folder of the set, or its ``images`` folder.
        split: ``train``, ``val`` or ``test``. A set without splits is read whole whatever is asked; None asks
            for such a set.

    Returns:
        Images sorted by file name. ``queries`` is empty where the set has no such folder.

    Raises:
        DataError: No such folder, no image in it, an image without position, or UTM and local names mixed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds images/database.")
    images, present, name = _images(root), splits(root), root.resolve().name
    if (images / "database").is_dir():
        folder = images
    elif split in present:
        folder, name = images / split, f"{name}/{split}"
    elif present:
        wanted = "no split was named" if split is None else f"the split {split!r} is not among them"
        raise DataError(f"{root} has the splits {', '.join(present)}, and {wanted}: name one of them.")
    else:
        raise DataError(
            f"{root} is not a place set: it has neither images/database nor images/{split or 'test'}/database."
        )
    names = {part: _image_names(folder / part) for part in ("database", "queries")}
    if not names["database"]:
        raise DataError(
            f"{folder / 'database'} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}): put the database images "
            "there."
        )
    parsed = {part: [(folder / part / item, parse_place_name(item)) for item in items] for part, items in names.items()}
    names_of_all = [entry for entries in parsed.values() for _, entry in entries]
    zone, letter = _common_zone(names_of_all, folder)
    places = (_places(parsed[part], zone, letter) for part in ("database", "queries"))
    return PlaceSet(name, root, *(_checked(part, names_of_all) for part in places))


def splits(root: str | Path) -> tuple[str, ...]:
    """Which of train, val and test a place set is divided in; empty for a set without splits."""
    return tuple(name for name in SPLITS if (_images(Path(root)) / name / "database").is_dir())


def _images(root: Path) -> Path:
    return root / "images" if (root / "images").is_dir() else root


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if not entry.name.startswith(".") and entry.is_file())
        return sorted(entry.name for entry in visible if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES)


def _common_zone(entries: list[PlaceName], folder: Path) -> tuple[int | None, str]:
    """The zone that most images lie in: one plane for all of them."""
    zones = collections.Counter((entry.zone, entry.letter or "N") for entry in entries if entry.zone is not None)
    if not zones:
        return None, ""
    if sum(zones.values()) != len(entries):
        raise DataError(
            f"{folder}: {sum(zones.values())} of {len(entries)} file names carry a UTM zone and the others do not. "
            "Give all of them a zone, or none."
        )
    return zones.most_common(1)[0][0]


def _checked(places: Places, names: list[PlaceName]) -> Places:
    """Places whose positions are on Earth, or all local.

    Raises:
        DataError: UTM coordinates that lie nowhere, or latitudes that only some of the names have.
    """
    georeferenced = any(name.zone is not None or np.isfinite(name.latitude_deg) for name in names)
    known = np.isfinite(places.latitude_deg) & np.isfinite(places.longitude_deg)
    if georeferenced and not known.all():
        first = places.paths[int(np.argmin(known))]
        raise DataError(
            f"{int((~known).sum())} of {len(known)} images have no position on Earth although others have one, the "
            f"first is {first}: correct the names, or leave zone, latitude and longitude of all of them empty."
        )
    return places


def _places(entries: list[tuple[Path, PlaceName]], zone: int | None, letter: str) -> Places:
    names = [name for _, name in entries]
    planar = np.array([(n.east_m, n.north_m) for n in names], dtype=np.float64).reshape(-1, 2)
    latitude = np.array([n.latitude_deg for n in names], dtype=np.float64)
    longitude = np.array([n.longitude_deg for n in names], dtype=np.float64)
    if zone is not None:
        written = np.stack([latitude, longitude])
        for own_zone, own_letter in {(n.zone, n.letter or "N") for n in names}:
            chosen = np.array([(n.zone, n.letter or "N") == (own_zone, own_letter) for n in names])
            assert own_zone is not None
            latitude[chosen], longitude[chosen] = geodesy.utm_to_wgs84(
                planar[chosen, 0], planar[chosen, 1], own_zone, own_letter
            )
            # Another zone is another plane, and so is the same zone on the other side of the equator.
            if (own_zone, geodesy.is_south(own_letter)) != (zone, geodesy.is_south(letter)):
                planar[chosen] = np.stack(
                    geodesy.wgs84_to_utm(latitude[chosen], longitude[chosen], zone, letter), axis=-1
                )
        off = (np.abs(np.stack([latitude, longitude]) - written) > _WRITTEN_TOLERANCE_DEG).any(axis=0)
        if off.any():
            first = entries[int(np.argmax(off))][0]
            _log.warning(
                "%d of %d file names carry a latitude and longitude that their UTM position contradicts, the first is "
                "%s: the UTM position is taken.",
                int(off.sum()),
                len(names),
                first,
            )
    return Places(
        tuple(path for path, _ in entries),
        planar,
        latitude,
        longitude,
        np.array([n.altitude_m for n in names], dtype=np.float64),
        np.array([n.heading_deg for n in names], dtype=np.float64),
        np.array([n.stamp_ns for n in names], dtype=np.int64),
    )
