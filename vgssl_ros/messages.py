"""Building ROS messages from plain results, and images from ROS messages; nothing here needs a node.

Every message carries the stamp of the image that it answers, and no NaN: what is unknown is a neutral value with a
standard deviation that says so.
"""

from __future__ import annotations

import array
import importlib.util
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped, Quaternion
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, NavSatFix, NavSatStatus, PointCloud2, PointField
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header

from vgssl_core import imaging
from vgssl_core.errors import DataError
from vgssl_core.localization.odometry_track import PlanarPose
from vgssl_ros.base_pose import LEVEL_SIGMA_RAD, BasePose

#: Columns of ``~/hypotheses_cloud``: ten float32, then three float64 that so lie on multiples of eight bytes.
CLOUD_FLOATS = ("x", "y", "z", "yaw", "score", "sigma", "rank", "sigma_yaw", "probability", "support")
CLOUD_DOUBLES = ("lat", "lon", "alt")


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


def pose_with_covariance(pose: BasePose, header: Header) -> PoseWithCovarianceStamped:
    """The best hypothesis as a pose; the covariance is diagonal over x, y, z, roll, pitch, yaw."""
    message = PoseWithCovarianceStamped(header=header)
    message.pose.pose = to_pose(pose)
    sigmas = [*pose.sigma_m, LEVEL_SIGMA_RAD, LEVEL_SIGMA_RAD, pose.yaw_sigma_rad]
    message.pose.covariance = np.diag(np.square(sigmas)).reshape(-1)
    return message


def nav_sat_fix(pose: BasePose, header: Header) -> NavSatFix | None:
    """The best hypothesis as a position on Earth; None for a local map, which has none."""
    if pose.latitude_deg is None:
        return None
    message = NavSatFix(header=header)
    message.status.status = NavSatStatus.STATUS_FIX
    # No satellite system gave this position.
    message.status.service = 0
    message.latitude, message.longitude, message.altitude = pose.latitude_deg, pose.longitude_deg, pose.altitude_m
    message.position_covariance = np.diag(np.square(pose.sigma_m)).reshape(-1)
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    return message


def pose_array(poses: Sequence[BasePose], header: Header) -> PoseArray:
    """All hypotheses, best first."""
    return PoseArray(header=header, poses=[to_pose(pose) for pose in poses])


def hypotheses_cloud(poses: Sequence[BasePose], header: Header, georeferenced: bool) -> PointCloud2:
    """All hypotheses with everything that is known about them, best first.

    Fields: float32 ``x y z yaw score sigma rank sigma_yaw probability support`` and, on a georeferenced map, float64
    ``lat lon alt``. ``sigma`` is the standard deviation along the worst horizontal direction in metres; an unknown
    ``yaw`` is 0 with a ``sigma_yaw`` above 1.8; ``support`` is the number of matches.
    """
    columns = [(name, "<f4") for name in CLOUD_FLOATS]
    columns += [(name, "<f8") for name in CLOUD_DOUBLES] if georeferenced else []
    rows = np.zeros(len(poses), np.dtype(columns))
    for row, pose in zip(rows, poses, strict=True):
        row["x"], row["y"], row["z"] = pose.position_m
        row["yaw"], row["sigma_yaw"] = pose.yaw_rad, pose.yaw_sigma_rad
        row["score"], row["sigma"], row["rank"] = pose.score, pose.horizontal_sigma_m, pose.rank
        row["probability"], row["support"] = pose.probability, pose.support
        if georeferenced:
            row["lat"], row["lon"], row["alt"] = pose.latitude_deg, pose.longitude_deg, pose.altitude_m
    kinds = {"<f4": PointField.FLOAT32, "<f8": PointField.FLOAT64}
    data = array.array("B")
    data.frombytes(rows.tobytes())
    return PointCloud2(
        header=header,
        height=1,
        width=len(poses),
        fields=[
            PointField(name=name, offset=rows.dtype.fields[name][1], datatype=kinds[kind], count=1)
            for name, kind in columns
        ],
        is_bigendian=False,
        point_step=rows.dtype.itemsize,
        row_step=rows.dtype.itemsize * len(poses),
        data=data,
        is_dense=True,
    )


def compressed_image(image: imaging.Image, header: Header) -> CompressedImage:
    """An RGB image as JPEG."""
    data = array.array("B")
    data.frombytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    return CompressedImage(header=header, format="jpeg", data=data)


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
    status = DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=level,
        message=summary,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])


def to_pose(pose: BasePose) -> Pose:
    """A hypothesis as a level pose."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = map(float, pose.position_m)
    message.orientation = Quaternion(z=math.sin(pose.yaw_rad / 2), w=math.cos(pose.yaw_rad / 2))
    return message
