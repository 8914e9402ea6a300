"""Building ROS messages from plain results, and images from ROS messages; nothing here needs a node.

Every message carries the stamp of the image that it answers, and no NaN: what is unknown is a neutral value with a
standard deviation that says so.
"""

from __future__ import annotations

import array
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2, PointField
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from vgssl_core import imaging
from vgssl_core.errors import DataError
from vgssl_core.localization.odometry_track import PlanarPose
from vgssl_ros import answer_fields
from vgssl_ros.base_pose import BasePose

#: Lists of messages by their names in the messages that are filled here.
_ELEMENTS = {
    "poses": Pose,
    "fields": PointField,
    "markers": Marker,
    "status": DiagnosticStatus,
    "values": KeyValue,
}


def stamp_ns(stamp: Time) -> int:
    """Nanoseconds of a ROS time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    """ROS time of nanoseconds."""
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def decode(message: RosImage | CompressedImage, least_size: tuple[int, int] | None = None) -> imaging.Image:
    """The RGB image of a message, from its bytes without a copy.

    Raw encodings that `vgssl_core.imaging` does not know go to the distribution's cv_bridge, where there is one.

    Args:
        message: The message.
        least_size: See `vgssl_core.imaging.decode_image`.

    Raises:
        DataError: Damaged, empty, or of an encoding that is not known.
    """
    source = f"image of {stamp_ns(message.header.stamp)} ns in frame {message.header.frame_id!r}"
    data = np.frombuffer(message.data, np.uint8)
    if isinstance(message, CompressedImage):
        return imaging.decode_image(data, source, least_size)
    if message.encoding.lower() not in imaging.RAW_ENCODINGS and importlib.util.find_spec("cv_bridge"):
        return _with_cv_bridge(message, source)
    return imaging.raw_to_rgb(
        data, message.width, message.height, message.encoding, message.step, bool(message.is_bigendian), source
    )


def _with_cv_bridge(message: RosImage, source: str) -> imaging.Image:
    # Imported here because the wheels lack it, and because it breaks with numpy 2 in some distributions.
    try:
        from cv_bridge import CvBridge

        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except Exception as problem:  # CvBridgeError, or whatever a broken build raises
        raise DataError(
            f"{source}: the encoding {message.encoding!r} is converted by cv_bridge, and that failed: {problem}. "
            f"Known without it are {', '.join(imaging.RAW_ENCODINGS)}."
        ) from problem


def filled(message: Any, fields: Mapping[str, Any]) -> Any:
    """A message with these values, which are nested as those of `vgssl_core.bags.message` are."""
    for name, value in fields.items():
        if isinstance(value, dict):
            filled(getattr(message, name), value)
        elif isinstance(value, list):
            setattr(message, name, [filled(_ELEMENTS[name](), item) for item in value])
        elif isinstance(value, np.ndarray):
            # For bytes, ROS copies nothing but an array of this kind quickly.
            setattr(message, name, array.array("B", value.tobytes()) if value.dtype == np.uint8 else value.reshape(-1))
        else:
            setattr(message, name, value)
    return message


def pose_with_covariance(pose: BasePose, header: Header) -> PoseWithCovarianceStamped:
    """The best hypothesis as a pose; the covariance is diagonal over x, y, z, roll, pitch, yaw."""
    return filled(PoseWithCovarianceStamped(header=header), answer_fields.pose_with_covariance_fields(pose))


def nav_sat_fix(pose: BasePose, header: Header) -> NavSatFix | None:
    """The best hypothesis as a position on Earth; None for a local map, which has none."""
    return None if pose.latitude_deg is None else filled(NavSatFix(header=header), answer_fields.fix_fields(pose))


def pose_array(poses: Sequence[BasePose], header: Header) -> PoseArray:
    """All hypotheses, best first."""
    return filled(PoseArray(header=header), {"poses": [*map(answer_fields.pose_fields, poses)]})


def hypotheses_cloud(poses: Sequence[BasePose], header: Header, georeferenced: bool) -> PointCloud2:
    """All hypotheses with everything that is known about them: `answer_fields.cloud_fields`."""
    return filled(PointCloud2(header=header), answer_fields.cloud_fields(poses, georeferenced))


def markers(poses: Sequence[BasePose], accepted: BasePose | None, header: Header) -> MarkerArray:
    """Hypotheses as RViz and Foxglove show them: `answer_fields.marker_fields`."""
    return filled(MarkerArray(), answer_fields.marker_fields(poses, accepted, header))


def planar_pose(pose: Pose) -> PlanarPose:
    """A pose seen from above: x, y and the rotation about z; NaN where it is no pose."""
    x, y, z, w = (getattr(pose.orientation, axis) for axis in "xyzw")
    length = math.sqrt(x * x + y * y + z * z + w * w)
    yaw = math.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z) if length > 1e-6 else math.nan
    return PlanarPose(pose.position.x, pose.position.y, yaw)


def read_cloud(message: PointCloud2) -> NDArray[np.void]:
    """(N,) structured array of a cloud's points, by the names of its fields; the bytes are not copied."""
    kinds = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}
    byte_order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [byte_order + kinds[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, layout, count=message.width * message.height)


def diagnostics(
    name: str, hardware_id: str, level: bytes, summary: str, values: Mapping[str, str], stamp: Time
) -> DiagnosticArray:
    """One status with its figures."""
    fields = answer_fields.status_fields(name, hardware_id, level, summary, values)
    return filled(DiagnosticArray(header=Header(stamp=stamp)), fields)
