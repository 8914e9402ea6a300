"""The node while it is active: its subscriptions, the slot, and the thread that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, NavSatFix
from sensor_msgs.msg import Image as RosImage

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from vgssl_ros.cameras import Camera
from vgssl_ros.health import Statistics
from vgssl_ros.latest_slot import LatestSlot, Worker
from vgssl_ros.match_view import MatchView
from vgssl_ros.pipeline import Arrival, Outcome, Pipeline

#: Deep enough that the callback sees, and counts, every frame of a burst; it only stores the newest.
_IMAGE_DEPTH = 10
#: Best effort matches every publisher; deep enough for what comes while the executor is busy.
_SENSOR = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_POSE_DEPTH = 10
#: Longest wait of ``~/localize_once`` for an image.
ONCE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Once:
    """A call of ``~/localize_once`` that waits for its image until a time by `time.monotonic`."""

    outcome: Future
    until_s: float


class Session:
    """From activation to deactivation.

    Args:
        node: Whose subscriptions these are.
        given: Values of the parameters.
        pipeline: The present one; it changes when a map is loaded anew.
        statistics: Counts what arrives.
    """

    def __init__(
        self,
        node: LifecycleNode,
        given: Mapping[str, Any],
        pipeline: Callable[[], Pipeline],
        statistics: Statistics,
    ) -> None:
        self._node, self._given, self._pipeline, self._statistics = node, given, pipeline, statistics
        self._once: Once | None = None
        self._cameras: list[Subscription] = []
        self._others: list[Subscription] = []
        self._slot: LatestSlot[Arrival] = LatestSlot()
        self._view = MatchView(pipeline().publishers.match_image.publish, node.get_logger())
        self._worker = Worker(self._slot, self._answer, "localizer")
        try:
            self._subscribe_others()
        except Exception:
            self.stop(0.0)
            raise

    @property
    def hears_cameras(self) -> bool:
        """Whether it is subscribed to them."""
        return bool(self._cameras)

    @property
    def cameras(self) -> tuple[Subscription, ...]:
        """Its subscriptions of images; none while nobody wants an answer."""
        return tuple(self._cameras)

    @property
    def matched(self) -> int:
        """Publishers that the camera with the fewest is connected to: those that exist and whose QoS fits."""
        # Humble cannot tell; there it is those that exist.
        exist = self._node.count_publishers
        counts = [
            item.get_publisher_count() if hasattr(item, "get_publisher_count") else exist(item.topic_name)
            for item in self._cameras
        ]
        return min(counts, default=0)

    def follow(self, is_wanted: bool) -> None:
        """Subscribe to the cameras while their images are wanted, and only then; called now and then."""
        if self._slot.is_closed:
            return
        if self._once is not None and time.monotonic() > self._once.until_s:
            self._end(self._once, Outcome(problem=f"no image within {ONCE_TIMEOUT_S:g} s: see /diagnostics"))
        if not is_wanted and self._once is None:
            self._unsubscribe(self._cameras)
            self._slot.clear()
        elif not self._cameras:
            self._subscribe_cameras()

    async def localize_once(self) -> Outcome:
        """What becomes of the next image, whoever wants it besides."""
        once = self._once = Once(Future(), time.monotonic() + ONCE_TIMEOUT_S)
        self.follow(True)
        try:
            return await once.outcome
        finally:
            self._once = None

    def stop(self, timeout_s: float) -> bool:
        """Unsubscribe and end the threads; safe to call again.

        Returns:
            False when the image in work was not ready in time: its thread still runs and uses the map and the model.
            It publishes nothing any more.
        """
        self._unsubscribe(self._cameras)
        self._unsubscribe(self._others)
        self._end(self._once, Outcome(problem="the node was deactivated"))
        # Nothing hangs on its last picture.
        self._view.stop(0.0)
        return self._worker.stop(timeout_s)

    def _answer(self, arrival: Arrival) -> None:
        """The worker's part."""
        once = self._once
        self._end(once, self._pipeline().answer(arrival, self._slot, self._view))

    def _end(self, once: Once | None, outcome: Outcome) -> None:
        """Answer a call that waits, from whatever thread."""
        if once is not None and not once.outcome.done():
            once.outcome.set_result(outcome)
            wake(self._node)

    def _subscribe_cameras(self) -> None:
        reliable = self._given["image_qos"] == "reliable"
        qos = QoSProfile(
            depth=_IMAGE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        kind = CompressedImage if self._given["image_transport"] == "compressed" else RosImage
        cameras = self._pipeline().cameras
        self._statistics.activated(camera.topic for camera in cameras)
        for camera in cameras:
            # A callback of two arguments would be given the message's origin too.
            store = partial(self._store, camera)
            self._cameras.append(self._subscribed(kind, camera.topic, store, qos))

    def _subscribed(self, kind: type, topic: str, store: Callable[[Any], None], qos: QoSProfile) -> Subscription:
        """A subscription that counts what was lost on its way, where the middleware can tell."""
        events = SubscriptionEventCallbacks(message_lost=lambda event: self._statistics.lost(event.total_count_change))
        try:
            return self._node.create_subscription(kind, topic, store, qos, event_callbacks=events)
        except UnsupportedEventTypeError:
            return self._node.create_subscription(kind, topic, store, qos)

    def _store(self, camera: Camera, message: RosImage | CompressedImage) -> None:
        overwrote = self._slot.put(Arrival(message, camera, time.monotonic()), camera)
        self._statistics.received(camera.topic, overwrote)

    def _subscribe_others(self) -> None:
        subscribe, pipeline = self._node.create_subscription, self._pipeline
        self._others += [
            subscribe(Odometry, "odom", lambda message: pipeline().odometry.take(message), _SENSOR),
            subscribe(NavSatFix, "initial_fix", lambda message: pipeline().prior.take_fix(message), _SENSOR),
            subscribe(
                PoseWithCovarianceStamped,
                "initial_pose",
                lambda message: pipeline().take_initial_pose(message),
                _POSE_DEPTH,
            ),
        ]

    def _unsubscribe(self, subscriptions: list[Subscription]) -> None:
        while subscriptions:
            self._node.destroy_subscription(subscriptions.pop())


def wake(node: LifecycleNode) -> None:
    """Let the node's executor look at the calls that wait."""
    if node.executor is not None:
        node.executor.wake()
