"""What the temporal filter gains over single images, and what it costs.

``python benchmarks/filter.py --data ../shared/data`` follows two real drives: `kitti00_query` through a map of
`kitti00_map`, and the winter of nordland64 val through its summer. For each kind of descriptor it prints Recall@1 of
single images and the share of frames whose best hypothesis is right (within 25 m), with and without odometry, over the
frames that the map covers; then the share of the errors of Recall@1 that the filter removes. The odometry is simulated
from relative truth (`vgssl_core.evaluation.simulated_odometry`), and figures with it are means over ``--seeds`` runs.
The last columns tell of the filter with odometry at its default threshold: how many frames got a fix, and how many of
the fixes were right. Nordland's probabilities are calibrated on its train split; KITTI's are the built-in default's,
since there is no other drive. Then it measures updates in maps of many sizes.
"""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reporting import machine, publish, table

from vgssl_core.command_line import run
from vgssl_core.evaluation.bag_drive import frames_with_truth, true_poses
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.simulated_odometry import direction_of_way, simulate_odometry
from vgssl_core.geomap import GeoMap, build_map
from vgssl_core.geomap.map_images import MapImages, from_bag, from_place_set
from vgssl_core.inference import Embedder, embed_files, embed_images, load_bundle, open_embedder
from vgssl_core.localization import Calibration, Hypothesis, Localization, Localizer
from vgssl_core.localization.examples import gather_examples
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.fit import fit_calibration
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.sequence import SequenceFilter, sequence_places
from vgssl_core.places import read_place_set, within_radius

RADIUS_M = 25.0
#: One image of nordland64 is every tenth frame of a film of one frame per second.
_NORDLAND_FRAME_M = 2.4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """What the temporal filter gains over single images, and what it costs.

    Attributes:
        data: Folder of the real recordings.
        bundles: Model bundles to measure beside HOG, as NAME=FOLDER, or FOLDER.
        drives: Of kitti00_query and nordland64.
        seeds: Runs with simulated odometry.
        sizes: Images of the maps in which updates are timed.
        docs: Markdown file in which the table replaces the section benchmark:filter.
    """

    data: Path = Path("../shared/data")
    bundles: list[str] = field(default_factory=list)
    drives: list[str] = field(default_factory=lambda: ["kitti00_query", "nordland64"])
    seeds: int = 5
    sizes: list[int] = field(default_factory=lambda: [10_000, 1_000_000])
    docs: Path | None = None


@dataclass(frozen=True)
class Drive:
    """A drive through a map, with the truth that only the judge sees.

    Attributes:
        geomap: The map.
        calibration: Whose probabilities the localizations have.
        localizations: Of each frame by itself.
        stamp_ns: (F,) of each frame.
        truth_m: (F, 2) true positions in the map's frame.
        yaw_rad: (F,) true headings.
    """

    geomap: GeoMap
    calibration: Calibration
    localizations: list[Localization]
    stamp_ns: NDArray[np.int64]
    truth_m: Floats
    yaw_rad: Floats

    @functools.cached_property
    def covered(self) -> NDArray[np.bool_]:
        """(F,) whether the map has an image within the radius."""
        return within_radius(self.truth_m, self.geomap.positions_m[:, :2], RADIUS_M).getnnz(axis=1) > 0

    def follow(self, motions: Sequence[Motion | None]) -> list[Estimate]:
        """The filter's answers."""
        followed = TemporalFilter(self.geomap, self.calibration)
        frames = zip(self.stamp_ns.tolist(), self.localizations, motions, strict=True)
        return [followed.update(stamp, localization, motion) for stamp, localization, motion in frames]

    def share_right(self, planar_m: Floats) -> float:
        """Percent of the covered frames whose (F, 2) position is right; NaN is wrong."""
        error = np.linalg.norm(planar_m - self.truth_m, axis=1)
        return 100.0 * float((error <= RADIUS_M)[self.covered].mean())


def _planar(hypotheses: Sequence[Hypothesis | None]) -> Floats:
    """(F, 2) positions, NaN where there is none."""
    return np.array([(np.nan, np.nan) if item is None else item.position_m[:2] for item in hypotheses])


