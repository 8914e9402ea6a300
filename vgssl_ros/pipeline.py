"""From an image message to the published answers, with all that this takes in one object that never changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecyclePublisher
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header

from vgssl_core.errors import DataError
from vgssl_core.localization import Localization, Localizer
from vgssl_ros import messages
from vgssl_ros.base_pose import CameraMount, DefaultAltitude
from vgssl_ros.health import Statistics
from vgssl_ros.latest_slot import LatestSlot

_REPEAT_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """An image message and when it arrived, `time.monotonic` seconds."""

    message: RosImage | CompressedImage
    at_s: float


@dataclass(frozen=True)
class Publishers:
    """Where answers go."""

    pose: LifecyclePublisher
    fix: LifecyclePublisher
    hypotheses: LifecyclePublisher
    cloud: LifecyclePublisher


@dataclass(frozen=True)
class Pipeline:
    """What one configuration of the node answers with.

    The worker thread holds it whole, so that an image that is in work while the node is configured anew never meets
    another map, frame or publisher than its own.

    Attributes:
        localizer: Map and model.
        mount: Where the camera sits on the robot.
        default_altitude: Present stand-in for an unknown altitude; it may change while the node is active.
        map_frame, base_frame: Frames of the answers.
        image_topic: Resolved topic that images come from.
        publishers: Where answers go.
        statistics: Counts what was done.
        logger: Tells what went wrong.
    """

    localizer: Localizer
    mount: CameraMount
    default_altitude: Callable[[], DefaultAltitude]
    map_frame: str
    base_frame: str
    image_topic: str
    publishers: Publishers
    statistics: Statistics
    logger: RcutilsLogger

    def answer(self, arrival: Arrival, slot: LatestSlot[Arrival]) -> None:
        """The worker's part: one image, whatever happens; the thread lives on.

        Args:
            arrival: The image.
            slot: Where it came from; once that is closed, the node is silent and the answer is dropped.
        """
        try:
            image = messages.decode(arrival.message, self.localizer.least_size)
        except DataError as problem:
            self.statistics.undecodable(str(problem))
            self.logger.warning(f"Image left out: {problem}", throttle_duration_sec=_REPEAT_S)
            return
        try:
            localization = self.localizer.localize(image)
            if slot.is_closed:
                return
            self._publish(localization, arrival.message.header)
        # One frame that fails must not silence the next ones; what it was stands in the diagnostics.
        except Exception as problem:
            self.statistics.failed(f"{type(problem).__name__}: {problem}")
            self.logger.error(f"No answer: {problem!r}", throttle_duration_sec=_REPEAT_S)
            return
        self.statistics.answered((time.monotonic() - arrival.at_s) * 1e3)

    def _publish(self, localization: Localization, image_header: Header) -> None:
        datum = self.localizer.geomap.datum
        default = self.default_altitude()
        poses = [self.mount.base_pose(hypothesis, datum, default) for hypothesis in localization.hypotheses]
        header = Header(stamp=image_header.stamp, frame_id=self.map_frame)
        self.publishers.hypotheses.publish(messages.pose_array(poses, header))
        self.publishers.cloud.publish(messages.hypotheses_cloud(poses, header, datum is not None))
        if not poses:
            return
        self.publishers.pose.publish(messages.pose_with_covariance(poses[0], header))
        fix = messages.nav_sat_fix(poses[0], Header(stamp=image_header.stamp, frame_id=self.base_frame))
        if fix is not None:
            self.publishers.fix.publish(fix)
