"""One node on real DDS in simulated time: two cameras, odometry, the filter over time, and the transform map → odom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros_support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from node_support import raw
from ros_support import STEP_M, Ros
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from vgssl_core.localization.odometry_track import PlanarPose
from vgssl_ros.messages import planar_pose, stamp_ns, to_stamp

COUNT = 12
#: Two cameras that look forward, on both sides of the base and a metre ahead of it.
MOUNTS = (PlanarPose(1.0, 2.0), PlanarPose(1.0, -2.0))
TOPICS = ("/left/image_raw", "/right/image_raw")
#: Where the odometry began, in the map.
BEGIN = PlanarPose(30.0, -40.0, 1.2)
PERIOD_NS = 2_000_000_000
FIRST_NS = 5_000_000_000
#: A stand-in for the distribution's package, which the wheels lack.
TF2_ROS = """
from geometry_msgs.msg import TransformStamped

class TransformBroadcaster:
    def __init__(self, node):
        self._publisher = node.create_publisher(TransformStamped, "/broadcast", 100)

    def sendTransform(self, transform):
        self._publisher.publish(transform)
"""


@pytest.fixture(scope="module")
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


@pytest.fixture(scope="module")
def node(ros: Ros, tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[ros_support.Program]:
    folder = tmp_path_factory.mktemp("motion")
    built = ros_support.build_map(folder / "map", tiny_bundle, ros_support.write_drive(folder / "drive", COUNT))
    (folder / "packages" / "tf2_ros").mkdir(parents=True)
    (folder / "packages" / "tf2_ros" / "__init__.py").write_text(TF2_ROS)
    env = ros_support.environment()
    env["PYTHONPATH"] = f"{folder / 'packages'}:{env['PYTHONPATH']}"
    extrinsics = [number for mount in MOUNTS for number in (mount.x_m, mount.y_m, 0.0, 0.0, 0.0, mount.yaw_rad)]
    given: dict[str, Any] = {"map_path": built, "bundle_path": tiny_bundle, "image_qos": "reliable"}
    given |= {"image_topics": list(TOPICS), "camera_extrinsics": extrinsics, "use_sim_time": True}
    given |= {"publish_tf": True, "threshold": 0.3, "odometry_gap_s": 3.0}
    with ros_support.localizer(given, env) as program:
        program.wait_for("Active")
        yield program
        program.interrupt()
        assert program.end() == 0 and "Traceback" not in program.output, program.output


def base_at(number: int, camera: int) -> PlanarPose:
    """Where the base was when a camera took a picture: the map's origin is the middle of the drive."""
    place = PlanarPose((number - (COUNT - 1) / 2) * STEP_M, 0.0)
    return place @ MOUNTS[camera].inverse()


def odometry(stamp: int, base: PlanarPose) -> Odometry:
    message = Odometry(child_frame_id="base_link")
    message.header.stamp, message.header.frame_id = to_stamp(stamp), "odom"
    pose, told = message.pose.pose, BEGIN.inverse() @ base
    pose.position.x, pose.position.y = told.x_m, told.y_m
    pose.orientation.z, pose.orientation.w = math.sin(told.yaw_rad / 2), math.cos(told.yaw_rad / 2)
    return message


def test_two_cameras_and_odometry_make_one_pose_that_is_accepted_when_it_is_confirmed(
    ros: Ros, node: ros_support.Program
):
    answers = ros.collect(PoseArray, "/localizer/hypotheses")
    poses = ros.collect(PoseWithCovarianceStamped, "/localizer/pose")
    transforms = ros.collect(TransformStamped, "/broadcast")
    told = ros.collect(DiagnosticArray, "/diagnostics")
    cameras = [ros.node.create_publisher(Image, TOPICS[0], 10)]
    # Of two cameras the one that is missing is told.
    missing = f"no publisher on {TOPICS[1]}"
    ros.wait(lambda: told and told[-1].status[0].message.startswith(missing), "a missing camera")
    cameras.append(ros.node.create_publisher(Image, TOPICS[1], 10))
    wheels = ros.node.create_publisher(Odometry, "/odom", 10)
    clock = ros.node.create_publisher(Clock, "/clock", 10)
    ros.wait(lambda: all(p.get_subscription_count() for p in (*cameras, wheels, clock)), "the node's subscriptions")
    ros.wait(lambda: status(told).get("matched") == "1", "the node's publishers")

    truth: dict[int, PlanarPose] = {}
    for number in range(COUNT):
        camera, stamp = number % 2, FIRST_NS + number * PERIOD_NS
        truth[stamp] = base_at(number, camera)
        clock.publish(Clock(clock=to_stamp(stamp)))
        wheels.publish(odometry(stamp, truth[stamp]))
        cameras[camera].publish(raw(number, stamp))
        ros.wait(lambda stamp=stamp: stamp in stamps(answers), f"an answer to picture {number}")
    wheels.publish(odometry(stamp + 1, truth[stamp]))
    ros.wait(lambda: stamp + 1 in stamps(transforms), "the transform")

    assert stamps(answers) == sorted(truth)
    accepted = stamps(poses)
    # Not at once, but soon, and then always; of both cameras.
    assert 0 < len(accepted) < COUNT - 3 and accepted == sorted(truth)[-len(accepted) :]
    for message in poses:
        found, true = planar_pose(message.pose.pose), truth[stamp_ns(message.header.stamp)]
        assert math.hypot(found.x_m - true.x_m, found.y_m - true.y_m) < 5 and abs(found.yaw_rad) < 0.2
        covariance = message.pose.covariance.reshape(6, 6)
        assert (covariance == np.diag(np.diag(covariance))).all() and np.isfinite(covariance).all()
        assert (np.diag(covariance)[:3] >= 1.0).all() and covariance[5, 5] >= math.radians(5.0) ** 2 * (1 - 1e-9)
    # map → odom is where the odometry began.
    assert (transforms[-1].header.frame_id, transforms[-1].child_frame_id) == ("map", "odom")
    pose = Pose(orientation=transforms[-1].transform.rotation)
    begin, shift = planar_pose(pose), transforms[-1].transform.translation
    assert math.hypot(shift.x - BEGIN.x_m, shift.y - BEGIN.y_m) < 15
    assert abs(math.remainder(begin.yaw_rad - BEGIN.yaw_rad, math.tau)) < 0.1
    # Diagnostics follow simulated time.
    ros.wait(lambda: stamp_ns(told[-1].header.stamp) >= stamp, "diagnostics")
    assert stamp_ns(told[-1].header.stamp) == stamp
    assert status(told)["image_topic"] == ", ".join(TOPICS)


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_ns(message.header.stamp) for message in messages]


def status(messages: list[DiagnosticArray]) -> dict[str, str]:
    """The newest diagnostics."""
    return {item.key: item.value for item in messages[-1].status[0].values} if messages else {}