def _best(estimates: Sequence[Estimate | Localization]) -> Floats:
    return _planar([next(iter(item.hypotheses), None) for item in estimates])


# --- the drives


@contextmanager
def _mapped(embedder: Embedder, images: MapImages) -> Iterator[GeoMap]:
    embedded = embed_images(embedder, images.items, total=None)
    with tempfile.TemporaryDirectory() as folder:
        positions = images.positions.subset(embedded.kept)
        yield build_map(Path(folder) / "map", embedded.descriptors, embedder.model_id, positions)


@contextmanager
def kitti(data: Path, embedder: Embedder) -> Iterator[Drive]:
    """`kitti00_query` through the map of `kitti00_map`."""
    with _mapped(embedder, from_bag(data / "bags" / "kitti00_map")) as geomap:
        frames = frames_with_truth(data / "bags" / "kitti00_query", geomap)
        truth, yaw = true_poses(frames, geomap)
        localizer = Localizer(embedder, geomap)
        answers = [localizer.localize(tagged.frame.image(localizer.least_size)) for tagged in frames]
        yaw = np.where(np.isfinite(yaw), yaw, direction_of_way(truth[:, :2]))
        yield Drive(geomap, localizer.calibration, answers, frames.stamp_ns, truth[:, :2], yaw)


@contextmanager
def nordland(data: Path, embedder: Embedder) -> Iterator[Drive]:
    """The winter of nordland64 val through its summer; stamps are those of the film, one second per frame."""
    calibration = _nordland_calibration(data, embedder)
    place_set = read_place_set(data / "nordland64" / "val")
    with _mapped(embedder, from_place_set(data / "nordland64" / "val")) as geomap:
        geomap.calibration = calibration.content()
        truth = place_set.queries.planar_m
        localizer = Localizer(embedder, geomap)
        descriptors = embed_files(embedder, place_set.queries.paths, progress=False).descriptors
        answers = [localizer.localize_descriptor(row) for row in descriptors]
        stamp_ns = np.round(truth[:, 1] / _NORDLAND_FRAME_M * 1e9).astype(np.int64)
        yield Drive(geomap, localizer.calibration, answers, stamp_ns, truth, direction_of_way(truth))


def _nordland_calibration(data: Path, embedder: Embedder) -> Calibration:
    place_set = read_place_set(data / "nordland64" / "train")
    with _mapped(embedder, from_place_set(data / "nordland64" / "train")) as geomap:
        truth = place_set.queries.planar_m
        descriptors = embed_files(embedder, place_set.queries.paths, progress=False).descriptors
        examples = gather_examples(geomap, descriptors, truth, np.full(len(truth), np.nan))
    return fit_calibration(examples, embedder.model_id, "fp32", RADIUS_M, source="nordland64 train")


DRIVES: dict[str, Callable] = {"kitti00_query": kitti, "nordland64": nordland}


# --- what is measured


def measure(drive: Drive, seeds: int) -> list[str]:
    """Cells of one row."""
    matches = np.array([answer.indices[0] for answer in drive.localizations])
    single = drive.share_right(drive.geomap.positions_m[matches][:, :2])
    without = drive.share_right(_best(drive.follow([None] * len(matches))))
    runs = [drive.follow(simulate_odometry(drive.truth_m, drive.yaw_rad, seed)) for seed in range(seeds)]
    with_odometry = np.array([drive.share_right(_best(run)) for run in runs])
    fixes = np.concatenate([_planar([estimate.accepted for estimate in run]) for run in runs])
    fixed = np.isfinite(fixes[:, 0])
    right = np.linalg.norm(fixes - np.tile(drive.truth_m, (seeds, 1)), axis=1) <= RADIUS_M

    def removed(share: float) -> str:
        return f"{100.0 * (share - single) / (100.0 - single):.0f} %"

    return [
        str(int(drive.covered.sum())),
        f"{single:.1f}",
        f"{drive.share_right(_best(drive.localizations)):.1f}",
        f"{drive.share_right(_sequence(drive)):.1f}",
        f"{without:.1f}",
        f"{with_odometry.mean():.1f} ({with_odometry.min():.1f}–{with_odometry.max():.1f})",
        removed(without),
        removed(float(with_odometry.mean())),
        f"{100.0 * fixed.mean():.0f} %",
        f"{100.0 * right[fixed].mean():.1f} %" if fixed.any() else "–",
    ]


