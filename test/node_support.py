"""What tests of the localizer node share: what it is shown, and everything that it says."""

from __future__ import annotations

import array
from typing import Any

import ros_support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.publisher import Publisher
from ros_support import Ros
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header
from tiny import picture

from vgssl_ros.messages import stamp_ns, to_stamp

OUTPUTS = {
    "pose": PoseWithCovarianceStamped,
    "fix": NavSatFix,
    "hypotheses": PoseArray,
    "hypotheses_cloud": PointCloud2,
}


class Listener:
    """Everything that a localizer says."""

    def __init__(self, ros: Ros) -> None:
        self._ros = ros
        self.received = {name: ros.collect(kind, f"/localizer/{name}") for name, kind in OUTPUTS.items()}
        self.diagnostics = ros.collect(DiagnosticArray, "/diagnostics")

    def stamps(self, name: str) -> list[int]:
        return [stamp_ns(message.header.stamp) for message in self.received[name]]

    def status(self) -> dict[str, str]:
        """The newest figures."""
        if not self.diagnostics:
            return {}
        (status,) = self.diagnostics[-1].status
        assert status.name == "localizer"
        return {"message": status.message, **{item.key: item.value for item in status.values}}

    def wait_for_answer(self, stamp: int) -> None:
        self._ros.wait(lambda: all(stamp in self.stamps(name) for name in self.received), f"an answer to {stamp}")


def camera(ros: Ros, kind: Any, topic: str) -> Publisher:
    """A publisher that the localizer has matched, from both sides."""
    publisher = ros.node.create_publisher(kind, topic, 10)
    listener = Listener(ros)
    ros.wait(
        lambda: publisher.get_subscription_count() > 0 and listener.status().get("matched") == "1",
        f"a subscription of {topic}",
    )
    return publisher


def raw(number: int, stamp: int) -> RosImage:
    image = picture(number)
    data = array.array("B")
    data.frombytes(image.tobytes())
    header = Header(stamp=to_stamp(stamp), frame_id="camera")
    return RosImage(header=header, height=48, width=64, encoding="rgb8", step=64 * 3, data=data)


def compressed(data: bytes, stamp: int) -> CompressedImage:
    return CompressedImage(header=Header(stamp=to_stamp(stamp), frame_id="camera"), format="jpeg", data=data)


def assert_clean(node: ros_support.Program) -> None:
    assert node.end() == 0, node.output
    assert "Traceback" not in node.output and "rror" not in node.output, node.output
