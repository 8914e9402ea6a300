"""The lifecycle node around `vgssl_core.localization.Localizer`: messages in, messages out, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vgssl_core.errors import ConfigError, VgsslError
from vgssl_core.localization import Localizer, open_localizer
from vgssl_ros import messages, parameters
from vgssl_ros.cameras import cameras_of
from vgssl_ros.configuration import open_pipeline, with_map
from vgssl_ros.health import Statistics, judge
from vgssl_ros.map_info import map_info
from vgssl_ros.odometry import open_odometry
from vgssl_ros.pipeline import Pipeline
from vgssl_ros.session import Session, wake
from vgssl_ros.surroundings import look_around

_DIAGNOSTICS_DEPTH = 10
#: Longest wait for the image in work when the node stops; an embedding takes far less.
_STOP_TIMEOUT_S = 5.0
#: How often the node looks whether somebody listens.
_DEMAND_PERIOD_S = 0.2
Result = TypeVar("Result")


class LocalizerNode(LifecycleNode):
    """`configure` loads and checks map and bundle, `activate` subscribes, `deactivate` falls silent.

    The image callbacks only store the newest frame; one worker thread decodes, localizes and publishes. Services and
    parameters so stay quick, and the answers are never older than one image's work.
    """

    #: Of the class, because a node whose parameters are wrong is destroyed before it is made.
    _loading: threading.Thread | None = None

    def __init__(self, name: str = "localizer") -> None:
        """Declare parameters and services and start the diagnostics.

        Raises:
            ConfigError: A parameter's value has the wrong type or lies outside its range.
        """
        super().__init__(name)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._pipeline: Pipeline | None = None
        self._session: Session | None = None
        self._is_enabled = True
        self._state = "unconfigured"
        self._statistics = Statistics(lambda: self.get_clock().now().nanoseconds)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", _DIAGNOSTICS_DEPTH)
        # By the steady clock: a simulated one may stand still, and that too is to be told.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_DEMAND_PERIOD_S, self._follow_demand, clock=steady)
        self.create_service(SetBool, "~/set_enabled", self._set_enabled)
        # A call that waits holds up its own group only.
        for name, callback in (("localize_once", self._localize_once), ("reload_map", self._reload_map)):
            self.create_service(Trigger, f"~/{name}", callback, callback_group=MutuallyExclusiveCallbackGroup())

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        return bool(self.get_parameter("autostart").value)

    def start(self) -> bool:
        """Configure and activate; whether both went well."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> bool:
        """Unsubscribe and end the threads; safe at any time.

        Returns:
            False when the image in work was not ready in time: its thread still runs and uses the map and the model.
            It publishes nothing any more, and another call waits for it again.
        """
        if self._session is not None and not self._session.stop(_STOP_TIMEOUT_S):
            self.get_logger().warning(f"The image in work was not ready within {_STOP_TIMEOUT_S:g} s; try again later.")
            return False
        self._session = None
        return True

    def destroy_node(self) -> None:
        """Give a map that is being loaded a little time, so that the process ends in order."""
        if self._loading is not None:
            self._loading.join(_STOP_TIMEOUT_S)
        super().destroy_node()

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
        """Subscribe and start the worker."""
        try:
            self._activate()
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
        # What is quickly checked comes before what takes long.
        cameras = cameras_of(given, self.resolve_topic_name)
        odometry = open_odometry(self, given)
        localizer = self._open(given)
        self._pipeline = open_pipeline(self, given, localizer, cameras, odometry, self._statistics)
        self._publish_map_info(self._pipeline)
        where = "local" if localizer.geomap.datum is None else "georeferenced"
        self.get_logger().info(f"Configured: {where} map {localizer.geomap.path} of {len(localizer.geomap)} images.")

    def _publish_map_info(self, pipeline: Pipeline) -> None:
        topics = [camera.topic for camera in pipeline.cameras]
        text = map_info(pipeline.localizer, pipeline.map_frame, topics)
        pipeline.publishers.map_info.publish(String(data=text))

    def _activate(self) -> None:
        self._session = Session(self, parameters.values(self), lambda: self._pipeline, self._statistics)
        self._follow_demand()
        topics = ", ".join(camera.topic for camera in self._pipeline.cameras)
        self.get_logger().info(f"Active: images from {topics}.")

    def _follow_demand(self) -> None:
        if self._session is not None:
            always = not self.get_parameter("lazy").value or self.get_parameter("publish_tf").value
            self._session.follow(self._is_enabled and (always or self._pipeline.publishers.is_heard))

    def _set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        self._follow_demand()
        response.success = True
        response.message = "enabled" if request.data else "disabled: only ~/localize_once is answered"
        return response

    async def _localize_once(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answer one image, whether or not the node is enabled; succeeds when its pose is accepted."""
        if self._session is None:
            response.message = f"the node is {self._state}: activate it first"
            return response
        outcome = await self._session.localize_once()
        response.success, response.message = outcome.is_accepted, outcome.text
        return response

    async def _reload_map(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the map of ``map_path`` beside the work; the old one stays when that fails."""
        old, given = self._pipeline, parameters.values(self)
        if old is None:
            response.message = "the node has no map: configure it, which loads one"
            return response
        try:
            new = await self._in_thread(lambda: with_map(self, old, given))
            if self._pipeline is not old:
                raise ConfigError("the node was cleaned up meanwhile")
        except Exception as problem:
            response.message = f"The old map stays: {_described(problem)}"
            self.get_logger().error(response.message)
            return response
        self._pipeline = new
        new.odometry.forget()
        self._publish_map_info(new)
        geomap = new.localizer.geomap
        response.success, response.message = True, f"Map {geomap.path} of {len(geomap)} images."
        self.get_logger().info(f"Reloaded: {response.message}")
        return response

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, without holding up the executor."""
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as problem:
                future.set_exception(problem)
            wake(self)

        self._loading = threading.Thread(target=run, name="loading", daemon=True)
        self._loading.start()
        return await future

    def _failed(self, what: str, problem: Exception) -> TransitionCallbackReturn:
        """Tell why a transition fails."""
        self.get_logger().error(f"Cannot {what}: {_described(problem)}")
        return TransitionCallbackReturn.FAILURE

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
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.publishers.destroy(self)

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        configured = self._pipeline is not None
        reasons = (parameters.refusal(item.name, item.value, configured) for item in changed)
        reason = next(filter(None, reasons), None)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _shown_state(self) -> str:
        """The lifecycle's state, and why an active node does not listen to its cameras."""
        if self._state != "active" or self._session is None or self._session.hears_cameras:
            return self._state
        return "active, waits for a listener" if self._is_enabled else "active, disabled by ~/set_enabled"

    def _publish_diagnostics(self) -> None:
        pipeline = self._pipeline
        topics = [] if pipeline is None else [camera.topic for camera in pipeline.cameras]
        counts = [self.count_publishers(topic) for topic in topics]
        # Where a camera is missing, that is the one to tell of.
        topic = topics[counts.index(0)] if 0 in counts else ", ".join(topics)
        situation = look_around(self, pipeline, self._session)
        health = judge(self._statistics.read(), self._shown_state(), topic, min(counts, default=0), situation)
        values = {**health.values, "matched": str(0 if self._session is None else self._session.matched)}
        level = DiagnosticStatus.OK if health.is_ok else DiagnosticStatus.WARN
        hardware = "" if pipeline is None else str(pipeline.localizer.geomap.path)
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(messages.diagnostics(name, hardware, level, health.summary, values, stamp))


def _described(problem: Exception) -> str:
    """One line; our own errors name their remedy."""
    text = (
        str(problem)
        if isinstance(problem, VgsslError)
        else f"{type(problem).__name__}: {problem}. Check the parameters (ros2 param dump), the map and the bundle."
    )
    return " ".join(text.split())