def _sequence(drive: Drive) -> Floats:
    """(F, 2) positions of the images that the mode without metric positions chooses."""
    followed = SequenceFilter(sequence_places(drive.geomap), drive.calibration)
    images = [followed.update(answer.indices, answer.distances).image for answer in drive.localizations]
    positions = drive.geomap.positions_m[:, :2]
    return np.array([(np.nan, np.nan) if image is None else positions[image] for image in images])


class _Streets:
    """A map of straight streets 50 m apart, as far as the filter asks it."""

    spacing_m, datum = 2.0, None

    def __init__(self, count: int) -> None:
        street, along = np.divmod(np.arange(count), 500)
        self.positions_m = np.stack([along * 2.0, street * 50.0, np.full(count, np.nan)], axis=1)
        self.yaw_rad = np.zeros(count)

    def __len__(self) -> int:
        return len(self.positions_m)

    def to_wgs84(self, positions_m: Floats) -> tuple[Floats, Floats, Floats]:
        unknown = np.full(positions_m.shape[:-1], np.nan)
        return unknown, unknown, unknown


def time_updates(count: int, updates: int = 500) -> tuple[float, NDArray[np.float64]]:
    """CPU seconds to open the filter, and CPU milliseconds of its updates, with odometry and five hypotheses each."""
    streets, rng = _Streets(count), np.random.default_rng(0)
    begin = time.thread_time()
    followed = TemporalFilter(streets, Calibration.unscaled(RADIUS_M))  # type: ignore[arg-type]
    opened = time.thread_time() - begin
    times = []
    for number in range(updates):
        x_m = 100.0 + 0.8 * number
        places = streets.positions_m[rng.integers(count, size=5)]
        places[0] = (x_m, 0.0, np.nan) if rng.random() < 0.5 else places[0]
        seen = tuple(_hypothesis(place, 0.3 if rank == 0 else 0.1) for rank, place in enumerate(places))
        localization = Localization(np.zeros(0, np.int64), np.zeros(0, np.float32), seen, {})
        motion = Motion(0.8, 0.0, 0.0) if number else None
        begin = time.thread_time()
        followed.update(number * 100_000_000, localization, motion)
        times.append((time.thread_time() - begin) * 1e3)
    return opened, np.array(times[updates // 10 :])


def _hypothesis(position_m: Floats, probability: float) -> Hypothesis:
    covariance = np.diag([9.0, 9.0, 1e4, 0.05])
    return Hypothesis(0, position_m, 0.0, covariance, probability, probability, 4, np.nan, np.nan, np.nan, 3.0)


def _embedders(bundles: Sequence[str]) -> Iterator[tuple[str, Embedder]]:
    yield "HOG", HogEmbedder()
    for given in bundles:
        name, _, folder = given.rpartition("=")
        yield name or Path(folder).name, open_embedder(load_bundle(Path(folder)), threads=1)


def main(config: Config) -> None:
    logging.disable(logging.WARNING)
    rows = []
    for name in config.drives:
        for label, embedder in _embedders(config.bundles):
            with DRIVES[name](config.data, embedder) as drive:
                rows.append([f"{name}, {label}", *measure(drive, config.seeds)])
    columns = ["frames", "R@1", "best hypothesis", "sequence", "filter", "filter + odometry"]
    columns += ["errors removed", "with odometry", "fixes", "right"]
    timed = [(count, *time_updates(count)) for count in config.sizes]
    costs = [
        [f"{count:,}", f"{opened:.2f}", *(f"{value:.2f}" for value in np.percentile(times, [50, 99]))]
        for count, opened, times in timed
    ]
    text = "\n".join(
        [
            table(["drive, descriptors", *columns], rows),
            "",
            table(["map images", "open, CPU s", "update p50, CPU ms", "p99, CPU ms"], costs),
            "",
            f"Percent of the covered frames, {config.seeds} runs with odometry. {machine(1, 'numpy', 'scipy')}.",
        ]
    )
    publish(text, config.docs, "filter")


if __name__ == "__main__":
    sys.exit(run(main, Config, None, "benchmarks/filter.py"))
