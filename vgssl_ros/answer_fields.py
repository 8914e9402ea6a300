"""What the localizer answers, field by field; the node's messages and the result bag's are made of this, without ROS.

No number is NaN: what is unknown is a neutral value with a standard deviation that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgssl_core.bags.message import about_z, xyz
from vgssl_core.bags.records import COVARIANCE_DIAGONAL_KNOWN
from vgssl_ros.base_pose import LEVEL_SIGMA_RAD, BasePose

#: Columns of ``~/hypotheses_cloud``: ten float32, then three float64 that so lie on multiples of eight bytes.
_CLOUD_FLOATS = ("x", "y", "z", "yaw", "score", "sigma", "rank", "sigma_yaw", "probability", "support")
_CLOUD_DOUBLES = ("lat", "lon", "alt")
#: ``PointField`` and ``Marker`` by their numbers.
_FLOAT32, _FLOAT64 = 7, 8
_ARROW, _CYLINDER, _TEXT, _DELETE_ALL = 0, 3, 9, 3
_TEXT_M, _ARROW_M = 3.0, 5.0


def pose_fields(pose: BasePose) -> dict[str, Any]:
    """Of a Pose, which is level."""
    return {"position": xyz(pose.position_m), "orientation": about_z(pose.yaw_rad)}


def pose_with_covariance_fields(pose: BasePose) -> dict[str, Any]:
    """Of a PoseWithCovarianceStamped; the covariance is diagonal over x, y, z, roll, pitch, yaw."""
    sigmas = [*pose.sigma_m, LEVEL_SIGMA_RAD, LEVEL_SIGMA_RAD, pose.yaw_sigma_rad]
    return {"pose": {"pose": pose_fields(pose), "covariance": np.diag(np.square(sigmas))}}


def fix_fields(pose: BasePose) -> dict[str, Any]:
    """Of a NavSatFix; no satellite system gave this position."""
    return {
        "status": {"status": 0, "service": 0},
        "latitude": pose.latitude_deg,
        "longitude": pose.longitude_deg,
        "altitude": pose.altitude_m,
        "position_covariance": np.diag(np.square(pose.sigma_m)),
        "position_covariance_type": COVARIANCE_DIAGONAL_KNOWN,
    }


def cloud_fields(poses: Sequence[BasePose], georeferenced: bool) -> dict[str, Any]:
    """Of a PointCloud2: all hypotheses with everything that is known about them, best first.

    Fields: float32 ``x y z yaw score sigma rank sigma_yaw probability support`` and, on a georeferenced map, float64
    ``lat lon alt``. ``sigma`` is the standard deviation along the worst horizontal direction in metres; an unknown
    ``yaw`` is 0 with a ``sigma_yaw`` above 1.8; ``support`` is the number of matches.
    """
    columns = [(name, "<f4") for name in _CLOUD_FLOATS]
    columns += [(name, "<f8") for name in _CLOUD_DOUBLES] if georeferenced else []
    layout = np.dtype(columns)
    rows = np.array([_cloud_row(pose)[: len(columns)] for pose in poses], layout)
    kinds = {"<f4": _FLOAT32, "<f8": _FLOAT64}
    return {
        "height": 1,
        "width": len(poses),
        "fields": [
            {"name": name, "offset": layout.fields[name][1], "datatype": kinds[kind], "count": 1}
            for name, kind in columns
        ],
        "point_step": layout.itemsize,
        "row_step": layout.itemsize * len(poses),
        "data": rows.view(np.uint8),
        "is_dense": True,
    }


def _cloud_row(pose: BasePose) -> tuple[float | None, ...]:
    return (
        *pose.position_m,
        *(pose.yaw_rad, pose.score, pose.horizontal_sigma_m, pose.rank, pose.yaw_sigma_rad),
        *(pose.probability, pose.support),
        *(pose.latitude_deg, pose.longitude_deg, pose.altitude_m),
    )


def marker_fields(poses: Sequence[BasePose], accepted: BasePose | None, head: Any) -> dict[str, Any]:
    """Of a MarkerArray: discs of two standard deviations, headings, and probabilities as text.

    What is accepted is green; the hypotheses go from red to yellow with their probability. Each message replaces
    what the one before has shown.

    Args:
        poses: All hypotheses.
        accepted: The pose that counts; None without any.
        head: The header, as fields or as a message.
    """
    shown = [*poses] if accepted is None else [accepted, *poses]
    items: list[dict[str, Any]] = [{"header": head, "action": _DELETE_ALL}]
    for number, pose in enumerate(shown):
        red, green, blue = (0.0, 0.8, 0.2) if pose is accepted else (0.9, 0.8 * pose.probability, 0.0)
        width = 4.0 * pose.horizontal_sigma_m
        common = {"header": head, "id": number, "pose": pose_fields(pose)}
        colour = {"r": red, "g": green, "b": blue, "a": 1.0}
        text = {"ns": "probability", "type": _TEXT, "text": f"{pose.probability:.2f}"}
        arrow = {"ns": "heading", "type": _ARROW, "scale": xyz([_ARROW_M, _ARROW_M / 8, _ARROW_M / 8])}
        disc = {"ns": "position", "type": _CYLINDER, "scale": xyz([width, width, 0.1]), "color": {**colour, "a": 0.3}}
        items += [
            {**common, **disc},
            {**common, **text, "scale": xyz([0.0, 0.0, _TEXT_M]), "color": colour},
            *([{**common, **arrow, "color": colour}] if pose.has_heading else []),
        ]
    return {"markers": items}


def status_fields(name: str, hardware_id: str, level: Any, summary: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Of a DiagnosticArray with one status.

    Args:
        name: The node's.
        hardware_id: The map's path.
        level: As the message has it: bytes in ROS, a number in a bag.
        summary: One line.
        values: The figures.
    """
    figures = [{"key": key, "value": value} for key, value in values.items()]
    status = {"name": name, "hardware_id": hardware_id, "level": level, "message": summary, "values": figures}
    return {"status": [status]}
