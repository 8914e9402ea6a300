"""The lifecycle node around `vgssl_core.localization.Localizer`: messages in, messages out, nothing else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from sensor_msgs.msg import Image as RosImage

from vgssl_core.errors import ConfigError, VgsslError
from vgssl_core.localization import Localizer, open_localizer
from vgssl_ros import messages, parameters
from vgssl_ros.base_pose import CameraMount, DefaultAltitude
from vgssl_ros.health import Statistics, judge
from vgssl_ros.latest_slot import LatestSlot, Worker
from vgssl_ros.pipeline import Arrival, Pipeline, Publishers

#: Deep enough that the callback sees, and counts, every frame of a burst; it only stores the newest.
_IMAGE_DEPTH = 10
_ANSWER_DEPTH = 10
#: Longest wait for the image in work when the node stops; an embedding takes far less.
_STOP_TIMEOUT_S = 5.0


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
        self._pipeline: Pipeline | None = None
        self._publishers_made: list[LifecyclePublisher] = []
        self._subscription: Subscription | None = None
        self._worker: Worker[Arrival] | None = None
        self._state = "unconfigured"
        self._statistics = Statistics()
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

    def stop(self) -> bool:
        """Unsubscribe and end the worker; safe at any time.

        Returns:
            False when the image in work was not ready in time: its thread still runs and uses the map and the model.
            It publishes nothing any more, and another call waits for it again.
        """
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None and not self._worker.stop(_STOP_TIMEOUT_S):
            self.get_logger().warning(f"The image in work was not ready within {_STOP_TIMEOUT_S:g} s; try again later.")
            return False
        self._worker = None
        return True

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load map and bundle and check that they fit; create the publishers."""
        try:
            self._configure(parameters.values(self))
        # rclpy drops what is raised here without a word.
        except Exception as problem:
            self._release()
            return self._failed("configure", problem)
        self._state = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        try:
            self._activate(parameters.values(self))
        except Exception as problem:
            self.stop()
            return self._failed("activate", problem)
        self._state = "active"
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and wait for the image in work; fails when that takes too long, and can be tried again."""
        if not self.stop():
            self._state = "stopping"
            return TransitionCallbackReturn.FAILURE
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the map and the model."""
        self._release()
        self._state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop for good, from whatever state."""
        if self.stop():
            self._release()
        self._state = "finalized"
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after a transition that broke; finalized where even that fails."""
        self.get_logger().error(
            f"A transition from the state {state.label} broke: the node stops and lets go of its map."
        )
        if not self.stop():
            self._state = "finalized"
            return TransitionCallbackReturn.FAILURE
        self._release()
        self._state = "unconfigured"
        return super().on_error(state)

    def _configure(self, given: dict[str, Any]) -> None:
        topic = self._resolve(given["image_topic"])
        localizer = self._open(given)
        self._pipeline = Pipeline(
            localizer=localizer,
            mount=CameraMount(given["camera_extrinsics"]),
            default_altitude=self._default_altitude,
            map_frame=given["map_frame"],
            base_frame=given["base_frame"],
            image_topic=topic + ("/compressed" if given["image_transport"] == "compressed" else ""),
            publishers=Publishers(
                pose=self._publisher(PoseWithCovarianceStamped, "~/pose"),
                fix=self._publisher(NavSatFix, "~/fix"),
                hypotheses=self._publisher(PoseArray, "~/hypotheses"),
                cloud=self._publisher(PointCloud2, "~/hypotheses_cloud"),
            ),
            statistics=self._statistics,
            logger=self.get_logger(),
        )
        where = "local" if localizer.geomap.datum is None else "georeferenced"
        self.get_logger().info(f"Configured: {where} map {localizer.geomap.path} of {len(localizer.geomap)} images.")

    def _publisher(self, kind: type, topic: str) -> LifecyclePublisher:
        self._publishers_made.append(self.create_lifecycle_publisher(kind, topic, _ANSWER_DEPTH))
        return self._publishers_made[-1]

    def _resolve(self, topic: str) -> str:
        """The image topic, expanded and remapped."""
        try:
            return self.resolve_topic_name(topic)
        except RuntimeError as problem:
            reason = str(problem).removeprefix("failed to resolve name: ").split(", at ")[0]
            raise ConfigError(
                f"image_topic {topic!r} is no topic name ({reason}): set one such as /camera/image_raw."
            ) from problem

    def _activate(self, given: dict[str, Any]) -> None:
        pipeline = self._pipeline
        reliable = given["image_qos"] == "reliable"
        qos = QoSProfile(
            depth=_IMAGE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        kind = CompressedImage if given["image_transport"] == "compressed" else RosImage
        slot: LatestSlot[Arrival] = LatestSlot()
        self._worker = Worker(slot, lambda arrival: pipeline.answer(arrival, slot), "localizer")
        self._statistics.activated()

        def store(message: RosImage | CompressedImage) -> None:
            self._statistics.received(slot.put(Arrival(message, time.monotonic())))

        self._subscription = self.create_subscription(kind, pipeline.image_topic, store, qos)
        self.get_logger().info(f"Active: images from {pipeline.image_topic}.")

    def _failed(self, what: str, problem: Exception) -> TransitionCallbackReturn:
        """Tell why a transition fails; our own errors name their remedy."""
        text = (
            str(problem)
            if isinstance(problem, VgsslError)
            else (
                f"{type(problem).__name__}: {problem}. Check the parameters (ros2 param dump), the map and the bundle."
            )
        )
        self.get_logger().error(f"Cannot {what}: {' '.join(text.split())}")
        return TransitionCallbackReturn.FAILURE

    def _default_altitude(self) -> DefaultAltitude:
        return DefaultAltitude(
            self.get_parameter("altitude_default_m").value, self.get_parameter("altitude_default_sigma_m").value
        )

    def _open(self, given: dict[str, Any]) -> Localizer:
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
            precision=str(given["precision"]),
        )

    def _release(self) -> None:
        """Forget the map, the model and the publishers."""
        self._pipeline = None
        while self._publishers_made:
            self.destroy_lifecycle_publisher(self._publishers_made.pop())

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        configured = self._pipeline is not None
        reasons = (parameters.refusal(item.name, item.value, configured) for item in changed)
        reason = next(filter(None, reasons), None)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _publish_diagnostics(self) -> None:
        pipeline = self._pipeline
        topic = "" if pipeline is None else pipeline.image_topic
        publishers = self.count_publishers(topic) if topic else 0
        health = judge(self._statistics.read(), self._state, topic, publishers)
        level = DiagnosticStatus.OK if health.is_ok else DiagnosticStatus.WARN
        hardware = "" if pipeline is None else str(pipeline.localizer.geomap.path)
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(messages.diagnostics(name, hardware, level, health.summary, health.values, stamp))


def run(arguments: Sequence[str] | None, stop: SimpleQueue[int]) -> int:
    """Start ROS, let the node work until it is told to stop, and clean up.

    Args:
        arguments: ROS arguments; None takes the process's own.
        stop: Put anything into it to end the node, at any time.

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


def _spin(node: LocalizerNode, stop: SimpleQueue[int]) -> int:
    """Serve the node's callbacks beside the main thread, which waits for the word to stop."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[BaseException] = []
    is_ending = False

    def serve() -> None:
        try:
            executor.spin()
        except BaseException as problem:
            # What the executor raises because it is shut down under its own call is no failure.
            if not is_ending:
                failures.append(problem)
                raise
        finally:
            stop.put(0)

    thread = threading.Thread(target=serve, name="executor", daemon=True)
    thread.start()
    stop.get()
    is_ending = True
    executor.shutdown()
    thread.join()
    return 1 if failures else 0


def _complain(problem: Exception) -> int:
    print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    return 1
