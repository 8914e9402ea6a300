"""The robot's odometry as ROS tells it, and what the map's pose makes of it: the transform map → odom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from nav_msgs.msg import Odometry
from rclpy.node import Node

from vgssl_core.bags.message import about_z
from vgssl_core.errors import ConfigError
from vgssl_core.localization.odometry_track import OdometryTrack, PlanarPose
from vgssl_ros.base_pose import BasePose
from vgssl_ros.messages import planar_pose, stamp_ns


class Broadcaster(Protocol):
    """What of ``tf2_ros.TransformBroadcaster`` is used here."""

    def sendTransform(self, transform: TransformStamped) -> None:
        """Publish a transform."""
        ...


class OdometryInput:
    """Keeps the newest odometry, and where it is asked for broadcasts map → odom with each message.

    Args:
        max_gap_s: See `OdometryTrack`.
        map_frame: Parent of the transform.
        broadcaster: None broadcasts nothing.
    """

    def __init__(self, max_gap_s: float, map_frame: str, broadcaster: Broadcaster | None) -> None:
        self.track = OdometryTrack(max_gap_s)
        self._map_frame, self._broadcaster = map_frame, broadcaster
        self._map_to_odom: PlanarPose | None = None

    def take(self, message: Odometry) -> None:
        """One message, of the executor's thread."""
        stamp = message.header.stamp
        self.track.add(stamp_ns(stamp), planar_pose(message.pose.pose))
        pose = self._map_to_odom
        if self._broadcaster is None or pose is None:
            return
        # With the message's own stamp, so that whoever asks for this moment finds it.
        transform = TransformStamped(child_frame_id=message.header.frame_id)
        transform.header.stamp, transform.header.frame_id = stamp, self._map_frame
        transform.transform.translation = Vector3(x=pose.x_m, y=pose.y_m)
        transform.transform.rotation = Quaternion(**about_z(pose.yaw_rad))
        self._broadcaster.sendTransform(transform)

    def correct(self, stamp: int, base: BasePose) -> None:
        """The base was there at a stamp in nanoseconds: an accepted pose, of the worker's thread."""
        odometry = self.track.at(stamp)
        if odometry is not None and base.has_heading:
            x, y, _ = map(float, base.position_m)
            self._map_to_odom = PlanarPose(x, y, base.yaw_rad) @ odometry.inverse()

    def forget(self) -> None:
        """Stop to broadcast until the next accepted pose: the map has changed."""
        self._map_to_odom = None


def open_odometry(node: Node, given: Mapping[str, Any]) -> OdometryInput:
    """The odometry's place, with a broadcaster where the parameters ask for it.

    Raises:
        ConfigError: The broadcaster's package is not installed.
    """
    broadcaster = _open_broadcaster(node) if given["publish_tf"] else None
    return OdometryInput(given["odometry_gap_s"], given["map_frame"], broadcaster)


def _open_broadcaster(node: Node) -> Broadcaster:
    # Imported here because the wheels lack it.
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError as problem:
        raise ConfigError(
            f"publish_tf needs tf2_ros, and that cannot be imported ({problem}): install it with the ROS distribution, "
            "or leave publish_tf out and let an EKF broadcast the transform."
        ) from problem
    broadcaster: Any = TransformBroadcaster(node)
    return broadcaster
