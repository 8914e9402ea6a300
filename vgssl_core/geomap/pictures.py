"""The pictures behind a map's images, for people to look at, where they still are."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from vgssl_core.bags import BagReader
from vgssl_core.errors import DataError
from vgssl_core.geomap.geo_map import GeoMap
from vgssl_core.imaging import Image, read_image

_CACHED = 16
#: A recorder receives an image about when it was taken; further away in the bag it is not looked for.
_NEAR_NS = 5_000_000_000


class MapPictures:
    """Pictures by the index of a map's image; for one thread."""

    def __init__(self, geomap: GeoMap) -> None:
        """Nothing is read before it is asked for."""
        self._geomap = geomap
        self._cached = functools.lru_cache(_CACHED)(_picture)

    def source(self, index: int) -> str:
        """Where an image comes from, as the map remembers it.

        Raises:
            MapError: The map's records are damaged.
        """
        return self._geomap.sources[index]

    def picture(self, index: int) -> Image | None:
        """The picture; None where it is no longer there.

        Raises:
            MapError: The map's records are damaged.
        """
        return self._cached(self.source(index))


def _picture(source: str) -> Image | None:
    try:
        if matched := re.fullmatch(r"(.+)#(/.*)@(-?\d+)", source):
            return _frame(Path(matched[1]), matched[2], int(matched[3]))
        return read_image(source)
    except DataError:
        return None


def _frame(path: Path, topic: str, stamp_ns: int) -> Image | None:
    with BagReader(path) as bag:
        frames = bag.frames(topic, stamp_ns - _NEAR_NS, stamp_ns + _NEAR_NS)
        return next((frame.image() for frame in frames if frame.stamp_ns == stamp_ns), None)
