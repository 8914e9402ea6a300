"""The geotagged frames of a bag as a place set without queries, so that a network trains on a robot's own streets."""

from __future__ import annotations

from pathlib import Path

import cv2

from vgssl_core import geodesy
from vgssl_core.bags.geotag import GeotaggedFrames, Geotagging, TaggedFrame, geotag
from vgssl_core.bags.records import Frame
from vgssl_core.places.names import PlaceName
from vgssl_core.storage import atomic_folder

_JPEG_QUALITY = 95
#: First bytes of files that pass through as they are.
_FILES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}


def write_bag_places(bag: str | Path, out: str | Path, settings: Geotagging | None = None) -> GeotaggedFrames:
    """Write the frames of a bag to ``OUT/images/database``; JPEG and PNG files are copied as they are.

    Args:
        bag: The bag.
        out: Folder to create, in one step when all is written.
        settings: Topics and gates; None takes the defaults with a spacing of 1 m.

    Returns:
        What was written, and what was left out.

    Raises:
        DataError: No bag, no images, no positions, a topic that is not unique, an image that does not decode, or a
            position beyond UTM.
        VgsslError: ``out`` is there already.
    """
    frames = geotag(bag, settings or Geotagging(spacing_m=1.0))
    zone: tuple[int | None, str] = (None, "")
    if frames.is_georeferenced:
        zone = geodesy.utm_zone(float(frames.latitude_deg[0]), float(frames.longitude_deg[0]))
    with atomic_folder(out) as aside:
        folder = aside / "images" / "database"
        folder.mkdir(parents=True)
        for row, tagged in zip(frames.rows, frames, strict=True):
            data, suffix = _file(tagged.frame)
            (folder / _name(tagged, int(row), *zone).format(suffix)).write_bytes(data)
    return frames


def _name(tagged: TaggedFrame, row: int, zone: int | None, letter: str) -> PlaceName:
    """Position, heading, stamp, and the frame's number in the bag, which makes the name unique."""
    east, north, altitude = tagged.planar_m
    if zone is not None:
        east, north = geodesy.wgs84_to_utm(tagged.latitude_deg, tagged.longitude_deg, zone, letter)
        altitude = tagged.altitude_m
    return PlaceName(
        float(east),
        float(north),
        zone,
        letter,
        tagged.latitude_deg,
        tagged.longitude_deg,
        heading_deg=tagged.heading_deg,
        altitude_m=float(altitude),
        stamp_ns=tagged.stamp_ns,
        pano=f"{row:06d}",
    )


def _file(frame: Frame) -> tuple[bytes, str]:
    """Bytes and suffix of the image file."""
    data = frame.data.tobytes() if frame.is_compressed else b""
    for start, suffix in _FILES.items():
        if data.startswith(start):
            return data, suffix
    pixels = cv2.cvtColor(frame.image(), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes(), ".jpg"
