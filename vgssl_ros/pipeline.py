"""From an image message to the published answers, with all that this takes in one object that never changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header

from vgssl_core.errors import DataError
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.imaging import Image
from vgssl_core.localization import Hypothesis, Localization, Localizer
from vgssl_ros import messages
from vgssl_ros.base_pose import BasePose, DefaultAltitude, told_pose
from vgssl_ros.cameras import Camera
from vgssl_ros.health import Statistics
from vgssl_ros.latest_slot import LatestSlot
from vgssl_ros.match_picture import Match, caption, nearest_match
from vgssl_ros.match_view import MatchView
from vgssl_ros.odometry import OdometryInput
from vgssl_ros.prior import Prior
from vgssl_ros.publishers import Publishers
from vgssl_ros.tracking import Tracker

_REPEAT_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """An image message, the camera that it came from, and when it arrived, `time.monotonic` seconds."""

    message: RosImage | CompressedImage
    camera: Camera
    at_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        stamp_ns: The image's.
        image_topic: Where it came from.
        best: The accepted pose, or else the best hypothesis; None without any.
        is_accepted: Whether it counts.
        state: Of the temporal filter; empty without one.
        problem: Why there is no answer; empty where there is one.
    """

    stamp_ns: int = 0
    image_topic: str = ""
    best: BasePose | None = None
    is_accepted: bool = False
    state: str = ""
    problem: str = ""

    @property
    def text(self) -> str:
        """One JSON object, or the problem."""
        if self.problem:
            return self.problem
        content = {
            "accepted": self.is_accepted,
            "state": self.state,
            "stamp_ns": self.stamp_ns,
            "image_topic": self.image_topic,
        }
        if (best := self.best) is not None:
            x, y, z = map(float, best.position_m)
            content |= {"probability": best.probability, "x_m": x, "y_m": y, "z_m": z, "yaw_rad": best.yaw_rad}
            content |= {"sigma_m": best.horizontal_sigma_m, "yaw_sigma_rad": best.yaw_sigma_rad}
            content |= {"latitude_deg": best.latitude_deg, "longitude_deg": best.longitude_deg}
        return json.dumps(content, allow_nan=False)


@dataclass(frozen=True)
class Pipeline:
    """What one configuration of the node answers with.

    The worker thread takes it whole for each image, so that an image that is in work while the node is configured
    anew, or takes another map, never meets another map, frame or publisher than its own.

    Attributes:
        localizer: Map and model.
        pictures: Of the map's images.
        tracker: Follows the robot over time; None judges every image alone.
        prior: Where to search.
        odometry: Takes the accepted poses for map → odom.
        cameras: Where images come from.
        default_altitude: Present stand-in for an unknown altitude; it may change while the node is active.
        map_frame, base_frame: Frames of the answers.
        publishers: Where answers go.
        statistics: Counts what was done.
        logger: Tells what went wrong.
    """

    localizer: Localizer
    pictures: MapPictures
    tracker: Tracker | None
    prior: Prior
    odometry: OdometryInput
    cameras: tuple[Camera, ...]
    default_altitude: Callable[[], DefaultAltitude]
    map_frame: str
    base_frame: str
    publishers: Publishers
    statistics: Statistics
    logger: RcutilsLogger

    def answer(self, arrival: Arrival, slot: LatestSlot[Arrival], view: MatchView) -> Outcome:
        """The worker's part: one image, whatever happens; the thread lives on.

        Args:
            arrival: The image.
            slot: Where it came from; once that is closed, the node is silent and the answer is dropped.
            view: Draws the match where somebody looks.
        """
        try:
            image = messages.decode(arrival.message, self.localizer.least_size)
        except DataError as problem:
            self.statistics.undecodable(str(problem))
            self.logger.warning(f"Image left out: {problem}", throttle_duration_sec=_REPEAT_S)
            return Outcome(problem=str(problem))
        try:
            localization = self.localizer.localize(image, self.prior.region())
            if slot.is_closed:
                return Outcome(problem="the node was deactivated")
            outcome = self._publish(localization, image, arrival, view)
        # One frame that fails must not silence the next ones; what it was stands in the diagnostics.
        except Exception as problem:
            self.statistics.failed(f"{type(problem).__name__}: {problem}")
            self.logger.error(f"No answer: {problem!r}", throttle_duration_sec=_REPEAT_S)
            return Outcome(problem=repr(problem))
        latency_ms = (time.monotonic() - arrival.at_s) * 1e3
        self.statistics.answered(latency_ms, outcome.stamp_ns, outcome.is_accepted, outcome.state)
        return outcome

    def take_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        """Search near a pose, and believe nothing of what was before."""
        if self.prior.take_pose(message) and self.tracker is not None:
            self.tracker.begin_anew()

    def _publish(self, localization: Localization, image: Image, arrival: Arrival, view: MatchView) -> Outcome:
        camera, stamp = arrival.camera, messages.stamp_ns(arrival.message.header.stamp)
        hypotheses, accepted, state = localization.hypotheses, localization.accepted, ""
        if self.tracker is not None:
            estimate = self.tracker.update(camera, stamp, localization)
            hypotheses, accepted, state = estimate.hypotheses, estimate.accepted, estimate.state.value
        poses = [self._base_pose(hypothesis, camera) for hypothesis in hypotheses]
        fix = None if accepted is None else self._base_pose(accepted, camera)
        self._publish_poses(poses, fix, arrival.message.header)
        if fix is not None:
            self.odometry.correct(stamp, fix)
        outcome = Outcome(stamp, camera.topic, fix or next(iter(poses), None), fix is not None, state)
        if hypotheses and len(localization.indices) and self.publishers.match_image.get_subscription_count():
            best = accepted or hypotheses[0]
            index, text = nearest_match(self.localizer, localization, best), caption(best, outcome.is_accepted, state)
            view.show(Match(image, self.pictures, index, text, outcome.is_accepted), arrival.message.header)
        return outcome

    def _publish_poses(self, poses: list[BasePose], fix: BasePose | None, image_header: Header) -> None:
        header = Header(stamp=image_header.stamp, frame_id=self.map_frame)
        is_georeferenced = self.localizer.geomap.datum is not None
        self.publishers.hypotheses.publish(messages.pose_array(poses, header))
        self.publishers.cloud.publish(messages.hypotheses_cloud(poses, header, is_georeferenced))
        if self.publishers.markers.get_subscription_count():
            self.publishers.markers.publish(messages.markers(poses, fix, header))
        if fix is None:
            return
        self.publishers.pose.publish(messages.pose_with_covariance(fix, header))
        position = messages.nav_sat_fix(fix, Header(stamp=image_header.stamp, frame_id=self.base_frame))
        if position is not None:
            self.publishers.fix.publish(position)

    def _base_pose(self, hypothesis: Hypothesis, camera: Camera) -> BasePose:
        return told_pose(self.localizer, camera.mount, hypothesis, self.default_altitude())
