"""What a bag holds, as plain records: camera frames, GNSS fixes, odometry poses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core import imaging
from vgssl_core.imaging import Image

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
NAV_SAT_FIX = "sensor_msgs/msg/NavSatFix"
ODOMETRY = "nav_msgs/msg/Odometry"
IMAGE_TYPES = (COMPRESSED_IMAGE, IMAGE)

#: ``position_covariance_type`` of a fix whose covariance says nothing.
COVARIANCE_UNKNOWN = 0
#: ``position_covariance_type`` of a fix of which only the diagonal is known.
COVARIANCE_DIAGONAL_KNOWN = 2


@dataclass(frozen=True)
class Frame:
    """One camera image, not decoded yet.

    Attributes:
        topic: Where it was recorded.
        stamp_ns: Stamp in the message's header, nanoseconds.
        log_ns: When the recorder received it, nanoseconds.
        frame_id: The camera's coordinate frame.
        encoding: Pixel encoding of a raw image; the compression's name (``jpeg``) of a compressed one.
        data: (bytes,) uint8: rows of pixels, or the compressed file.
        width, height, step, is_bigendian: Layout of a raw image; ``width`` is 0 for a compressed one.
        source: Bag, topic and stamp, for messages.
    """

    topic: str
    stamp_ns: int
    log_ns: int
    frame_id: str
    encoding: str
    data: NDArray[np.uint8]
    width: int = 0
    height: int = 0
    step: int = 0
    is_bigendian: bool = False
    is_compressed: bool = True
    source: str = "frame"

    def image(self, least_size: tuple[int, int] | None = None) -> Image:
        """Decode to (height, width, 3) uint8 RGB.

        Args:
            least_size: See `vgssl_core.imaging.decode_image`.

        Raises:
            DataError: Damaged, or of an encoding that is not known.
        """
        if self.is_compressed:
            return imaging.decode_image(self.data, self.source, least_size)
        return imaging.raw_to_rgb(
            self.data, self.width, self.height, self.encoding, self.step, self.is_bigendian, self.source
        )


@dataclass(frozen=True)
class Fix:
    """One position on Earth from a GNSS receiver.

    Attributes:
        stamp_ns: Stamp in the header, nanoseconds.
        latitude_deg, longitude_deg, altitude_m: WGS84; altitude is above the ellipsoid, NaN where unknown.
        status: -1 no fix, 0 fix, 1 with satellite and 2 with ground augmentation.
        covariance: (9,) float64, square metres, row-major ENU.
        covariance_type: 0 unknown, 1 approximated, 2 diagonal known, 3 known.
        topic: Where it was recorded.
    """

    stamp_ns: int
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    status: int
    covariance: NDArray[np.float64]
    covariance_type: int
    topic: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether the receiver had a fix and the position is a point on Earth."""
        inside = abs(self.latitude_deg) <= 90 and abs(self.longitude_deg) <= 360
        return self.status >= 0 and inside

    @property
    def sigma_m(self) -> float:
        """Horizontal standard deviation per axis in metres; NaN where the covariance is not known."""
        variance = float(self.covariance[0] + self.covariance[4]) / 2
        known = self.covariance_type != COVARIANCE_UNKNOWN and variance > 0
        return math.sqrt(variance) if known else math.nan


@dataclass(frozen=True)
class OdometryPose:
    """One pose of a vehicle in a local frame.

    Attributes:
        stamp_ns: Stamp in the header, nanoseconds.
        position_m: (3,) float64 in ``frame_id``.
        quaternion_xyzw: (4,) float64, rotation from ``child_frame_id`` to ``frame_id``.
        frame_id, child_frame_id: Coordinate frames (REP-105).
        covariance: (36,) float64, row-major over x, y, z, roll, pitch, yaw.
        topic: Where it was recorded.
    """

    stamp_ns: int
    position_m: NDArray[np.float64]
    quaternion_xyzw: NDArray[np.float64]
    frame_id: str
    child_frame_id: str
    covariance: NDArray[np.float64]
    topic: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether position and orientation are finite and the quaternion is a rotation."""
        finite = np.isfinite(self.position_m).all() and np.isfinite(self.quaternion_xyzw).all()
        return bool(finite and np.linalg.norm(self.quaternion_xyzw) > 1e-6)

    @property
    def yaw_rad(self) -> float:
        """Rotation about z, radians counter-clockwise from the frame's x axis."""
        x, y, z, w = self.quaternion_xyzw
        return math.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)
