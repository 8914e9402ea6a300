"""Teach a map what its answers are worth: ``python -m training.calibrate --help``."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vgssl_core import command_line
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.evaluation.bag_drive import frames_with_truth
from vgssl_core.evaluation.calibrated import JudgedCalibration, judged
from vgssl_core.evaluation.metrics import write_metrics
from vgssl_core.evaluation.recall import check_overlap
from vgssl_core.evaluation.report import write_report
from vgssl_core.evaluation.trust import price_table, trust_section, trust_tiles
from vgssl_core.evaluation.truth import KnownImages, known_frames, known_places, planar_in, stand_in_map
from vgssl_core.extrinsics import IN_ORIGIN, Extrinsics
from vgssl_core.geomap import GeoMap, load_map, require_model, store_calibration
from vgssl_core.inference import Embedder, load_bundle, open_embedder
from vgssl_core.inference.embedding import OnError
from vgssl_core.localization import LocalizerConfig, remembered_bundle
from vgssl_core.localization.examples import Examples, gather_examples
from vgssl_core.localization.fit import fit_calibration
from vgssl_core.places import read_place_set
from vgssl_core.storage import check_output_folder


@dataclass(frozen=True)
class CalibrateConfig:
    """Teach a map what its answers are worth: fit P(correct) to queries whose positions are known, and store it.

    Attributes:
        map: The map that is calibrated.
        bundle: Model bundle; without it the one that built the map.
        data: Place sets whose queries are asked.
        bag: Bags with images and true positions: drives through the map other than the one that it was built from.
        stand_in: Ask the queries of a place set in its own database, streets elsewhere that stand in for the map, where
            no queries of the map's own streets are known. They should be photographed as the map's are.
        split: Of place sets with splits.
        image_topic: Image topic of the bags, where there are several.
        position_topic: NavSatFix topic (for a local map Odometry) that tells the truth; without it
            /ground_truth/fix (/ground_truth/odom) or the only one.
        camera_extrinsics: For a map of camera poses: pose of the camera in the frame that the bags' truth is of, as in
            build-map.
        radius_m: A position within this distance of the truth is right.
        target_wrong: Share of the fixes that may be wrong; the default threshold is the lowest that keeps it.
        out: Folder for report.html and metrics.json.
        store: Write the calibration into the map; else only tell what it would be.
        backend: Engine that runs the bundle.
        precision: What the engine computes in: auto, fp32, fp16, bf16 or int8; the calibration holds for it alone.
        threads: Threads of the engine; all cores where it is not given.
        skip_damaged: Leave out images that do not decode instead of stopping.
        localizer: Settings of the localizer that will use the calibration.
    """

    map: Path
    bundle: Path | None = None
    data: list[Path] = field(default_factory=list)
    bag: list[Path] = field(default_factory=list)
    stand_in: bool = False
    split: Literal["train", "val", "test"] = "val"
    image_topic: str | None = None
    position_topic: str | None = None
    camera_extrinsics: Extrinsics = IN_ORIGIN
    radius_m: float = 25.0
    target_wrong: float = 0.01
    out: Path | None = None
    store: bool = True
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    skip_damaged: bool = False
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)


def calibrate(config: CalibrateConfig) -> None:
    """Ask, fit, judge, print and store."""
    _check(config)
    geomap = load_map(config.map)
    bundle = load_bundle(config.bundle or remembered_bundle(geomap))
    require_model(geomap, bundle.model_id, f"bundle {bundle.path}")
    embedder = open_embedder(bundle, config.backend, config.threads, precision=config.precision)
    examples = Examples.joined(list(_examples(config, embedder, geomap)))
    fit = functools.partial(
        fit_calibration,
        model_id=embedder.model_id,
        precision=embedder.precision,
        radius_m=config.radius_m,
        config=config.localizer,
        source=_source(config),
        target_wrong=config.target_wrong,
    )
    result = judged(examples, fit)
    if config.out is not None:
        _write_report(config, config.out, result)
    print("\n".join(_lines(result)))
    if config.store:
        store_calibration(config.map, result.calibration.content(), geomap.manifest.map_id)
        print(f"stored in {config.map}")


def _check(config: CalibrateConfig) -> None:
    if not (config.data or config.bag):
        raise ConfigError("There are no calibration queries: give place sets with --data, or bags with --bag.")
    if config.stand_in and not config.data:
        raise ConfigError("--stand_in is for --data: a bag has no database of its own.")
    if not config.radius_m > 0:
        raise ConfigError(f"--radius_m is {config.radius_m}: it must be positive.")
    if not 0 < config.target_wrong < 1:
        raise ConfigError(f"--target_wrong is {config.target_wrong}: it is a share of the fixes, like 0.01.")
    if config.out is not None:
        check_output_folder(config.out, "--out")


def _examples(config: CalibrateConfig, embedder: Embedder, geomap: GeoMap) -> Iterator[Examples]:
    """Those of every place set and bag."""
    on_error: OnError = "skip" if config.skip_damaged else "raise"
    for path in config.data:
        place_set = read_place_set(path, config.split)
        with contextlib.ExitStack() as stack:
            asked = geomap
            if config.stand_in:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                asked = stand_in_map(embedder, place_set.database, Path(folder) / "map", geomap, on_error)
            _check_overlap(config, planar_in(asked, place_set.queries), asked)
            yield _asked(config, asked, known_places(embedder, place_set.queries, asked, on_error))
    for path in config.bag:
        frames = frames_with_truth(path, geomap, config.image_topic, config.position_topic, config.camera_extrinsics)
        yield _asked(config, geomap, known_frames(embedder, frames, geomap))


def _check_overlap(config: CalibrateConfig, queries_m: NDArray[np.float64], asked: GeoMap) -> None:
    try:
        check_overlap(queries_m, asked.positions_m[:, :2], config.radius_m)
    except DataError as problem:
        if config.stand_in:
            raise
        raise DataError(f"{problem} Queries of other streets can be asked in their own database: --stand_in.") from None


def _asked(config: CalibrateConfig, geomap: GeoMap, images: KnownImages) -> Examples:
    others = images.not_in(geomap)
    if len(others) < len(images):
        print(f"left out {len(images) - len(others)} of {len(images)} queries, which are images of the map themselves")
    return gather_examples(
        geomap, others.descriptors, others.planar_m, others.yaw_rad, config.localizer, config.radius_m
    )


def _source(config: CalibrateConfig) -> str:
    sets = [f"{path.resolve().name}/{config.split}" for path in config.data]
    where = " (streets elsewhere that stand in for the map)" if config.stand_in else ""
    return ", ".join([*sets, *(path.resolve().name for path in config.bag)]) + where


def _lines(result: JudgedCalibration) -> list[str]:
    rows = price_table(result.trust)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*result.lines(), f"default threshold {result.calibration.threshold:.3f}; what others would cost:", *table]


def _write_report(config: CalibrateConfig, out: Path, result: JudgedCalibration) -> None:
    details = result.details()
    write_metrics(out, {"protocol": _protocol(config), **details})
    section = trust_section(result.trust)
    write_report(
        out / "report.html",
        f"Calibration of map {config.map.resolve().name}",
        f"{_protocol(config)}. {'. '.join(result.lines()[-2:])}.",
        trust_tiles(details),
        [section],
    )


def _protocol(config: CalibrateConfig) -> str:
    return (
        f"P(position within {config.radius_m:g} m) of single frames, fitted to {_source(config)}; every figure by "
        "cross-validation over runs of neighbouring queries"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(calibrate, CalibrateConfig, arguments, "vgssl calibrate")


if __name__ == "__main__":
    sys.exit(main())
