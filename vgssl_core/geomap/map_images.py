"""Images that a map is built from, whatever they are read from."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vgssl_core.bags import BagReader, GeotaggedFrames, Geotagging, geotag
from vgssl_core.errors import DataError
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.imaging import Image, read_image
from vgssl_core.places import read_place_set

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapImages:
    """N images with positions.

    Attributes:
        positions: Where they were taken.
        items: Name and loader of each, in the order of the positions, read once and one after the other.
        description: Where they come from, for people.
        files: What they are read from: a file each, or those of a bag.
        account: What was taken and what was left out, where that was chosen among.
    """

    positions: MapPositions
    items: Iterable[tuple[str, Callable[[], Image]]]
    description: str
    files: Sequence[Path]
    account: str = ""

    @property
    def source(self) -> str:
        """What the map remembers about where it comes from."""
        return f"{self.description}: {self.account}" if self.account else self.description


def images_of_files(paths: Sequence[Path], positions: MapPositions, description: str) -> MapImages:
    """Images that are a file each.

    Args:
        paths: The files.
        positions: Theirs; their sources become the absolute paths, so that people find them from wherever they ask.
        description: Where they come from, for people.

    Raises:
        DataError: Positions that no map can hold, or a name that is no text.
    """
    positions.check()
    positions = replace(positions, source=tuple(str(path.resolve()) for path in paths))
    for source in positions.source:
        if not source.isascii() and any("\ud800" <= letter <= "\udfff" for letter in source):
            raise DataError(f"The name of {source!r} is not UTF-8: rename the file or its folder.")
    items = ((str(path), functools.partial(read_image, path)) for path in paths)
    return MapImages(positions, items, description, paths)


def from_place_set(root: str | Path, split: str | None = None) -> MapImages:
    """The database images of a place set.

    Args:
        root: The set's folder.
        split: Which split, where it has splits.

    Raises:
        DataError: No place set, no images, or an image without position.
    """
    place_set = read_place_set(root, split)
    positions = MapPositions.from_places(place_set.database)
    return images_of_files(place_set.database.paths, positions, f"place set {place_set.name}")


def from_bag(path: str | Path, settings: Geotagging | None = None) -> MapImages:
    """The images of a bag, with poses interpolated in time.

    Args:
        path: The bag.
        settings: Topics and gates; None takes the defaults.

    Raises:
        DataError: No bag, no images, no positions, or a topic that is not unique.
    """
    frames = geotag(path, settings)
    positions = _positions_of(frames)
    positions.check()
    items = ((tagged.frame.source, tagged.frame.image) for tagged in frames)
    account = frames.account()
    _log.info("%s: %s", frames.bag, account)
    description = f"bag {frames.bag}, {frames.image_topic}"
    return MapImages(positions, items, description, _files_of(frames.bag.resolve()), account)


def _files_of(bag: Path) -> list[Path]:
    return sorted(path for path in bag.rglob("*") if path.is_file()) if bag.is_dir() else [bag]


def _positions_of(frames: GeotaggedFrames) -> MapPositions:
    return MapPositions(
        frames.latitude_deg,
        frames.longitude_deg,
        frames.altitude_m if frames.is_georeferenced else frames.planar_m[:, 2],
        frames.heading_deg,
        frames.stamp_ns,
        tuple(frame_source(frames.bag.resolve(), frames.image_topic, stamp) for stamp in frames.stamp_ns),
        np.ascontiguousarray(frames.planar_m[:, :2]),
    )


def frame_source(bag: str | Path, topic: str, stamp_ns: int) -> str:
    """Where a map image that came from a bag is: ``BAG#TOPIC@STAMP``."""
    return f"{bag}#{topic}@{stamp_ns}"


def source_images(sources: Collection[str]) -> dict[str, Image]:
    """The images behind a map's sources, for people to look at; each bag is read once.

    Args:
        sources: Files, or frames as `frame_source` names them.

    Returns:
        Source → image; without those that are no longer there.
    """
    images = {}
    frames = collections.defaultdict(set)
    for source in sources:
        if matched := re.fullmatch(r"(.+)#(/.*)@(-?\d+)", source):
            frames[matched[1], matched[2]].add(int(matched[3]))
        else:
            with contextlib.suppress(DataError):
                images[source] = read_image(source)
    for (path, topic), stamps in frames.items():
        with contextlib.suppress(DataError), BagReader(path) as bag:
            for frame in bag.frames(topic):
                if frame.stamp_ns in stamps:
                    with contextlib.suppress(DataError):
                        images[frame_source(path, topic, frame.stamp_ns)] = frame.image()
    return images
