"""The queries of a place set as a bag, so that single images can be replayed like a drive."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgssl_core.bags.writer import BagWriter
from vgssl_core.errors import DataError
from vgssl_core.geodesy import compass_to_yaw_rad
from vgssl_core.places import Places

IMAGE_TOPIC = "/camera/image_raw/compressed"
_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


def write_places_bag(places: Places, path: str | Path, rate_hz: float = 5.0) -> None:
    """Write images and their true positions at a steady rate, in the given order.

    Geo-referenced places give a NavSatFix on ``/ground_truth/fix``; all give an Odometry in their plane on
    ``/ground_truth/odom``. The images' bytes are copied as they are.

    Args:
        places: What to write.
        path: Folder of the bag, which must not exist.
        rate_hz: Images per second.

    Raises:
        DataError: No places, or an image that cannot be read or is neither JPEG nor PNG.
    """
    if not len(places):
        raise DataError("There are no queries to make a bag of: put them into images/queries.")
    yaw = compass_to_yaw_rad(np.nan_to_num(places.heading_deg, nan=90.0))
    with BagWriter(path) as bag:
        for i, image in enumerate(places.paths):
            stamp_ns = 1_000_000_000 + round(i * 1e9 / rate_hz)
            kind = _FORMATS.get(image.suffix.lower())
            if kind is None:
                raise DataError(f"{image} is neither JPEG nor PNG: convert the queries first.")
            try:
                data = image.read_bytes()
            except OSError as problem:
                raise DataError(f"Cannot read image {image}: {problem.strerror or problem}.") from problem
            bag.compressed_image(IMAGE_TOPIC, stamp_ns, "camera", data, kind)
            altitude = float(places.altitude_m[i])
            if places.is_georeferenced:
                position = float(places.latitude_deg[i]), float(places.longitude_deg[i])
                bag.fix("/ground_truth/fix", stamp_ns, "base_link", *position, altitude)
            xyz = [*places.planar_m[i], 0.0 if np.isnan(altitude) else altitude]
            bag.odometry("/ground_truth/odom", stamp_ns, "map", "base_link", xyz, float(yaw[i]))
