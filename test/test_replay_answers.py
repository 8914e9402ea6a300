"""The recorder without a localizer: what it counts is what it writes, and when it is ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ros_support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from ros_support import Ros
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from vgssl_ros import messages
from vgssl_ros.answers import AnswerRecorder
from vgssl_ros.base_pose import BasePose


@pytest.fixture
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


def pose() -> BasePose:
    return BasePose(np.zeros(3), 0.0, np.ones(3), 1.0, 0.1, 1.0, 0.5, 1, 0)


def test_the_recorder_is_ready_once_its_own_subscriptions_are_matched_and_counts_what_it_writes(ros: Ros):
    recorder = AnswerRecorder(ros.node, "/other")
    publishers: dict[Any, Any] = {
        kind: ros.node.create_publisher(kind, topic, 10)
        for kind, topic in ((DiagnosticArray, "/diagnostics"), (PoseArray, "/other/hypotheses"))
    }
    told = messages.diagnostics("other", "", b"\x00", "", {"publishers": "1", "matched": "1"}, messages.to_stamp(0))
    ros.wait(lambda: publishers[DiagnosticArray].get_subscription_count() == 1, "a listener for diagnostics")
    publishers[DiagnosticArray].publish(told)
    ros.wait(lambda: recorder.status, "a diagnostics message")
    assert not recorder.is_ready
    cloud = ros.node.create_publisher(PointCloud2, "/other/hypotheses_cloud", 10)
    ros.wait(lambda: recorder.is_ready, "a match of all subscriptions")

    for stamp in (1, 2, 3, 4):
        recorder.sent(stamp)
    # 1 twice, 2 without a hypothesis, 3 without poses, 4 well, 5 never sent.
    for stamp, count in ((1, 1), (1, 1), (2, 0), (3, 1), (5, 1), (4, 1)):
        header = Header(stamp=messages.to_stamp(stamp))
        poses = [pose()] * count
        if stamp != 3:
            publishers[PoseArray].publish(messages.pose_array(poses, header))
        cloud.publish(messages.hypotheses_cloud(poses, header, georeferenced=False))
    ros.wait(lambda: {item.stamp_ns for item in recorder.answers()} == {1, 4}, "the answers")
    summary = recorder.summary()
    assert [item.stamp_ns for item in recorder.answers()] == [1, 4]
    assert (summary.frames_published, summary.frames_answered) == (4, 2)
    assert (summary.duplicates, summary.unknown_stamps, summary.out_of_order) == (1, 1, 1)
