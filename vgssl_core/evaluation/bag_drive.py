"""A bag through the localizer, frame by frame, without ROS: the same answers as the node's, deterministically."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.bags import BagReader, GeotaggedFrames, Geotagging, geotag, ground_truth_topic
from vgssl_core.errors import DataError
from vgssl_core.evaluation.drive import Drive, Pictures
from vgssl_core.evaluation.filtered_drive import estimates_of, filtered_drive, recorded_motions
from vgssl_core.evaluation.report import Retrieval
from vgssl_core.evaluation.trust import AcceptanceRule
from vgssl_core.extrinsics import IN_ORIGIN, Extrinsics
from vgssl_core.geodesy import compass_to_yaw_rad
from vgssl_core.geomap import GeoMap, build_map
from vgssl_core.geomap.map_images import MapImages, frame_source, source_images
from vgssl_core.inference import Embedder, embed_images
from vgssl_core.localization import Localization, Localizer
from vgssl_core.localization.filter import Estimate

_NEIGHBOURS = 10
_log = logging.getLogger(__name__)


def frames_with_truth(
    bag: str | Path,
    geomap: GeoMap,
    image_topic: str | None = None,
    position_topic: str | None = None,
    camera_extrinsics: Extrinsics = IN_ORIGIN,
) -> GeotaggedFrames:
    """The bag's frames with the true poses of the camera, of the kind that the map has.

    Args:
        bag: Path of the bag.
        geomap: A geo-referenced map needs fixes; a local one odometry in its own plane.
        image_topic: None is the only image topic.
        position_topic: None is the ground truth's (`ground_truth_topic`).
        camera_extrinsics: The camera in the frame that the truth is of.

    Raises:
        DataError: No images, no positions, or positions of the other kind.
    """
    georeferenced = geomap.datum is not None
    with BagReader(bag) as reader:
        settings = Geotagging(
            image_topic=image_topic,
            position_topic=position_topic or ground_truth_topic(reader, georeferenced),
            odometry_topic="none",
            camera_extrinsics=camera_extrinsics,
        )
        frames = geotag(reader, settings)
    if frames.is_georeferenced != georeferenced:
        kind = "geo-referenced and needs a NavSatFix" if georeferenced else "local and needs an Odometry"
        raise DataError(f"Map {geomap.path} is {kind} topic as truth, and {frames.position_topic} is not one.")
    return frames


def true_poses(frames: GeotaggedFrames, geomap: GeoMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True positions (F, 3) and yaw (F,) in the map's frame."""
    yaw = compass_to_yaw_rad(frames.heading_deg)
    if geomap.datum is None:
        return frames.planar_m, yaw
    return geomap.datum.to_enu(frames.latitude_deg, frames.longitude_deg, frames.altitude_m), yaw


@dataclass(frozen=True)
class Answers:
    """What a localizer says about the F frames of a drive that decode.

    Attributes:
        rows: (F,) which of the frames these are.
        localizations: Of each by itself.
        estimates: Of the filter over time, after each; None where the frames are not in the order of time.
        motion: What told the filter how the robot moved, in words.
    """

    rows: NDArray[np.int64]
    localizations: Sequence[Localization]
    estimates: Sequence[Estimate] | None
    motion: str


def answer_frames(localizer: Localizer, frames: GeotaggedFrames) -> Answers:
    """Localize every frame by itself, and filter the answers over time.

    A frame that does not decode is named in the log and left out.

    Raises:
        DataError: No frame decodes.
    """
    kept, answers = [], []
    for row, tagged in enumerate(tqdm(frames, total=len(frames), desc="localize", unit="frame")):
        try:
            image = tagged.frame.image(localizer.least_size)
        except DataError as problem:
            _log.warning("%s", problem)
            continue
        kept.append(row)
        answers.append(localizer.localize(image))
    if not kept:
        raise DataError(f"None of the {len(frames)} images on {frames.image_topic} of {frames.bag} decodes.")
    if len(kept) < len(frames):
        _log.warning("%d of %d frames do not decode and were left out.", len(frames) - len(kept), len(frames))
    stamps_ns = frames.stamp_ns[kept]
    if (np.diff(stamps_ns) < 0).any():
        return Answers(np.array(kept), answers, None, "")
    extrinsics = frames.settings.camera_extrinsics
    motions, motion = recorded_motions(frames.bag, stamps_ns, extrinsics, frames.position_topic)
    return Answers(np.array(kept), answers, estimates_of(localizer, stamps_ns, answers, motions), motion)


def drive_of(localizer: Localizer, frames: GeotaggedFrames, answers: Answers) -> Drive:
    """The answers beside the truth."""
    geomap, rows = localizer.geomap, answers.rows
    truth, yaw = true_poses(frames, geomap)
    k = min(_NEIGHBOURS, len(geomap))
    estimate, columns = np.full((len(rows), 3), np.nan), np.full((len(rows), 3), np.nan)
    probability = np.zeros(len(rows))
    for row, answer in enumerate(answers.localizations):
        columns[row, 2] = sum(answer.timings_ms.values())
        if answer.hypotheses:
            best = answer.hypotheses[0]
            estimate[row], columns[row, :2] = best.position_m, (best.yaw_rad, best.score)
            probability[row] = best.probability
    return Drive(
        frames.stamp_ns[rows],
        truth[rows],
        yaw[rows],
        np.array([answer.indices[:k] for answer in answers.localizations], np.int64),
        estimate,
        *columns.T,
        geomap.positions_m,
        probability,
        AcceptanceRule.of(localizer),
        None if answers.estimates is None else filtered_drive(answers.estimates, answers.motion),
    )


def drive_through(localizer: Localizer, frames: GeotaggedFrames) -> Drive:
    """`drive_of` the answers of `answer_frames`."""
    return drive_of(localizer, frames, answer_frames(localizer, frames))


def drive_of_baseline(embedder: Embedder, images: MapImages, frames: GeotaggedFrames) -> Drive:
    """The same drive against a map of the same images by another embedder, for comparison.

    Args:
        embedder: The baseline.
        images: What the map is made of, read once.
        frames: The drive.
    """
    embedded = embed_images(embedder, images.items, on_error="skip", total=len(images.positions), description="map")
    positions = images.positions.subset(embedded.kept)
    with tempfile.TemporaryDirectory() as folder:
        geomap = build_map(Path(folder) / "map", embedded.descriptors, embedder.model_id, positions)
        return drive_through(Localizer(embedder, geomap), frames)


def frame_pictures(drive: Drive, frames: GeotaggedFrames, geomap: GeoMap, radius_m: float) -> Pictures:
    """What shows frames of a drive beside the map images that they were matched with, where both can still be read."""

    def pictures(rows: Sequence[int]) -> list[Retrieval]:
        queries = [frame_source(frames.bag, frames.image_topic, int(drive.stamp_ns[row])) for row in rows]
        matches = [geomap.sources[drive.neighbours[row, 0]] for row in rows]
        images = source_images({*queries, *matches})
        errors = [float(drive.match_error_m[row]) for row in rows]
        return [
            Retrieval(images[query], images[match], f"{error:.1f} m apart", error <= radius_m)
            for query, match, error in zip(queries, matches, errors, strict=True)
            if query in images and match in images
        ]

    return pictures
