"""Writing a bag: an MCAP folder that plays in ROS 2 and opens in Foxglove."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from vgssl_core.bags.reader import typestore
from vgssl_core.bags.records import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    COVARIANCE_DIAGONAL_KNOWN,
    COVARIANCE_UNKNOWN,
    IMAGE,
    NAV_SAT_FIX,
    ODOMETRY,
)
from vgssl_core.storage import atomic_folder

#: Version of the bag's metadata that every distribution since Humble reads.
_METADATA_VERSION = 8


class BagWriter:
    """Context manager that writes aside and renames at the end: a bag is there whole or not at all.

    Every message is logged at its own stamp unless ``log_ns`` is given.

    Args:
        path: Bag folder to create.
        replace: Replace an existing folder.

    Raises:
        VgsslError: ``path`` exists and ``replace`` is false.
    """

    def __init__(self, path: str | Path, *, replace: bool = False) -> None:
        self.path = Path(path)
        self._replace = replace
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(atomic_folder(self.path, replace=self._replace))
            # The storage file gets the name of its folder, so the bag is filled one level down and lifted at the end.
            inner = folder / self.path.resolve().name
            self._writer = Writer(inner, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
            stack.callback(_lift, inner)
            stack.callback(self._writer.close)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._closing.__exit__(*problem)

    def compressed_image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        data: bytes,
        image_format: str = "jpeg",
        log_ns: int | None = None,
    ) -> None:
        """Write a CompressedImage.

        Args:
            topic: By convention it ends in ``/compressed``.
            stamp_ns: Header stamp, nanoseconds.
            frame_id: The camera's frame.
            data: The encoded file.
            image_format: Its format.
            log_ns: Time of recording; None is the stamp.
        """
        self._write(
            topic,
            COMPRESSED_IMAGE,
            stamp_ns,
            log_ns,
            header=_header(stamp_ns, frame_id),
            format=image_format,
            data=np.frombuffer(data, np.uint8),
        )

    def image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        pixels: np.ndarray,
        encoding: str = "rgb8",
        log_ns: int | None = None,
    ) -> None:
        """Write a raw Image of (height, width) or (height, width, channels) pixels in ``encoding``."""
        rows = np.ascontiguousarray(pixels)
        self._write(
            topic,
            IMAGE,
            stamp_ns,
            log_ns,
            header=_header(stamp_ns, frame_id),
            height=rows.shape[0],
            width=rows.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=rows[0].nbytes,
            data=rows.view(np.uint8).reshape(-1),
        )

    def camera_info(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        width: int,
        height: int,
        intrinsics: ArrayLike,
        distortion: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0),
        log_ns: int | None = None,
    ) -> None:
        """Write the calibration of a monocular pinhole camera (``plumb_bob``).

        Args:
            topic: By convention ``camera_info`` beside the image.
            stamp_ns: Header stamp, nanoseconds.
            frame_id: The camera's frame.
            width: Image width in pixels.
            height: Image height in pixels.
            intrinsics: (3, 3) camera matrix K in pixels.
            distortion: (5,) plumb-bob coefficients.
            log_ns: Time of recording; None is the stamp.
        """
        camera = np.asarray(intrinsics, np.float64).reshape(3, 3)
        region = _message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        self._write(
            topic,
            CAMERA_INFO,
            stamp_ns,
            log_ns,
            header=_header(stamp_ns, frame_id),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.asarray(distortion, np.float64),
            k=camera.reshape(9),
            r=np.eye(3).reshape(9),
            p=np.hstack([camera, np.zeros((3, 1))]).reshape(12),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def fix(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        latitude_deg: float,
        longitude_deg: float,
        altitude_m: float,
        sigma_m: Sequence[float] | None = None,
        status: int = 0,
        log_ns: int | None = None,
    ) -> None:
        """Write a NavSatFix.

        Args:
            topic: Topic.
            stamp_ns: Header stamp, nanoseconds.
            frame_id: The receiver's frame.
            latitude_deg: WGS84.
            longitude_deg: WGS84.
            altitude_m: Above the ellipsoid, NaN where unknown.
            sigma_m: Standard deviation east, north, up in metres; None where unknown.
            status: -1 no fix, 0 fix, 1 and 2 augmented.
            log_ns: Time of recording; None is the stamp.
        """
        variances = np.zeros(3) if sigma_m is None else np.square(np.asarray(sigma_m, np.float64))
        self._write(
            topic,
            NAV_SAT_FIX,
            stamp_ns,
            log_ns,
            header=_header(stamp_ns, frame_id),
            status=_message("sensor_msgs/msg/NavSatStatus", status=status, service=1),
            latitude=float(latitude_deg),
            longitude=float(longitude_deg),
            altitude=float(altitude_m),
            position_covariance=np.diag(variances).reshape(9),
            position_covariance_type=COVARIANCE_UNKNOWN if sigma_m is None else COVARIANCE_DIAGONAL_KNOWN,
        )

    def odometry(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        child_frame_id: str,
        position_m: ArrayLike,
        yaw_rad: float,
        velocity: Sequence[float] = (0.0, 0.0),
        pose_covariance: ArrayLike | None = None,
        log_ns: int | None = None,
    ) -> None:
        """Write an Odometry of a vehicle that turns about z.

        Args:
            topic: Topic.
            stamp_ns: Header stamp, nanoseconds.
            frame_id: Fixed frame, for example ``odom``.
            child_frame_id: The vehicle's frame, for example ``base_link``.
            position_m: (3,) position in ``frame_id``.
            yaw_rad: Radians counter-clockwise from x.
            velocity: Forward speed in m/s and yaw rate in rad/s, in ``child_frame_id``.
            pose_covariance: (6, 6) over x, y, z, roll, pitch, yaw; None is zero (not stated).
            log_ns: Time of recording; None is the stamp.
        """
        position = np.asarray(position_m, np.float64)
        pose = _message(
            "geometry_msgs/msg/Pose",
            position=_message(
                "geometry_msgs/msg/Point", x=float(position[0]), y=float(position[1]), z=float(position[2])
            ),
            orientation=_message(
                "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=float(np.sin(yaw_rad / 2)), w=float(np.cos(yaw_rad / 2))
            ),
        )
        twist = _message("geometry_msgs/msg/Twist", linear=_vector(velocity[0]), angular=_vector(z=velocity[1]))
        covariance = np.zeros(36) if pose_covariance is None else np.asarray(pose_covariance, np.float64).reshape(36)
        self._write(
            topic,
            ODOMETRY,
            stamp_ns,
            log_ns,
            header=_header(stamp_ns, frame_id),
            child_frame_id=child_frame_id,
            pose=_message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance),
            twist=_message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def raw(self, topic: str, message_type: str, log_ns: int, cdr: bytes) -> None:
        """Write a message that is serialised already, of a standard type."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, message_type, typestore=typestore())
        self._writer.write(self._connections[topic], log_ns, cdr)

    def _write(self, topic: str, message_type: str, stamp_ns: int, log_ns: int | None, **fields: Any) -> None:
        cdr = typestore().serialize_cdr(_message(message_type, **fields), message_type)
        self.raw(topic, message_type, stamp_ns if log_ns is None else log_ns, bytes(cdr))


def _lift(inner: Path) -> None:
    for item in inner.iterdir():
        os.replace(item, inner.parent / item.name)
    inner.rmdir()


def _message(message_type: str, **fields: Any) -> Any:
    return typestore().types[message_type](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    stamp = _message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return _message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _vector(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Any:
    return _message("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z))
