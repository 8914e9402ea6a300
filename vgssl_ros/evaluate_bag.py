"""Recall@N and pose error of a bag against its own ground truth: ``python -m vgssl_ros.evaluate_bag --help``.

Deterministic and without ROS: the bag is read as a file, and every frame goes through the same localizer that the node
runs. What DDS adds is measured by `vgssl_ros.replay`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vgssl_core import command_line
from vgssl_core.bags import GeotaggedFrames
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.bag_drive import answer_frames, drive_of, frame_pictures, frames_with_truth
from vgssl_core.evaluation.drive import Drive, drive_lines, drive_metrics, drive_sections, drive_tiles, write_frames
from vgssl_core.evaluation.metrics import Metrics
from vgssl_core.evaluation.report import write_report
from vgssl_core.extrinsics import IN_ORIGIN, Extrinsics, check_extrinsics
from vgssl_core.geomap import GeoMap
from vgssl_core.localization import LocalizerConfig, open_localizer
from vgssl_core.storage import check_output_folder
from vgssl_ros.result_bag import write_result_bag

_DEEPEST_RECALL = 10


@dataclass(frozen=True)
class EvaluateBagConfig:
    """Recall@N and pose error of a bag against its own ground truth, without ROS.

    Attributes:
        bag: Bag with images and true positions: a folder, or an .mcap or .db3 file.
        map: The map.
        out: Folder for metrics.json, frames.csv, report.html, and the bag result.
        bundle: Model bundle; without it the one that built the map.
        image_topic: Image topic, where there are several.
        position_topic: NavSatFix topic (for a local map Odometry) that tells the truth; without it
            /ground_truth/fix (/ground_truth/odom) or the only one.
        radius_m: A map image within this distance of the truth is right.
        camera_extrinsics: For a map of camera poses: pose of the camera in the frame that the truth is of, as in
            build-map and in the node, x y z in metres, roll pitch yaw in radians.
        filter: The bag result holds what the node says that follows the robot over time; false writes what each image
            tells by itself.
        images: Copy the images into the bag result too, and draw each beside its match.
        backend: Engine that runs the bundle.
        precision: What the engine computes in: auto, fp32, fp16, bf16 or int8.
        threads: Threads of the engine; all cores where it is not given.
        localizer: Settings of the localizer.
    """

    bag: Path
    map: Path
    out: Path
    bundle: Path | None = None
    image_topic: str | None = None
    position_topic: str | None = None
    radius_m: float = 25.0
    camera_extrinsics: Extrinsics = IN_ORIGIN
    filter: bool = True
    images: bool = False
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)


def evaluate_bag(config: EvaluateBagConfig) -> None:
    """Localize every frame, write the files and the result bag, print the recall line and the pose error."""
    if config.localizer.k < _DEEPEST_RECALL:
        raise ConfigError(f"--localizer.k is {config.localizer.k}: Recall@{_DEEPEST_RECALL} needs at least that many.")
    if not config.radius_m > 0:
        raise ConfigError(f"--radius_m is {config.radius_m}: it must be positive.")
    check_extrinsics(config.camera_extrinsics)
    check_output_folder(config.out, "--out")
    localizer = open_localizer(
        config.map, config.bundle, config.localizer, config.backend, config.threads, precision=config.precision
    )
    topics = (config.image_topic, config.position_topic)
    frames = frames_with_truth(str(config.bag), localizer.geomap, *topics, config.camera_extrinsics)
    answers = answer_frames(localizer, frames)
    drive = drive_of(localizer, frames, answers)
    metrics = _metrics(config, frames, drive)
    metrics.write(config.out)
    write_frames(config.out / "frames.csv", drive, config.radius_m)
    _write_report(config, frames, localizer.geomap, drive, metrics)
    write_result_bag(config.out / "result", localizer, frames, answers, config.filter, config.images)
    print(metrics.line())
    print("\n".join([_error_line(metrics), *_fix_line(metrics), *drive_lines(drive)]))


def _metrics(config: EvaluateBagConfig, frames: GeotaggedFrames, drive: Drive) -> Metrics:
    undecodable = len(frames) - len(drive.stamp_ns)
    left_out = {"without a true position": frames.without_position, "that do not decode": undecodable}
    protocol = (
        f"single-frame retrieval of a bag: every frame of {frames.image_topic}, truth interpolated from "
        f"{frames.position_topic}, positives within {config.radius_m:g} m in the map's plane"
        + "".join(f", {count} frames {what} left out" for what, count in left_out.items() if count)
    )
    details = {
        "bag": str(config.bag),
        "map": str(config.map),
        "image_topic": frames.image_topic,
        "position_topic": frames.position_topic,
        "frames_total": frames.frames_total,
        "frames_without_position": frames.without_position,
        "frames_undecodable": undecodable,
        "positions_dropped": frames.positions_dropped,
    }
    return drive_metrics(drive, config.radius_m, protocol, details)


def _error_line(metrics: Metrics) -> str:
    pose = metrics.details["pose_error"]
    heading = pose["heading"]
    heading_text = f"median {heading['median_deg']:.1f} deg" if heading["count"] else "unknown"
    return (
        f"single frames: position error median {pose['median_m']:.1f} m, p90 {pose['p90_m']:.1f} m; "
        f"heading error {heading_text}; {metrics.queries} of {metrics.queries_total} frames covered by "
        f"{metrics.database} map images"
    )


def _fix_line(metrics: Metrics) -> list[str]:
    """How far the fixes of the filter were from the truth, where it ran and gave any."""
    error = metrics.details.get("filtered", {}).get("fix_error", {"count": 0})
    if not error["count"]:
        return []
    return [f"fixes filtered over time: position error median {error['median_m']:.1f} m, p90 {error['p90_m']:.1f} m"]


def _write_report(
    config: EvaluateBagConfig, frames: GeotaggedFrames, geomap: GeoMap, drive: Drive, metrics: Metrics
) -> None:
    pictures = frame_pictures(drive, frames, geomap, config.radius_m)
    write_report(
        config.out / "report.html",
        f"Drive {config.bag.resolve().name} on map {geomap.path.resolve().name}",
        f"{metrics.protocol}.",
        drive_tiles(metrics),
        drive_sections(drive, config.radius_m, pictures, "image to hypotheses [ms]"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(evaluate_bag, EvaluateBagConfig, arguments, "vgssl evaluate-bag")


if __name__ == "__main__":
    sys.exit(main())
