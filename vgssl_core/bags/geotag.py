"""Giving every camera frame of a bag a pose, interpolated in time: fixes, odometry, or both together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags.fused_track import FusedTrack, fuse
from vgssl_core.bags.reader import BagReader
from vgssl_core.bags.records import NAV_SAT_FIX, ODOMETRY, Frame
from vgssl_core.bags.sifting import STATUSES, FixGate, Sifted, sift_fixes, sift_odometry
from vgssl_core.bags.track import Floats, Track, thinned, track_of_fixes, track_of_odometry, typical_sigma_m
from vgssl_core.errors import DataError
from vgssl_core.extrinsics import IN_ORIGIN, Extrinsics, camera_poses
from vgssl_core.geodesy import LocalFrame

_log = logging.getLogger(__name__)
#: Words for ``Geotagging.odometry_topic`` that are no topics.
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class Geotagging:
    """How the images of a bag get their poses.

    Attributes:
        spacing_m: Bag only: leave out images nearer than this to the last one taken; 0 takes all.
        image_topic: Bag only: the image topic, where there are several.
        position_topic: Bag only: NavSatFix or Odometry topic, where there are several. Fixes are preferred.
        odometry_topic: Bag only: Odometry topic that tells the way between fixes and the heading; auto takes the only
            one (beside that of the truth), none leaves it out.
        max_gap_s: Bag only: leave out images between two positions further apart in time.
        max_bridge_s: Bag only: where there is odometry, fixes may be further apart in time, up to this.
        gnss_status: Bag only: leave out fixes of a lower status: any fix, with satellite or with ground augmentation.
        max_sigma_m: Bag only: leave out fixes that state a larger horizontal standard deviation.
        camera_extrinsics: Bag only: pose of the camera in the frame that the positions are of (base_link, or the
            antenna): x y z in metres, roll pitch yaw in radians, for a camera frame with x along the optical axis, y
            left, z up. The map then holds poses of the camera, and the node needs its camera_extrinsics.
    """

    spacing_m: float = 0.0
    image_topic: str | None = None
    position_topic: str | None = None
    odometry_topic: str = AUTO
    max_gap_s: float = 3.0
    max_bridge_s: float = 30.0
    gnss_status: Literal["fix", "sbas", "gbas"] = "fix"
    max_sigma_m: float = 25.0
    camera_extrinsics: Extrinsics = IN_ORIGIN


@dataclass(frozen=True)
class TaggedFrame:
    """One image with the pose of its camera.

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
        odometry_topic: What tells the way between fixes; None where they are interpolated alone.
        stamp_ns: (N,) int64 header stamps, in the order of recording.
        planar_m: (N, 3) metres, see `TaggedFrame`.
        latitude_deg, longitude_deg, altitude_m, heading_deg: (N,) float64, see `TaggedFrame`.
        rows: (N,) int64, which of the topic's images these are, counted from 0.
        frame: The ENU frame of ``planar_m``; None when positions come from odometry.
        frames_total: Images on the topic.
        without_position: Images outside the track or in one of its gaps.
        positions: What of the recorded positions was used.
        settings: How they were tagged.
    """

    bag: Path
    image_topic: str
    position_topic: str
    odometry_topic: str | None
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
    positions: Sifted
    settings: Geotagging

    @property
    def positions_dropped(self) -> int:
        """Positions that were not used."""
        return sum(self.positions.dropped.values())

    def account(self) -> str:
        """What was taken and what was left out, and why, for people."""
        settings = self.settings
        near = self.frames_total - self.without_position - len(self)
        parts = [
            f"{len(self)} of {self.frames_total} images"
            + (f", {self.without_position} without a position in time" if self.without_position else "")
            + (f", {near} nearer than {settings.spacing_m:g} m to the one before" if near else ""),
            f"positions of {self.position_topic}: {self.positions}",
        ]
        if self.odometry_topic is not None:
            parts.append(f"way between them and heading from {self.odometry_topic}")
        if settings.camera_extrinsics != IN_ORIGIN:
            mounted = " ".join(f"{value:g}" for value in settings.camera_extrinsics)
            parts.append(f"camera at {mounted} (x y z roll pitch yaw)")
        return "; ".join(parts)

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


def geotag(bag: BagReader | str | Path, settings: Geotagging | None = None) -> GeotaggedFrames:
    """Give the images of a bag poses, and thin them.

    Args:
        bag: An open reader or a path.
        settings: Topics and gates; None takes the defaults.

    Returns:
        The images that have a position; what was left out is counted there and logged.

    Raises:
        DataError: No images, no positions, a choice of topics that is not unique, or no image with a position.
    """
    settings = settings or Geotagging()
    if not isinstance(bag, BagReader):
        with BagReader(bag) as opened:
            return geotag(opened, settings)
    image_topic = bag.image_topic(settings.image_topic)
    track, positions = _read_track(bag, settings)
    stamps_ns = bag.image_stamps_ns(image_topic)
    if not len(stamps_ns):
        raise DataError(f"{bag.path} holds no images on {image_topic}: the topic is there but empty.")
    planar, heading = track.at(stamps_ns, settings.max_gap_s)
    placed = np.flatnonzero(np.isfinite(planar[:, :2]).all(axis=1))
    if not len(placed):
        raise DataError(
            f"{bag.path}: none of the {len(stamps_ns)} images on {image_topic} lies in time between two positions of "
            f"{track.topic} that are at most {settings.max_gap_s:g} s apart. Check the clocks, or choose another topic."
        )
    if len(placed) < len(stamps_ns):
        _log.warning("%d of %d images have no position in time", len(stamps_ns) - len(placed), len(stamps_ns))
    rows = placed[thinned(planar[placed, :2], settings.spacing_m)]
    camera_m, heading_deg = camera_poses(planar[rows], heading[rows], settings.camera_extrinsics)
    latitude, longitude, altitude = _to_wgs84(track.frame, camera_m)
    return GeotaggedFrames(
        bag.path,
        image_topic,
        track.topic,
        track.reckoned.topic if isinstance(track, FusedTrack) else None,
        stamps_ns[rows],
        camera_m,
        latitude,
        longitude,
        altitude,
        heading_deg,
        rows,
        track.frame,
        len(stamps_ns),
        len(stamps_ns) - len(placed),
        positions,
        settings,
    )


def _read_track(bag: BagReader, settings: Geotagging) -> tuple[Track | FusedTrack, Sifted]:
    """The usable positions of a bag, with the odometry between fixes, and what was not usable."""
    topic = settings.position_topic
    if topic is None:
        has_fixes = bag.topics_of(NAV_SAT_FIX) or not bag.topics_of(ODOMETRY)
        topic = bag.fix_topic() if has_fixes else bag.odometry_topic()
    if bag.topics.get(topic) == ODOMETRY:
        poses = sift_odometry(list(bag.odometry(topic)))
        _check(poses, bag, topic)
        return track_of_odometry(poses.good, topic), poses
    gate = FixGate(STATUSES.index(settings.gnss_status), settings.max_sigma_m)
    fixes = sift_fixes(list(bag.fixes(topic)), gate)
    _check(fixes, bag, topic)
    track = track_of_fixes(fixes.good, settings.max_gap_s, topic)
    odometry_topic = _odometry_topic(bag, settings)
    if odometry_topic is None:
        return track, fixes
    poses = sift_odometry(list(bag.odometry(odometry_topic)))
    if not poses.good:
        _log.warning("%s holds no usable pose (%s): fixes are interpolated alone", odometry_topic, poses)
        return track, fixes
    odometry = track_of_odometry(poses.good, odometry_topic)
    bridge_s = max(settings.max_gap_s, settings.max_bridge_s)
    fused = fuse(track, odometry, typical_sigma_m(fixes.good), settings.max_gap_s, bridge_s)
    return (fused if fused.is_joined else track), fixes


def _check(positions: Sifted, bag: BagReader, topic: str) -> None:
    """Tell what was dropped.

    Raises:
        DataError: Nothing is left.
    """
    if not positions.good:
        raise DataError(
            f"{bag.path} has no usable position on {topic}: {positions}. Choose another topic, let worse fixes pass "
            "(--gnss_status, --max_sigma_m), or record again with a fix."
        )
    if positions.dropped:
        _log.warning("Positions on %s: %s, are left out", topic, positions)


def _odometry_topic(bag: BagReader, settings: Geotagging) -> str | None:
    """The topic that joins fixes; with ``auto`` none where there are several, which the log then tells."""
    if settings.odometry_topic == NONE:
        return None
    if settings.odometry_topic != AUTO:
        return bag.odometry_topic(settings.odometry_topic)
    topics = bag.measured_odometry or bag.topics_of(ODOMETRY)
    if len(topics) > 1:
        _log.info(
            "Fixes are interpolated alone; to join them by odometry choose it with --odometry_topic: %s",
            ", ".join(topics),
        )
    return topics[0] if len(topics) == 1 else None


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


def _to_wgs84(frame: LocalFrame | None, planar_m: Floats) -> tuple[Floats, Floats, Floats]:
    if frame is not None:
        return frame.to_wgs84(planar_m)
    unknown = np.full(len(planar_m), np.nan)
    return unknown, unknown.copy(), unknown.copy()
