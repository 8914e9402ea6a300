"""The pose that Nav2's AMCL is started with: accepted by its validation, sent once, and again when asked."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ros_support
import yaml
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import given
from hypothesis import strategies as st
from ros_support import Program, Ros

from vgssl_ros.messages import stamp_ns, to_stamp

std_srvs = pytest.importorskip("std_srvs.srv", reason="std_srvs is not installed: pip install '.[ros]'")

from vgssl_ros.amcl_pose import PARAMETERS, aligned, refusal  # noqa: E402

finite = st.floats(-1e5, 1e5)
angles = st.floats(-math.pi, math.pi)
sigmas = st.floats(1e-3, 2e4)


def accepted(x: float = 1.0, y: float = 2.0, yaw: float = 0.5, stamp: int | None = None) -> PoseWithCovarianceStamped:
    """As the localizer publishes it."""
    pose = PoseWithCovarianceStamped()
    pose.header.frame_id = "map"
    pose.header.stamp = to_stamp(time.time_ns() if stamp is None else stamp)
    pose.pose.pose.position.x, pose.pose.pose.position.y = x, y
    pose.pose.pose.orientation.z, pose.pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    pose.pose.covariance = np.diag([4.0, 9.0, 100.0, 0.01, 0.01, 0.04]).reshape(-1)
    return pose


def _yaw(pose: PoseWithCovarianceStamped) -> float:
    return 2 * math.atan2(pose.pose.pose.orientation.z, pose.pose.pose.orientation.w)


@given(finite, finite, angles, finite, finite, angles, sigmas, sigmas, st.floats(-0.99, 0.99), sigmas)
def test_whatever_pose_and_alignment_nav2_takes_it(
    x: float, y: float, yaw: float, dx: float, dy: float, turn: float, sx: float, sy: float, rho: float, syaw: float
) -> None:
    pose = accepted(x, y, yaw)
    covariance = np.diag([sx**2, sy**2, 1.0, 0.01, 0.01, syaw**2])
    covariance[0, 1] = covariance[1, 0] = rho * sx * sy
    pose.pose.covariance = covariance.reshape(-1)
    sent = aligned(pose, "map", [dx, dy, turn])
    assert refusal(sent) is None
    matrix = np.reshape(sent.pose.covariance, (6, 6))
    assert (matrix == np.diag(np.diagonal(matrix))).all() and (matrix >= 0).all()
    assert matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[5, 5] > 0
    # In the complex plane a turn is a product.
    place = complex(dx, dy) + np.exp(1j * turn) * complex(x, y)
    assert complex(sent.pose.pose.position.x, sent.pose.pose.position.y) == pytest.approx(place, abs=1e-6)
    assert np.exp(1j * _yaw(sent)) == pytest.approx(np.exp(1j * (yaw + turn)), abs=1e-9)
    # A turn keeps the sum of the variances.
    assert matrix[0, 0] + matrix[1, 1] == pytest.approx(sx**2 + sy**2)


def test_a_variance_beyond_what_nav2_takes_is_cut() -> None:
    pose = accepted()
    pose.pose.covariance[35] = 1e12
    assert refusal(pose) is not None and refusal(aligned(pose, "map")) is None


def test_without_an_alignment_the_pose_stays_as_it_was() -> None:
    pose = accepted()
    sent = aligned(pose, "world")
    assert sent.header.frame_id == "world" and sent.header.stamp == pose.header.stamp
    assert sent.pose.pose.position == pose.pose.pose.position and _yaw(sent) == pytest.approx(0.5)
    assert (sent.pose.covariance == pose.pose.covariance).all()


def _damaged(**changes: Any) -> PoseWithCovarianceStamped:
    pose = accepted()
    for name, value in changes.items():
        if name == "frame":
            pose.header.frame_id = value
        elif name == "x":
            pose.pose.pose.position.x = value
        elif name == "w":
            pose.pose.pose.orientation.w = value
        else:
            pose.pose.covariance[int(name.removeprefix("c"))] = value
    return pose


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frame": ""}, "no frame"),
        ({"x": math.nan}, "not finite"),
        ({"x": math.inf}, "not finite"),
        ({"w": 0.9}, "length 1"),
        ({"c1": -0.001}, "below 0"),
        ({"c35": 2e9}, "above 1e9"),
        ({"c7": math.nan}, "not finite"),
    ],
)
def test_what_nav2_would_drop_is_named(changes: dict[str, Any], reason: str) -> None:
    assert refusal(accepted()) is None
    assert reason in (refusal(_damaged(**changes)) or "")


def test_the_document_tells_every_parameter_with_its_default() -> None:
    lines = (ros_support.ROOT / "docs" / "deploy.md").read_text().splitlines()
    for name, (default, _) in PARAMETERS.items():
        (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        told = yaml.safe_load(row.split("|")[2])
        assert told == default, row


@pytest.fixture
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


def publisher_of_initial_poses(*parameters: str) -> Program:
    given = [item for parameter in parameters for item in ("-p", parameter)]
    return Program(["vgssl_ros.initial_pose", "--ros-args", *given])


def _asked(ros: Ros) -> Any:
    return ros.call(std_srvs.Trigger, "/initial_pose/send", std_srvs.Trigger.Request())


def test_the_first_pose_is_sent_once_and_the_newest_when_asked(ros: Ros) -> None:
    with publisher_of_initial_poses("frame:=site", "alignment:=[10.0, 0.0, 0.0]") as node:
        localizer = ros.node.create_publisher(PoseWithCovarianceStamped, "/localizer/pose", 10)
        ros.wait(lambda: localizer.get_subscription_count() == 1, "a subscription of poses")
        answer = _asked(ros)
        assert not answer.success and "no accepted pose has come yet" in answer.message
        first, second = accepted(1.0), accepted(2.0)
        localizer.publish(first)
        # AMCL comes later than the pose.
        received = ros.collect(PoseWithCovarianceStamped, "/initialpose")
        ros.wait(lambda: received, "the first pose")
        assert received[0].pose.pose.position.x == 11.0 and received[0].header.frame_id == "site"
        assert stamp_ns(received[0].header.stamp) == stamp_ns(first.header.stamp) and refusal(received[0]) is None
        localizer.publish(second)

        def asked_for_the_second() -> bool:
            return "x 12.00 m" in _asked(ros).message

        ros.wait(asked_for_the_second, "the second pose")
        ros.wait(lambda: received[-1].pose.pose.position.x == 12.0, "the second pose")
        for _ in range(3):
            node.interrupt()
        assert node.end() == 0 and "Traceback" not in node.output and "rror" not in node.output, node.output


def test_an_old_pose_is_not_sent(ros: Ros) -> None:
    with publisher_of_initial_poses("at_start:=false", "max_age_s:=2.0") as node:
        localizer = ros.node.create_publisher(PoseWithCovarianceStamped, "/localizer/pose", 10)
        received = ros.collect(PoseWithCovarianceStamped, "/initialpose")
        ros.wait(lambda: localizer.get_subscription_count() == 1, "a subscription of poses")
        localizer.publish(accepted(stamp=time.time_ns() - 60_000_000_000))
        ros.wait(lambda: "60." in _asked(ros).message, "the pose's age")
        assert not _asked(ros).success
        localizer.publish(accepted())
        ros.wait(lambda: _asked(ros).success, "a fresh pose")
        ros.wait(lambda: len(received) == 1, "the fresh pose, and nothing by itself")
        node.interrupt()
        assert node.end() == 0


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("alignment:=[1.0]", "alignment is .1.0.: give x, y and yaw"),
        ("max_age_s:=0.0", "max_age_s is 0.0: it must be positive"),
        ("max_age_s:=soon", "max_age_s"),
        ("frame:=''", "frame is empty"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_one_line(parameter: str, message: str) -> None:
    with publisher_of_initial_poses(parameter) as node:
        assert node.end() == 1
    (line,) = node.lines
    assert line.startswith("error: ") and re.search(message, line)
