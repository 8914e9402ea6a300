"""ROS bags read and written with pure Python (`rosbags`): frames, fixes and odometry as dataclasses, no ROS needed."""

from vgssl_core.bags.geotag import GeotaggedFrames, Geotagging, TaggedFrame, geotag, ground_truth_topic
from vgssl_core.bags.reader import BagReader, RawMessage
from vgssl_core.bags.records import Fix, Frame, OdometryPose
from vgssl_core.bags.writer import BagWriter

__all__ = [
    "BagReader",
    "BagWriter",
    "Fix",
    "Frame",
    "GeotaggedFrames",
    "Geotagging",
    "OdometryPose",
    "RawMessage",
    "TaggedFrame",
    "geotag",
    "ground_truth_topic",
]
