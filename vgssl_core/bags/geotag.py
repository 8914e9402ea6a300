"""Giving every camera frame of a bag a position and a heading, interpolated in time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags.reader import BagReader
from vgssl_core.bags.records import NAV_SAT_FIX, ODOMETRY, Frame
from vgssl_core.bags.track import Floats, Track, read_track, thinned
from vgssl_core.errors import DataError
from vgssl_core.geodesy import LocalFrame

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedFrame:
    """One image with its position.

    Attributes:
        frame: The image, not decoded yet.
        planar_m: (3,) x east, y north, z up in metres: ENU at the first fix, or the odometry's own frame.
        latitude_deg, longitude_deg, altitude_m: WGS84; NaN for odometry (and altitude where unknown).
        heading_deg: Compass heading in degrees (in the odometry's frame: from its y axis); NaN where unknown.
    """

    frame: Frame
    planar_m: Floats
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    heading_deg: float

    @property
    def stamp_ns(self) -> int:
        """Header stamp of the image, nanoseconds."""
        return self.frame.stamp_ns


@dataclass(frozen=True)
class GeotaggedFrames:
    """N frames of a bag with positions; the columns are in memory, iteration streams the images.

    Iterating opens the bag again and yields a `TaggedFrame` for each row, in the order of the columns.

    Attributes:
        bag: The bag's path.
        image_topic, position_topic: Where images and positions come from.
        stamp_ns: (N,) int64 header stamps, in the order of recording.
        planar_m: (N, 3) metres, see `TaggedFrame`.
        latitude_deg, longitude_deg, altitude_m, heading_deg: (N,) float64, see `TaggedFrame`.
        rows: (N,) int64, which of the topic's images these are, counted from 0.
        frame: The ENU frame of ``planar_m``; None when positions come from odometry.
        frames_total: Images on the topic.
        without_position: Images outside the track or in one of its gaps.
        positions_dropped: Positions that were NaN or without a fix.
    """

    bag: Path
    image_topic: str
    position_topic: str
    stamp_ns: NDArray[np.int64]
    planar_m: Floats
    latitude_deg: Floats
    longitude_deg: Floats
    altitude_m: Floats
    heading_deg: Floats
    rows: NDArray[np.int64]
    frame: LocalFrame | None
    frames_total: int
    without_position: int
    positions_dropped: int

    @property
    def is_georeferenced(self) -> bool:
        """Whether latitude and longitude are known; otherwise the positions are local."""
        return self.frame is not None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[TaggedFrame]:
        wanted = {int(row): index for index, row in enumerate(self.rows)}
        with BagReader(self.bag) as bag:
            for row, frame in enumerate(bag.frames(self.image_topic)):
                index = wanted.get(row)
                if index is not None:
                    yield TaggedFrame(
                        frame,
                        self.planar_m[index],
                        float(self.latitude_deg[index]),
                        float(self.longitude_deg[index]),
                        float(self.altitude_m[index]),
                        float(self.heading_deg[index]),
                    )


def geotag(
    bag: BagReader | str | Path,
    image_topic: str | None = None,
    position_topic: str | None = None,
    spacing_m: float = 0.0,
    max_gap_s: float = 3.0,
) -> GeotaggedFrames:
    """Give the images of a bag positions, and thin them.

    Args:
        bag: An open reader or a path.
        image_topic: Image or CompressedImage topic; None is the only one.
        position_topic: NavSatFix or Odometry topic; None is the only NavSatFix topic, or without any the only
            Odometry topic.
        spacing_m: Keep an image only when it lies at least this far from the last one kept; 0 keeps all.
        max_gap_s: Images between two positions further apart than this in time are left out.

    Returns:
        The images that have a position; what was left out is counted there and logged.

    Raises:
        DataError: No images, no positions, a choice of topics that is not unique, or no image with a position.
    """
    if not isinstance(bag, BagReader):
        with BagReader(bag) as opened:
            return geotag(opened, image_topic, position_topic, spacing_m, max_gap_s)
    image_topic = bag.image_topic(image_topic)
    track, dropped = read_track(bag, position_topic, max_gap_s)
    stamps_ns = bag.image_stamps_ns(image_topic)
    if not len(stamps_ns):
        raise DataError(f"{bag.path} holds no images on {image_topic}: the topic is there but empty.")
    planar, heading = track.at(stamps_ns, max_gap_s)
    placed = np.flatnonzero(np.isfinite(planar[:, :2]).all(axis=1))
    if not len(placed):
        raise DataError(
            f"{bag.path}: none of the {len(stamps_ns)} images on {image_topic} lies in time between two positions of "
            f"{track.topic} that are at most {max_gap_s:g} s apart. Check the clocks, or choose another topic."
        )
    if len(placed) < len(stamps_ns):
        _log.warning("%d of %d images have no position in time", len(stamps_ns) - len(placed), len(stamps_ns))
    rows = placed[thinned(planar[placed, :2], spacing_m)]
    latitude, longitude, altitude = _to_wgs84(track, planar[rows])
    return GeotaggedFrames(
        bag.path,
        image_topic,
        track.topic,
        stamps_ns[rows],
        planar[rows],
        latitude,
        longitude,
        altitude,
        heading[rows],
        rows,
        track.frame,
        len(stamps_ns),
        len(stamps_ns) - len(placed),
        dropped,
    )


def ground_truth_topic(bag: BagReader, georeferenced: bool) -> str:
    """The topic that tells where a drive really was.

    Args:
        bag: The bag.
        georeferenced: Whether a NavSatFix is wanted (``/ground_truth/fix``, else the only one), or an Odometry
            (``/ground_truth/odom``, else the only one) for a local map.

    Raises:
        DataError: No such topic, or several and none of that name.
    """
    kind, name = (NAV_SAT_FIX, "/ground_truth/fix") if georeferenced else (ODOMETRY, "/ground_truth/odom")
    if name in bag.topics_of(kind):
        return name
    return bag.fix_topic() if georeferenced else bag.odometry_topic()


def _to_wgs84(track: Track, planar_m: Floats) -> tuple[Floats, Floats, Floats]:
    if track.frame is not None:
        return track.frame.to_wgs84(planar_m)
    unknown = np.full(len(planar_m), np.nan)
    return unknown, unknown.copy(), unknown.copy()
