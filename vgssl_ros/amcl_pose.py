"""The node that hands the localizer's accepted pose to Nav2's AMCL; `vgssl_ros.initial_pose` is its program."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np
import rclpy
from geometry_msgs.msg import Point, PoseWithCovarianceStamped, Quaternion
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from std_srvs.srv import Trigger

from vgssl_core.bags.message import about_z
from vgssl_core.errors import ConfigError
from vgssl_core.localization.odometry_track import PlanarPose
from vgssl_ros.messages import planar_pose

#: What ``validateMsg`` of nav2_util (since 2026 nav2_ros_common), validate_messages.hpp, allows a pose to be.
_LARGEST_COVARIANCE = 1e9
_QUATERNION_TOLERANCE = 1e-4
_RETRY_S = 0.5
_REPEAT_S = 10.0
#: No pose of this day is so old: its stamp is a recording's.
_REPLAYED_S = 86400.0
_POLL_S = 0.2
_DEPTH = 10

PARAMETERS = {
    "at_start": (True, "send the first accepted pose without being asked, as soon as somebody listens"),
    "max_age_s": (5.0, "a pose whose image is older than this is not sent, seconds"),
    "frame": ("map", "AMCL's global_frame_id: it ignores poses in any other frame"),
    "alignment": (
        [0.0, 0.0, 0.0],
        "pose of the localizer's map frame in AMCL's: x and y in metres, yaw in radians; zeros where both maps share "
        "their origin and axes",
    ),
}


def aligned(
    pose: PoseWithCovarianceStamped, frame: str, alignment: Sequence[float] = (0.0, 0.0, 0.0)
) -> PoseWithCovarianceStamped:
    """An accepted pose as AMCL takes it: in its map, upright, with a diagonal covariance.

    Args:
        pose: From the localizer. The stamp stays: AMCL adds the way that odometry has gone since.
        frame: AMCL's global frame.
        alignment: x, y in metres and yaw in radians of the localizer's map frame in AMCL's.
    """
    axes = PlanarPose(*alignment)
    placed = axes @ planar_pose(pose.pose.pose)
    result = PoseWithCovarianceStamped()
    result.header.stamp, result.header.frame_id = pose.header.stamp, frame
    result.pose.pose.position = Point(x=placed.x_m, y=placed.y_m, z=pose.pose.pose.position.z)
    result.pose.pose.orientation = Quaternion(**about_z(placed.yaw_rad))
    covariance = np.reshape(pose.pose.covariance, (6, 6))
    cosine, sine = math.cos(axes.yaw_rad), math.sin(axes.yaw_rad)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    variances = np.diagonal(covariance).copy()
    variances[:2] = np.diagonal(rotation @ covariance[:2, :2] @ rotation.T)
    result.pose.covariance = np.diag(np.minimum(variances, _LARGEST_COVARIANCE)).reshape(-1)
    return result


def refusal(pose: PoseWithCovarianceStamped) -> str | None:
    """Why Nav2 would call a pose malformed and drop it; None when it is taken.

    These are the checks of ``validateMsg``: a frame, whole nanoseconds, finite numbers, a quaternion of length 1, and
    36 covariance elements between 0 and 1e9 each, those off the diagonal too. From Jazzy on AMCL also drops a pose
    whose x or y is larger than its map's width or height in cells, which nobody can check but itself.
    """
    position, turn = pose.pose.pose.position, pose.pose.pose.orientation
    quaternion = (turn.x, turn.y, turn.z, turn.w)
    covariance = np.asarray(pose.pose.covariance)
    if not pose.header.frame_id:
        return "it has no frame"
    if pose.header.stamp.nanosec >= 1_000_000_000:
        return "its stamp has more than a second of nanoseconds"
    if not np.isfinite([position.x, position.y, position.z, *quaternion, *covariance]).all():
        return "it has numbers that are not finite"
    if abs(sum(value * value for value in quaternion) - 1) >= _QUATERNION_TOLERANCE:
        return "its quaternion does not have the length 1"
    if covariance.min() < 0 or covariance.max() > _LARGEST_COVARIANCE:
        return "its covariance has elements below 0 or above 1e9"
    return None


class InitialPoseNode(Node):
    """Keeps the newest accepted pose and hands it on once, or when asked."""

    def __init__(self) -> None:
        """Declare parameters and subscribe.

        Raises:
            ConfigError: A parameter cannot be used.
        """
        super().__init__("initial_pose")
        for name, (default, description) in PARAMETERS.items():
            self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True))
        values = {name: self.get_parameter(name).value for name in PARAMETERS}
        if len(values["alignment"]) != 3 or not np.isfinite(values["alignment"]).all():
            raise ConfigError(f"alignment is {list(values['alignment'])}: give x, y and yaw, three finite numbers.")
        if not values["max_age_s"] > 0:
            raise ConfigError(f"max_age_s is {values['max_age_s']}: it must be positive.")
        if not values["frame"]:
            raise ConfigError("frame is empty: give AMCL's global_frame_id, which usually is map.")
        self._frame, self._alignment = values["frame"], list(values["alignment"])
        self._max_age_s = values["max_age_s"]
        self._newest: PoseWithCovarianceStamped | None = None
        self._is_waiting = bool(values["at_start"])
        self._publisher = self.create_publisher(PoseWithCovarianceStamped, "initialpose", _DEPTH)
        self.create_subscription(PoseWithCovarianceStamped, "localizer/pose", self._keep, _DEPTH)
        self.create_service(Trigger, "~/send", self._answer)
        # A listener that comes after the pose is found by looking again; by the steady clock, which never stands still.
        self.create_timer(_RETRY_S, self._try_first, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _keep(self, pose: PoseWithCovarianceStamped) -> None:
        self._newest = pose
        self._try_first()

    def _try_first(self) -> None:
        if self._is_waiting and self._newest is not None and self._publisher.get_subscription_count() > 0:
            sent, text = self._send()
            self._is_waiting = not sent
            if sent:
                self.get_logger().info(text)
            else:
                self.get_logger().warning(text, throttle_duration_sec=_REPEAT_S)

    def _answer(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._send()
        return response

    def _send(self) -> tuple[bool, str]:
        """Publish the newest pose; whether that was possible, and what was sent or why not."""
        if self._newest is None:
            return False, "no accepted pose has come yet: is the localizer active, and sure of its place?"
        age_s = (self.get_clock().now() - Time.from_msg(self._newest.header.stamp)).nanoseconds / 1e9
        if age_s > self._max_age_s:
            text = f"the newest accepted pose is {age_s:.1f} s old; max_age_s is {self._max_age_s:g}"
            replayed = "; with a replayed bag set use_sim_time here too" if age_s > _REPLAYED_S else ""
            return False, text + replayed
        if self._publisher.get_subscription_count() == 0:
            return False, f"nobody listens to {self._publisher.topic_name}: is AMCL running?"
        pose = aligned(self._newest, self._frame, self._alignment)
        if problem := refusal(pose):
            return False, f"the newest accepted pose is not sent, Nav2 would drop it: {problem}"
        self._publisher.publish(pose)
        sent = planar_pose(pose.pose.pose)
        yaw_deg = math.degrees(sent.yaw_rad)
        return True, f"sent x {sent.x_m:.2f} m, y {sent.y_m:.2f} m, yaw {yaw_deg:.1f} deg in {self._frame}"


def run(arguments: Sequence[str] | None, stop: SimpleQueue[int]) -> int:
    """Serve until something is put into the queue.

    Args:
        arguments: ROS arguments; None takes the process's own.
        stop: Put anything into it to end the node, at any time.

    Returns:
        Exit status: 0 when it was told to stop, 1 when it could not start.
    """
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = InitialPoseNode()
    except (ConfigError, RuntimeError, InvalidParameterTypeException, InvalidParameterValueException) as problem:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while stop.empty():
            executor.spin_once(timeout_sec=_POLL_S)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    return 0
