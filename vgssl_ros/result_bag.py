"""What the localizer says about a drive as a bag that opens in Foxglove and plays in ROS 2; written without ROS.

Field by field these are the messages that the node publishes (`vgssl_ros.answer_fields`). Every message bears the stamp
of the image that it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags import BagWriter, Frame, GeotaggedFrames
from vgssl_core.bags.message import header
from vgssl_core.bags.records import NAV_SAT_FIX
from vgssl_core.evaluation.bag_drive import Answers, true_poses
from vgssl_core.extrinsics import vehicle_poses
from vgssl_core.geodesy import LocalFrame, compass_to_yaw_rad
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.localization import Localization, Localizer
from vgssl_core.localization.filter import Estimate
from vgssl_ros.answer_fields import (
    cloud_fields,
    fix_fields,
    marker_fields,
    pose_fields,
    pose_with_covariance_fields,
    status_fields,
)
from vgssl_ros.base_pose import BasePose, CameraMount, DefaultAltitude, told_pose
from vgssl_ros.health import Health, Situation, Statistics, judge
from vgssl_ros.map_info import map_info
from vgssl_ros.match_picture import Match, caption, nearest_match

_SECOND_NS = 1_000_000_000


def write_result_bag(
    path: Path, localizer: Localizer, frames: GeotaggedFrames, answers: Answers, follow: bool, images: bool
) -> None:
    """Write what the node with its default settings publishes for each frame of a drive, beside the truth.

    Args:
        path: Folder of the bag; one that is there is replaced.
        localizer: Who answered.
        frames: The drive.
        answers: What was answered.
        follow: Write the answers of the filter over time, as the node does; else those of each image by itself.
        images: Write the images, and those beside their matches, too.
    """
    geomap, extrinsics = localizer.geomap, frames.settings.camera_extrinsics
    mount, default = CameraMount(extrinsics), DefaultAltitude(0.0, 10.0)
    truth_m, heading_deg = vehicle_poses(true_poses(frames, geomap)[0], frames.heading_deg, extrinsics)
    told = answers.estimates if follow and answers.estimates is not None else answers.localizations
    by_row = dict(zip(answers.rows.tolist(), zip(answers.localizations, told, strict=True), strict=True))
    pictures, record = MapPictures(geomap), Record(frames.image_topic, localizer.calibration.is_default)
    with BagWriter(path, replace=True) as bag:
        result = ResultBag(bag, "localizer", geomap.datum)
        for row, tagged in enumerate(frames):
            frame = tagged.frame
            if row == 0:
                result.info(frame, map_info(localizer, result.map_frame, [frames.image_topic]))
            if images:
                bag.frame(frame)
            result.truth(frame, truth_m[row], float(compass_to_yaw_rad(heading_deg[row])))
            if row in by_row:
                localization, said = by_row[row]
                poses = [told_pose(localizer, mount, hypothesis, default) for hypothesis in said.hypotheses]
                accepted = None if said.accepted is None else told_pose(localizer, mount, said.accepted, default)
                result.answer(frame, poses, accepted)
                if images and said.hypotheses and len(localization.indices):
                    result.match(frame, _match(localizer, pictures, frame, localization, said))
            record.took(frame, *by_row.get(row, (None, None)))
            if row == len(frames) - 1 or record.is_due(frame):
                result.diagnostics(frame, str(geomap.path), record.health(frame))


def _match(
    localizer: Localizer, pictures: MapPictures, frame: Frame, localization: Localization, said: Localization | Estimate
) -> Match:
    best, is_accepted = said.accepted or said.hypotheses[0], said.accepted is not None
    index, text = nearest_match(localizer, localization, best), caption(best, is_accepted, _state(said))
    return Match(frame.image(localizer.least_size), pictures, index, text, is_accepted)


def _state(said: Localization | Estimate) -> str:
    return said.state.value if isinstance(said, Estimate) else ""


class Record:
    """The node's diagnostics, once in a second of the bag, as of a machine that keeps up with the camera.

    Rates are of the bag's time; latencies are what localizing took here, without decoding and DDS.

    Args:
        image_topic: The camera's.
        is_default_calibration: See `Situation`.
    """

    def __init__(self, image_topic: str, is_default_calibration: bool) -> None:
        self._topic, self._situation = image_topic, Situation(is_default_calibration=is_default_calibration)
        self._now_ns = 0
        self._statistics = Statistics(lambda: self._now_ns)
        self._last_ns: int | None = None
        self._frames = self._answers = 0

    def took(self, frame: Frame, localization: Localization | None, said: Localization | Estimate | None) -> None:
        """One frame, and what was made of it; None where it does not decode."""
        if self._last_ns is None:
            self._last_ns = frame.log_ns
        self._statistics.received(self._topic, overwrote=False)
        self._frames += 1
        if localization is None or said is None:
            self._statistics.undecodable(f"{frame.source} does not decode")
            return
        latency_ms = sum(localization.timings_ms.values())
        self._now_ns = frame.stamp_ns + int(latency_ms * 1e6)
        self._statistics.answered(latency_ms, frame.stamp_ns, said.accepted is not None, _state(said))
        self._answers += 1

    def is_due(self, frame: Frame) -> bool:
        """Whether the last one was a second ago, or the bag's time has jumped back."""
        return self._last_ns is None or not 0 <= frame.log_ns - self._last_ns < _SECOND_NS

    def health(self, frame: Frame) -> Health:
        """What to tell now."""
        seconds = max((frame.log_ns - (self._last_ns or frame.log_ns)) / _SECOND_NS, 1e-9)
        rates = {"rate_hz": self._answers / seconds, "camera_hz": self._frames / seconds}
        self._last_ns, self._frames, self._answers = frame.log_ns, 0, 0
        figures = replace(self._statistics.read(), silent_s=0.0, **rates)
        health = judge(figures, "active", self._topic, 1, self._situation)
        return replace(health, values={**health.values, "matched": "1"})


