"""What the localizer says about a drive as a bag that opens in Foxglove and plays in ROS 2; written without ROS.

Field by field these are the messages that the node publishes (`vgssl_ros.messages`, `vgssl_ros.markers`), from the same
`BasePose`; a test holds them against each other. Every message bears the stamp of the image that it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags import BagWriter, Frame, GeotaggedFrames
from vgssl_core.bags.message import about_z, header, xyz
from vgssl_core.bags.records import COVARIANCE_DIAGONAL_KNOWN, NAV_SAT_FIX
from vgssl_core.evaluation.bag_drive import Answers, true_poses
from vgssl_core.extrinsics import vehicle_poses
from vgssl_core.geodesy import LocalFrame, compass_to_yaw_rad
from vgssl_core.localization import Localizer
from vgssl_ros.base_pose import LEVEL_SIGMA_RAD, BasePose, CameraMount, DefaultAltitude
from vgssl_ros.map_info import map_info

_CLOUD_FLOATS = ("x", "y", "z", "yaw", "score", "sigma", "rank", "sigma_yaw", "probability", "support")
_CLOUD_DOUBLES = ("lat", "lon", "alt")
#: ``PointField`` and ``Marker`` by their numbers.
_FLOAT32, _FLOAT64 = 7, 8
_ARROW, _CYLINDER, _TEXT, _DELETE_ALL = 0, 3, 9, 3
_TEXT_M, _ARROW_M = 3.0, 5.0


def write_result_bag(
    path: Path, localizer: Localizer, frames: GeotaggedFrames, answers: Answers, follow: bool, images: bool
) -> None:
    """Write what the node with its default settings publishes for each frame of a drive, beside the truth.

    Args:
        path: Folder of the bag; one that is there is replaced.
        localizer: Who answered.
        frames: The drive.
        answers: What was answered.
        follow: Write the answers of the filter over time, as the node does; else those of each image by itself.
        images: Write the images too.
    """
    geomap, extrinsics = localizer.geomap, frames.settings.camera_extrinsics
    mount, default = CameraMount(extrinsics), DefaultAltitude(0.0, 10.0)
    truth_m, heading_deg = vehicle_poses(true_poses(frames, geomap)[0], frames.heading_deg, extrinsics)
    told = answers.estimates if follow and answers.estimates is not None else answers.localizations
    by_row = dict(zip(answers.rows.tolist(), told, strict=True))
    with BagWriter(path, replace=True) as bag:
        result = ResultBag(bag, "/localizer", geomap.datum)
        for row, tagged in enumerate(frames):
            frame = tagged.frame
            if row == 0:
                result.info(frame, map_info(localizer, result.map_frame, [frames.image_topic]))
            if images:
                bag.frame(frame)
            result.truth(frame, truth_m[row], float(compass_to_yaw_rad(heading_deg[row])))
            if (said := by_row.get(row)) is not None:
                poses = [mount.base_pose(hypothesis, geomap.datum, default) for hypothesis in said.hypotheses]
                accepted = None if said.accepted is None else mount.base_pose(said.accepted, geomap.datum, default)
                result.answer(frame, poses, accepted)


@dataclass(frozen=True)
class ResultBag:
    """Writes the answers to one frame after the other.

    Attributes:
        bag: Where to.
        localizer: Full name of the node whose topics these are.
        datum: The map's; None for a local map.
        map_frame, base_frame: Frames of the answers.
    """

    bag: BagWriter
    localizer: str
    datum: LocalFrame | None
    map_frame: str = "map"
    base_frame: str = "base_link"

    def info(self, frame: Frame, text: str) -> None:
        """What the node localizes with, before the first frame."""
        self.bag.message(f"{self.localizer}/map_info", "std_msgs/msg/String", frame.log_ns, {"data": text})

    def truth(self, frame: Frame, position_m: NDArray[np.float64], yaw_rad: float) -> None:
        """Where the robot's base really was, in the map's frame; NaN in z and yaw where unknown."""
        position_m = np.where(np.isfinite(position_m), position_m, 0.0)
        head = (frame.stamp_ns, self.map_frame, self.base_frame)
        yaw_rad = float(np.nan_to_num(yaw_rad))
        self.bag.odometry("/ground_truth/odom", *head, position_m, yaw_rad, log_ns=frame.log_ns)
        if self.datum is not None:
            place = map(float, self.datum.to_wgs84(position_m))
            self.bag.fix("/ground_truth/fix", frame.stamp_ns, self.base_frame, *place, log_ns=frame.log_ns)

    def answer(self, frame: Frame, poses: Sequence[BasePose], accepted: BasePose | None) -> None:
        """What the node publishes for a frame: hypotheses always, pose and fix where one is accepted."""
        head = {"header": header(frame.stamp_ns, self.map_frame)}

        def publish(topic: str, message_type: str, fields: dict[str, Any]) -> None:
            self.bag.message(f"{self.localizer}/{topic}", message_type, frame.log_ns, fields)

        publish("hypotheses", "geometry_msgs/msg/PoseArray", {**head, "poses": [pose_fields(pose) for pose in poses]})
        cloud = cloud_fields(poses, self.datum is not None)
        publish("hypotheses_cloud", "sensor_msgs/msg/PointCloud2", {**head, **cloud})
        publish("markers", "visualization_msgs/msg/MarkerArray", marker_fields(poses, accepted, head["header"]))
        if accepted is None:
            return
        pose = pose_with_covariance_fields(accepted)
        publish("pose", "geometry_msgs/msg/PoseWithCovarianceStamped", {**head, **pose})
        if accepted.latitude_deg is not None:
            place = {"header": header(frame.stamp_ns, self.base_frame)}
            publish("fix", NAV_SAT_FIX, {**place, **fix_fields(accepted)})


def pose_fields(pose: BasePose) -> dict[str, Any]:
    """Of a Pose."""
    return {"position": xyz(pose.position_m), "orientation": about_z(pose.yaw_rad)}


def pose_with_covariance_fields(pose: BasePose) -> dict[str, Any]:
    """Of a PoseWithCovarianceStamped; the covariance is diagonal over x, y, z, roll, pitch, yaw."""
    sigmas = [*pose.sigma_m, LEVEL_SIGMA_RAD, LEVEL_SIGMA_RAD, pose.yaw_sigma_rad]
    return {"pose": {"pose": pose_fields(pose), "covariance": np.diag(np.square(sigmas))}}


def fix_fields(pose: BasePose) -> dict[str, Any]:
    """Of a NavSatFix; no satellite system gave this position."""
    return {
        "latitude": pose.latitude_deg,
        "longitude": pose.longitude_deg,
        "altitude": pose.altitude_m,
        "position_covariance": np.diag(np.square(pose.sigma_m)),
        "position_covariance_type": COVARIANCE_DIAGONAL_KNOWN,
    }


def cloud_fields(poses: Sequence[BasePose], georeferenced: bool) -> dict[str, Any]:
    """Of a PointCloud2 with a point for each hypothesis."""
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


def marker_fields(poses: Sequence[BasePose], accepted: BasePose | None, head: dict[str, Any]) -> dict[str, Any]:
    """Of a MarkerArray: discs of two standard deviations, headings, and probabilities as text."""
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
