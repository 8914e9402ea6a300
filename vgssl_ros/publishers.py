"""The topics that the localizer answers on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

_DEPTH = 10
#: Whoever comes later gets the last message too.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Publishers:
    """Where answers go."""

    pose: LifecyclePublisher
    fix: LifecyclePublisher
    hypotheses: LifecyclePublisher
    cloud: LifecyclePublisher
    markers: LifecyclePublisher
    match_image: LifecyclePublisher
    map_info: Publisher

    @classmethod
    def create(cls, node: LifecycleNode) -> Publishers:
        """All of them; answers are published while the node is active, what they come from as soon as it is known."""
        return cls(
            pose=node.create_lifecycle_publisher(PoseWithCovarianceStamped, "~/pose", _DEPTH),
            fix=node.create_lifecycle_publisher(NavSatFix, "~/fix", _DEPTH),
            hypotheses=node.create_lifecycle_publisher(PoseArray, "~/hypotheses", _DEPTH),
            cloud=node.create_lifecycle_publisher(PointCloud2, "~/hypotheses_cloud", _DEPTH),
            markers=node.create_lifecycle_publisher(MarkerArray, "~/markers", _DEPTH),
            match_image=node.create_lifecycle_publisher(CompressedImage, "~/match_image/compressed", _DEPTH),
            map_info=node.create_publisher(String, "~/map_info", LATCHED),
        )

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens to an answer."""
        return any(publisher.get_subscription_count() for publisher in self._answers())

    def destroy(self, node: LifecycleNode) -> None:
        """Take all of them from their node."""
        for publisher in self._answers():
            node.destroy_lifecycle_publisher(publisher)
        node.destroy_publisher(self.map_info)

    def _answers(self) -> list[LifecyclePublisher]:
        return [getattr(self, item.name) for item in fields(self) if item.name != "map_info"]
