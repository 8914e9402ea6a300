"""The causal filter over a drive: what `recall_filtered` counts."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags import BagReader
from vgssl_core.evaluation.drive import Filtered
from vgssl_core.extrinsics import IN_ORIGIN, Extrinsics, optical_axis_yaw_rad
from vgssl_core.localization import Localization, Localizer
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.odometry_track import OdometryTrack, PlanarPose

NO_ODOMETRY = "no odometry, a prior of motion"
#: Longest time without odometry that is bridged, as by the node.
_MAX_GAP_S = 0.5


def estimates_of(
    localizer: Localizer,
    stamps_ns: NDArray[np.int64],
    answers: Sequence[Localization],
    motions: Sequence[Motion | None],
) -> list[Estimate]:
    """Run the filter, with its defaults and the localizer's threshold, over single-frame answers in the order of time.

    Args:
        localizer: Whose answers these are.
        stamps_ns: (F,) of the frames.
        answers: Of each frame.
        motions: Of the camera since the frame before; None where nothing tells.
    """
    temporal = TemporalFilter(localizer.geomap, localizer.calibration, FilterConfig(threshold=localizer.threshold))
    return [temporal.update(*seen) for seen in zip(stamps_ns.tolist(), answers, motions, strict=True)]


def filtered_drive(estimates: Sequence[Estimate], motion: str) -> Filtered:
    """What the filter made of a drive.

    Args:
        estimates: Of each frame.
        motion: Where the motions came from, in words.
    """
    estimate, probability = np.full((len(estimates), 3), np.nan), np.zeros(len(estimates))
    for row, believed in enumerate(estimates):
        if believed.hypotheses:
            best = believed.hypotheses[0]
            estimate[row], probability[row] = best.position_m, best.probability
    accepted = np.array([believed.accepted is not None for believed in estimates], bool)
    return Filtered(estimate, probability, accepted, motion)


def recorded_motions(
    bag: str | Path,
    stamps_ns: NDArray[np.int64],
    camera_extrinsics: Extrinsics = IN_ORIGIN,
    truth_topic: str | None = None,
) -> tuple[list[Motion | None], str]:
    """What the bag's odometry tells of the motion between frames, as the node hears it.

    Args:
        bag: The bag; its ``/odom``, or else the only Odometry topic that is not the truth.
        stamps_ns: (F,) of the frames, in the order of time.
        camera_extrinsics: The camera in the frame that the odometry is of.
        truth_topic: What the frames' true positions are taken from; it tells the filter nothing.

    Returns:
        F motions of the camera, each since the frame before (None where the odometry does not reach), and in words
        where they come from.
    """
    with BagReader(bag) as reader:
        topics = [topic for topic in reader.measured_odometry if topic != truth_topic]
        topic = "/odom" if "/odom" in topics else topics[0] if len(topics) == 1 else None
        if topic is None:
            return [None] * len(stamps_ns), NO_ODOMETRY
        poses = sorted((p for p in reader.odometry(topic) if p.is_valid), key=lambda pose: pose.stamp_ns)
    track, known_ns, here, added = OdometryTrack(_MAX_GAP_S), [pose.stamp_ns for pose in poses], [], 0
    for stamp_ns in stamps_ns.tolist():
        # One beyond the frame, so that nothing need be guessed.
        reach = bisect.bisect_left(known_ns, stamp_ns) + 1
        for pose in poses[added:reach]:
            track.add(pose.stamp_ns, PlanarPose(*pose.position_m[:2].tolist(), pose.yaw_rad))
        added = max(added, reach)
        here.append(track.at(stamp_ns))
    mounted = (*camera_extrinsics[:2], optical_axis_yaw_rad(camera_extrinsics))
    moved = [
        None if before is None or now is None else Motion.between(before, now).of_mounted(*mounted)
        for before, now in itertools.pairwise(here)
    ]
    return [None, *moved], f"odometry of {topic}" if any(moved) else NO_ODOMETRY
