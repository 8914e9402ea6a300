"""A camera for `test_ros_config`: best-effort images of 640x480 rgb8, after somebody has subscribed."""

from __future__ import annotations

import array
import sys
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

PERIOD_S = 0.03


def main(count: int) -> None:
    """Publish so many images."""
    rclpy.init()
    node = rclpy.create_node("camera")
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(Image, "/large", qos)
    while publisher.get_subscription_count() == 0:
        rclpy.spin_once(node, timeout_sec=0.05)
    image = Image(width=640, height=480, encoding="rgb8", step=640 * 3, data=array.array("B", bytes(640 * 480 * 3)))
    for _ in range(count):
        publisher.publish(image)
        end_s = time.monotonic() + PERIOD_S
        while (rest_s := end_s - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=rest_s)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