@dataclass(frozen=True)
class ResultBag:
    """Writes the answers to one frame after the other.

    Attributes:
        bag: Where to.
        localizer: Name of the node whose topics these are.
        datum: The map's; None for a local map.
        map_frame, base_frame: Frames of the answers.
    """

    bag: BagWriter
    localizer: str
    datum: LocalFrame | None
    map_frame: str = "map"
    base_frame: str = "base_link"

    def info(self, frame: Frame, text: str) -> None:
        """What the node localizes with, before the first frame."""
        self._publish(frame, "map_info", "std_msgs/msg/String", {"data": text})

    def truth(self, frame: Frame, position_m: NDArray[np.float64], yaw_rad: float) -> None:
        """Where the robot's base really was, in the map's frame; NaN in z and yaw where unknown."""
        position_m = np.where(np.isfinite(position_m), position_m, 0.0)
        head = (frame.stamp_ns, self.map_frame, self.base_frame)
        yaw_rad = float(np.nan_to_num(yaw_rad))
        self.bag.odometry("/ground_truth/odom", *head, position_m, yaw_rad, log_ns=frame.log_ns)
        if self.datum is not None:
            place = map(float, self.datum.to_wgs84(position_m))
            self.bag.fix("/ground_truth/fix", frame.stamp_ns, self.base_frame, *place, log_ns=frame.log_ns)

    def answer(self, frame: Frame, poses: Sequence[BasePose], accepted: BasePose | None) -> None:
        """What the node publishes for a frame: hypotheses always, pose and fix where one is accepted."""
        head = {"header": header(frame.stamp_ns, self.map_frame)}
        found = {**head, "poses": [pose_fields(pose) for pose in poses]}
        self._publish(frame, "hypotheses", "geometry_msgs/msg/PoseArray", found)
        cloud = {**head, **cloud_fields(poses, self.datum is not None)}
        self._publish(frame, "hypotheses_cloud", "sensor_msgs/msg/PointCloud2", cloud)
        shown = marker_fields(poses, accepted, head["header"])
        self._publish(frame, "markers", "visualization_msgs/msg/MarkerArray", shown)
        if accepted is None:
            return
        pose = {**head, **pose_with_covariance_fields(accepted)}
        self._publish(frame, "pose", "geometry_msgs/msg/PoseWithCovarianceStamped", pose)
        if accepted.latitude_deg is not None:
            head = {"header": header(frame.stamp_ns, self.base_frame)}
            self._publish(frame, "fix", NAV_SAT_FIX, {**head, **fix_fields(accepted)})

    def match(self, frame: Frame, match: Match) -> None:
        """A frame beside its match."""
        topic = f"/{self.localizer}/match_image/compressed"
        self.bag.compressed_image(topic, frame.stamp_ns, frame.frame_id, match.jpeg(), log_ns=frame.log_ns)

    def diagnostics(self, frame: Frame, hardware_id: str, health: Health) -> None:
        """How the node does, at the time of a frame."""
        level = int(not health.is_ok)
        status = status_fields(self.localizer, hardware_id, level, health.summary, health.values)
        fields = {"header": header(frame.log_ns, ""), **status}
        self.bag.message("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", frame.log_ns, fields)

    def _publish(self, frame: Frame, topic: str, message_type: str, fields: dict[str, Any]) -> None:
        self.bag.message(f"/{self.localizer}/{topic}", message_type, frame.log_ns, fields)
