"""Writing a bag: an MCAP folder that plays in ROS 2 and opens in Foxglove."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from vgssl_core.bags.message import about_z, header, serialised, typestore, xyz
from vgssl_core.bags.records import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    COVARIANCE_DIAGONAL_KNOWN,
    COVARIANCE_UNKNOWN,
    IMAGE,
    NAV_SAT_FIX,
    ODOMETRY,
    Frame,
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
            frame_id,
            log_ns,
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
            frame_id,
            log_ns,
            height=rows.shape[0],
            width=rows.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=rows[0].nbytes,
            data=rows.view(np.uint8).reshape(-1),
        )

    def frame(self, frame: Frame) -> None:
        """Write a camera image as it was read, at its time of recording."""
        fields: dict[str, Any] = {"format": frame.encoding}
        if not frame.is_compressed:
            layout = ("width", "height", "encoding", "step", "is_bigendian")
            fields = {name: getattr(frame, name) for name in layout}
        kind = COMPRESSED_IMAGE if frame.is_compressed else IMAGE
        self._write(frame.topic, kind, frame.stamp_ns, frame.frame_id, frame.log_ns, data=frame.data, **fields)

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
        self._write(
            topic,
            CAMERA_INFO,
            stamp_ns,
            frame_id,
            log_ns,
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=distortion,
            k=camera,
            r=np.eye(3),
            p=np.hstack([camera, np.zeros((3, 1))]),
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
            frame_id,
            log_ns,
            status={"status": status, "service": 1},
            latitude=latitude_deg,
            longitude=longitude_deg,
            altitude=altitude_m,
            position_covariance=np.diag(variances),
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
        self._write(
            topic,
            ODOMETRY,
            stamp_ns,
            frame_id,
            log_ns,
            child_frame_id=child_frame_id,
            pose={
                "pose": {"position": xyz(position_m), "orientation": about_z(yaw_rad)},
                "covariance": pose_covariance,
            },
            twist={"twist": {"linear": {"x": velocity[0]}, "angular": {"z": velocity[1]}}},
        )

    def message(self, topic: str, message_type: str, log_ns: int, fields: Mapping[str, Any]) -> None:
        """Write any message of a standard type; see `vgssl_core.bags.message.message` for its fields."""
        self.raw(topic, message_type, log_ns, serialised(message_type, fields))

    def raw(self, topic: str, message_type: str, log_ns: int, cdr: bytes) -> None:
        """Write a message that is serialised already, of a standard type."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, message_type, typestore=typestore())
        self._writer.write(self._connections[topic], log_ns, cdr)

    def _write(
        self, topic: str, message_type: str, stamp_ns: int, frame_id: str, log_ns: int | None, **fields: Any
    ) -> None:
        fields["header"] = header(stamp_ns, frame_id)
        self.message(topic, message_type, stamp_ns if log_ns is None else log_ns, fields)


def _lift(inner: Path) -> None:
    for item in inner.iterdir():
        os.replace(item, inner.parent / item.name)
    inner.rmdir()
