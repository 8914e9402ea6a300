"""The lifecycle node around `vgssl_core.localization.Localizer`: messages in, messages out, nothing else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header

from vgssl_core.errors import ConfigError, DataError, VgsslError
from vgssl_core.localization import Localization, Localizer, open_localizer
from vgssl_ros import messages, parameters
from vgssl_ros.base_pose import CameraMount, DefaultAltitude
from vgssl_ros.health import Statistics, judge
from vgssl_ros.latest_slot import LatestSlot, Worker

#: Deep enough that the callback sees, and counts, every frame of a burst; it only stores the newest.
_IMAGE_DEPTH = 10
_ANSWER_DEPTH = 10
#: Longest wait for the image in work when the node stops; an embedding takes far less.
_STOP_TIMEOUT_S = 5.0
_REPEAT_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """An image message and when it arrived, `time.monotonic` seconds."""

    message: RosImage | CompressedImage
    at_s: float


class LocalizerNode(LifecycleNode):
    """`configure` loads and checks map and bundle, `activate` subscribes, `deactivate` falls silent.

    The image callback only stores the newest frame; one worker thread decodes, localizes and publishes. Services and
    parameters so stay quick, and the answers are never older than one image's work.
    """

    def __init__(self, name: str = "localizer") -> None:
        """Declare parameters and start the diagnostics.

        Raises:
            ConfigError: A parameter's value has the wrong type or lies outside its range.
        """
        super().__init__(name)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._localizer: Localizer | None = None
        self._subscription: Subscription | None = None
        self._worker: Worker[Arrival] | None = None
        self._state = "unconfigured"
        self._statistics = Statistics()
        self._image_topic = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", _ANSWER_DEPTH)
        # By the steady clock: a simulated one may stand still, and that too is to be told.
        self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        return bool(self.get_parameter("autostart").value)

    def start(self) -> bool:
        """Configure and activate; whether both went well."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> None:
        """End the worker; safe at any time."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop(_STOP_TIMEOUT_S):
            self.get_logger().warning(f"The image in work was not ready within {_STOP_TIMEOUT_S:g} s.")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load map and bundle and check that they fit; create the publishers."""
        given = parameters.values(self)
        try:
            self._localizer = self._open(given)
        except VgsslError as problem:
            self.get_logger().error(f"Cannot configure: {problem}")
            return TransitionCallbackReturn.FAILURE
        self._mount = CameraMount(given["camera_extrinsics"])
        self._pose = self.create_lifecycle_publisher(PoseWithCovarianceStamped, "~/pose", _ANSWER_DEPTH)
        self._fix = self.create_lifecycle_publisher(NavSatFix, "~/fix", _ANSWER_DEPTH)
        self._hypotheses = self.create_lifecycle_publisher(PoseArray, "~/hypotheses", _ANSWER_DEPTH)
        self._cloud = self.create_lifecycle_publisher(PointCloud2, "~/hypotheses_cloud", _ANSWER_DEPTH)
        self._map_frame, self._base_frame = given["map_frame"], given["base_frame"]
        geomap = self._localizer.geomap
        where = "local" if geomap.datum is None else "georeferenced"
        self.get_logger().info(f"Configured: {where} map {geomap.path} of {len(geomap)} images.")
        self._state = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        result = super().on_activate(state)
        given = parameters.values(self)
        compressed = given["image_transport"] == "compressed"
        topic = self.resolve_topic_name(given["image_topic"]) + ("/compressed" if compressed else "")
        reliable = given["image_qos"] == "reliable"
        qos = QoSProfile(
            depth=_IMAGE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        slot: LatestSlot[Arrival] = LatestSlot()
        self._worker = Worker(slot, self._answer, "localizer")
        self._statistics.activated()

        def store(message: RosImage | CompressedImage) -> None:
            self._statistics.received(slot.put(Arrival(message, time.monotonic())))

        self._subscription = self.create_subscription(CompressedImage if compressed else RosImage, topic, store, qos)
        self._image_topic = self._subscription.topic_name
        self._state = "active"
        self.get_logger().info(f"Active: images from {self._image_topic}.")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and wait for the image in work."""
        self.stop()
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the map and the model."""
        self._release()
        self._state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop for good, from whatever state."""
        self.stop()
        self._release()
        self._state = "finalized"
        return super().on_shutdown(state)

    def _open(self, given: dict[str, object]) -> Localizer:
        missing = [name for name in ("map_path", "bundle_path") if not given[name]]
        if missing:
            raise ConfigError(
                f"{' and '.join(missing)} not given: set the parameters, for example --ros-args -p map_path:=MAP "
                "-p bundle_path:=BUNDLE, or ros2 launch vgssl_ros localize.launch.py map:=MAP bundle:=BUNDLE."
            )
        return open_localizer(
            str(given["map_path"]),
            str(given["bundle_path"]),
            parameters.localizer_config(given),
            backend=str(given["backend"]),
            threads=given["threads"] or None,
        )

    def _release(self) -> None:
        if self._localizer is None:
            return
        self._localizer = None
        for publisher in (self._pose, self._fix, self._hypotheses, self._cloud):
            self.destroy_lifecycle_publisher(publisher)

    def _answer(self, arrival: Arrival) -> None:
        """The worker's part: one image, whatever happens; the thread lives on."""
        try:
            image = messages.decode(arrival.message)
        except DataError as problem:
            self._statistics.undecodable(str(problem))
            self.get_logger().warning(f"Image left out: {problem}", throttle_duration_sec=_REPEAT_S)
            return
        try:
            self._publish(self._localizer.localize(image), arrival.message.header)
        # One frame that fails must not silence the next ones; what it was stands in the diagnostics.
        except Exception as problem:
            self._statistics.failed(f"{type(problem).__name__}: {problem}")
            self.get_logger().error(f"No answer: {problem!r}", throttle_duration_sec=_REPEAT_S)
            return
        self._statistics.answered((time.monotonic() - arrival.at_s) * 1e3)

    def _publish(self, localization: Localization, image_header: Header) -> None:
        datum = self._localizer.geomap.datum
        default = DefaultAltitude(
            self.get_parameter("altitude_default_m").value, self.get_parameter("altitude_default_sigma_m").value
        )
        poses = [self._mount.base_pose(hypothesis, datum, default) for hypothesis in localization.hypotheses]
        header = Header(stamp=image_header.stamp, frame_id=self._map_frame)
        self._hypotheses.publish(messages.pose_array(poses, header))
        self._cloud.publish(messages.hypotheses_cloud(poses, header, datum is not None))
        if not poses:
            return
        self._pose.publish(messages.pose_with_covariance(poses[0], header))
        fix = messages.nav_sat_fix(poses[0], Header(stamp=image_header.stamp, frame_id=self._base_frame))
        if fix is not None:
            self._fix.publish(fix)

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        configured = self._localizer is not None
        reasons = (parameters.refusal(item.name, item.value, configured) for item in changed)
        reason = next(filter(None, reasons), None)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _publish_diagnostics(self) -> None:
        publishers = self.count_publishers(self._image_topic) if self._image_topic else 0
        health = judge(self._statistics.read(), self._state, self._image_topic, publishers)
        level = DiagnosticStatus.OK if health.is_ok else DiagnosticStatus.WARN
        hardware = "" if self._localizer is None else str(self._localizer.geomap.path)
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(messages.diagnostics(name, hardware, level, health.summary, health.values, stamp))


def run(arguments: Sequence[str] | None, stop: threading.Event) -> int:
    """Start ROS, let the node work until it is told to stop, and clean up.

    Args:
        arguments: ROS arguments; None takes the process's own.
        stop: Set it to end the node, at any time.

    Returns:
        Exit status: 0 when it was told to stop, 1 when the node could not start or failed.
    """
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as problem:
        return _complain(problem)
    node: LocalizerNode | None = None
    try:
        node = LocalizerNode()
        if node.autostart and not node.start():
            return 1
        return _spin(node, stop)
    except ConfigError as problem:
        return _complain(problem)
    finally:
        if node is not None:
            node.stop()
            node.destroy_node()
        rclpy.shutdown()


def _spin(node: LocalizerNode, stop: threading.Event) -> int:
    """Serve the node's callbacks beside the main thread, which alone sees signals and so must be free to."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            executor.spin()
        except BaseException as problem:
            failures.append(problem)
            raise
        finally:
            stop.set()

    thread = threading.Thread(target=serve, name="executor", daemon=True)
    thread.start()
    stop.wait()
    executor.shutdown()
    thread.join()
    return 1 if failures else 0


def _complain(problem: Exception) -> int:
    print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    return 1
