"""What the node sees around it in the ROS graph, for the diagnostics: who publishes, and whether that can be heard."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSCompatibility, ReliabilityPolicy, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier

from vgssl_ros.health import Situation
from vgssl_ros.pipeline import Pipeline
from vgssl_ros.session import Session


def look_around(node: LifecycleNode, pipeline: Pipeline | None, session: Session | None) -> Situation:
    """What may hinder a node.

    Args:
        node: The node.
        pipeline: What it answers with; None before it is configured.
        session: Its subscriptions; None while it is not active.
    """
    cameras = () if session is None else session.cameras
    best_effort = any(item.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for item in cameras)
    reasons = ((why_unheard(node, item), item.topic_name) for item in cameras)
    unheard, topic = next(filter(lambda item: item[0], reasons), ("", ""))
    return Situation(
        unheard=unheard,
        unheard_topic=topic,
        loses_large_images=best_effort and "fastrtps" in get_rmw_implementation_identifier(),
        lacks_clock=node.get_parameter("use_sim_time").value and not node.count_publishers("/clock"),
        is_default_calibration=pipeline is not None and pipeline.localizer.calibration.is_default,
    )


def why_unheard(node: LifecycleNode, subscription: Subscription) -> str:
    """Why no publisher on a subscription's topic can be heard; empty where one can, or where there is none.

    The middleware's event of an incompatible QoS tells of the moment when a publisher comes, and rclpy logs it; the
    graph tells how things stand now.
    """
    reasons = []
    wanted = _type_name(subscription.msg_type)
    for publisher in node.get_publishers_info_by_topic(subscription.topic_name):
        who = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        fits, problem = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
        if publisher.topic_type != wanted:
            reasons.append(f"{who} publishes {publisher.topic_type} and not {wanted}: check image_transport")
        elif fits == QoSCompatibility.ERROR:
            reasons.append(f"the QoS of {who} does not match ({problem.strip(' ;')}): set image_qos, or the driver's")
        else:
            return ""
    return reasons[0] if reasons else ""


def _type_name(kind: type) -> str:
    """``sensor_msgs/msg/Image`` of the class of that message."""
    package, folder, *_ = kind.__module__.split(".")
    return f"{package}/{folder}/{kind.__name__}"
