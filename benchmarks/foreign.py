"""What a calibrated map accepts on streets that nobody tuned on, and what of frames that it cannot know.

``python benchmarks/foreign.py`` trains a network as `make demo` does (or takes ``--bundle``), calibrates the maps of
unseen towns on validation streets of yet other towns, and drives through them; then it shows the same maps what they
cannot know: another city (KITTI), black, noise and sky. Every sequence is asked frame by frame, and followed by the
causal filter with the bag's odometry where it has one. A map of KITTI is shown the towns' drives, and the
frames of the second KITTI drive that have no map image within the radius; it is asked twice, without calibration and
calibrated on that second drive by cross-validation. What was made is kept in ``--out`` and taken again.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from foreign_frames import KINDS, frames
from reporting import publish, table

from training import build_map, calibrate, export, town, train
from vgssl_core.bags import BagReader
from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError, VgsslError
from vgssl_core.evaluation.bag_drive import drive_through, frames_with_truth
from vgssl_core.evaluation.drive import Drive, drive_metrics
from vgssl_core.evaluation.filtered_drive import estimates_of, recorded_motions
from vgssl_core.evaluation.intervals import Share, clopper_pearson
from vgssl_core.evaluation.metrics import METRICS_FILE
from vgssl_core.evaluation.trust import Trust
from vgssl_core.imaging import Image
from vgssl_core.inference import load_bundle
from vgssl_core.localization import Localizer, open_localizer
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.reliability import reliability
from vgssl_core.resources import config_file

#: Kept for acceptance runs by others: never looked at while developing.
_RESERVED = range(101, 106)
_HEADER = (
    *("frames of", "map", "count", "R@1", "with a fix", "of these right", "ECE"),
    *("filtered: with a fix", "of these right", "ECE"),
)
#: Of single frames and of the filter.
Fixes = tuple[Share, Share]
_RADIUS_M = 25.0


@dataclass(frozen=True)
class Config:
    """Fixes on unseen drives and on frames that no map can know.

    Attributes:
        out: Folder for everything that is made; what is there is taken again.
        bundle: Model bundle; without it a network is trained on town 1.
        max_minutes: Longest time for training.
        calibration: Seeds of the towns whose validation streets calibrate.
        drives: Seeds of the towns that are driven through.
        data: Folder of the KITTI bags, kitti00_map and kitti00_query.
        frames: Black, noise and sky frames, of each kind for each map.
        docs: Markdown file in which the table replaces the section benchmark:foreign.
    """

    out: Path = Path("runs/foreign")
    bundle: Path | None = None
    max_minutes: float = 4.5
    calibration: list[int] = field(default_factory=lambda: [201, 202])
    drives: list[int] = field(default_factory=lambda: [301, 302, 303, 304, 305])
    data: Path = Path("../shared/data/bags")
    frames: int = 200
    docs: Path | None = None


def program(main: Callable[[Sequence[str]], int], *arguments: object) -> None:
    """Run one of our programs in this process.

    Raises:
        VgsslError: It failed; its own message stands above.
    """
    if status := main([str(item) for item in arguments]):
        raise VgsslError(f"{main.__module__} ended with {status}.")


def make(folder: Path, main: Callable[[Sequence[str]], int], *arguments: object) -> Path:
    """The folder, made by a program where it is not there."""
    if not folder.exists():
        program(main, "--out", folder, *arguments)
    return folder


def trained_bundle(config: Config) -> Path:
    """The given bundle, or one of a network that was trained on town 1."""
    if config.bundle is not None:
        return config.bundle
    bundle, learned = config.out / "bundle", config.out / "town-1"
    if not bundle.exists():
        make(learned, town.main, "--seed", 1, "--town.drive_s", 0)
        small = config_file("train/small/mocov2.yaml")
        settings = ["--config", small, "--max_minutes", config.max_minutes]
        make(config.out / "run", train.main, "--method", "mocov2", "--data", learned, *settings)
        program(export.main, config.out / "run", "--out", bundle)
    return bundle


def town_maps(config: Config, bundle: Path) -> dict[int, Path]:
    """Seed → calibrated map of the test streets; its drive is in the folder ``town-SEED`` beside it."""
    little = ["--town.train_size", 2]
    taught = [
        make(config.out / f"val-{seed}", town.main, "--seed", seed, *little, "--town.test_size", 2,
             "--town.val_size", 4, "--town.drive_s", 0)
        for seed in config.calibration
    ]  # fmt: skip
    maps = {}
    for seed in config.drives:
        driven = make(config.out / f"town-{seed}", town.main, "--seed", seed, *little, "--town.val_size", 2)
        maps[seed] = make(config.out / f"map-{seed}", build_map.main, "--bundle", bundle, "--data", driven)
        report = config.out / f"calibration-{seed}"
        given = ["--map", maps[seed], "--bundle", bundle, "--data", *taught, "--stand_in", "true", "--out", report]
        program(calibrate.main, *given)
    return maps


def driven(bag: Path, localizer: Localizer) -> Drive:
    """A drive with truth through a map."""
    return drive_through(localizer, frames_with_truth(bag, localizer.geomap))


def fixes(localizer: Localizer, images: Iterable[Image], bag: Path | None = None) -> Fixes:
    """How many of the images get a fix, of the single frame and of the filter that follows them at 5 Hz.

    Args:
        localizer: Of a map that cannot know them, so that each fix is false.
        images: In the order of time.
        bag: Where they come from; its odometry is the filter's.
    """
    answers = [localizer.localize(image) for image in images]
    stamps_ns = np.arange(len(answers), dtype=np.int64) * 200_000_000
    motions: list[Motion | None] = [None] * len(answers)
    if bag is not None:
        with BagReader(bag) as reader:
            stamps_ns = reader.image_stamps_ns(reader.image_topic())
        motions, _ = recorded_motions(bag, stamps_ns)
    told = (answers, estimates_of(localizer, stamps_ns, answers, motions))
    single, follows = (sum(item.accepted is not None for item in items) for items in told)
    return clopper_pearson(single, len(answers)), clopper_pearson(follows, len(answers))


def together(shares: Iterable[Share]) -> Share:
    """Counts of several maps as one."""
    listed = list(shares)
    return clopper_pearson(sum(share.count for share in listed), sum(share.total for share in listed))


def error_of(trusts: Sequence[Trust]) -> str:
    """Expected calibration error over the frames of all drives."""
    probability, right = (np.concatenate([getattr(one, name) for one in trusts]) for name in ("probability", "right"))
    return f"{reliability(probability, right).expected_error:.3f}"


def both_trusts(drives: Sequence[Drive]) -> tuple[list[Trust], list[Trust]]:
    """Of single frames, and of the filter."""
    return [drive.trust for drive in drives], [one for drive in drives if (one := drive.filtered_trust) is not None]


def images_of(bag: Path, localizer: Localizer) -> Iterable[Image]:
    """All frames of a bag, decoded as the robot does."""
    with BagReader(bag) as reader:
        for frame in reader.frames(reader.image_topic()):
            yield frame.image(localizer.least_size)


def drive_row(name: str, where: str, drives: Sequence[Drive]) -> list[str]:
    """A line of the table about drives with truth."""
    recall = np.mean([drive_metrics(drive, _RADIUS_M, "").recall[1] for drive in drives])
    cells = [str(sum(len(drive.stamp_ns) for drive in drives)), f"{recall:.1f}"]
    for trusts in both_trusts(drives):
        cells += [str(together(one.fixes for one in trusts)), str(together(one.right_fixes for one in trusts))]
        cells.append(error_of(trusts))
    return [name, where, *cells]


def foreign_row(name: str, where: str, found: Sequence[Fixes]) -> list[str]:
    """A line about frames that the maps cannot know."""
    single, follows = (together(part) for part in zip(*found, strict=True))
    return [name, where, str(single.total), "–", _false(single), "–", "–", _false(follows), "–", "–"]


def beyond_row(name: str, where: str, drives: Sequence[Drive]) -> list[str]:
    """Those frames of drives that have no map image within the radius; odometry may lead a filter rightly there."""
    single, follows = both_trusts(drives)
    one, many = (together(trust.unmapped_fixes for trust in trusts) for trusts in (single, follows))
    right = sum(int((trust.accepted & trust.right & ~trust.mapped).sum()) for trust in follows)
    return [
        name,
        where,
        str(one.total),
        "–",
        _false(one),
        "–",
        "–",
        str(many),
        str(clopper_pearson(right, many.count)),
        "–",
    ]


def _false(share: Share) -> str:
    return f"{share.count}: {share}"


def town_rows(config: Config, maps: Mapping[int, Localizer]) -> list[list[str]]:
    """The unseen drives, one by one and together, and what the town maps cannot know."""
    drives = {seed: driven(config.out / f"town-{seed}" / "drive", localizer) for seed, localizer in maps.items()}
    rows = [drive_row(f"town {seed}, drive", f"town {seed}", [drive]) for seed, drive in drives.items()]
    rows.append(drive_row("**all drives**", "their towns", list(drives.values())))
    rows.append(beyond_row("streets that the map lacks", "their towns", list(drives.values())))
    query = config.data / "kitti00_query"
    if query.is_dir():
        found = [fixes(localizer, images_of(query, localizer), query) for localizer in maps.values()]
        rows.append(foreign_row("kitti00_query", "each town", found))
    return rows + blank_rows(config, "each town", list(maps.values()), (320, 240))


def blank_rows(config: Config, where: str, maps: Sequence[Localizer], size: tuple[int, int]) -> list[list[str]]:
    """Black, noise and sky."""
    return [
        foreign_row(kind, where, [fixes(localizer, frames(kind, config.frames, *size)) for localizer in maps])
        for kind in KINDS
    ]


def kitti_rows(config: Config, bundle: Path) -> list[list[str]]:
    """The KITTI map without calibration, and calibrated on the second drive."""
    query, source = config.data / "kitti00_query", config.data / "kitti00_map"
    rows = []
    for is_calibrated in (False, True):
        where = "KITTI, calibrated on kitti00_query" if is_calibrated else "KITTI, not calibrated"
        folder = config.out / ("map-kitti-calibrated" if is_calibrated else "map-kitti")
        make(folder, build_map.main, "--bundle", bundle, "--bag", source)
        if is_calibrated:
            report = config.out / "calibration-kitti"
            try:
                program(calibrate.main, "--map", folder, "--bundle", bundle, "--bag", query, "--out", report)
            except VgsslError:  # A network that knows too little of KITTI: its message stands above.
                return [*rows, ["kitti00_query", "KITTI: too few right answers to calibrate", *["–"] * 8]]
            rows += cross_validated_rows(report)
        localizer = open_localizer(folder, bundle)
        if not is_calibrated:
            drive = driven(query, localizer)
            rows.append(drive_row("kitti00_query", where, [drive]))
            rows.append(beyond_row("kitti00_query beyond the map", where, [drive]))
        drives = [config.out / f"town-{seed}" / "drive" for seed in config.drives]
        found = [fixes(localizer, images_of(bag, localizer), bag) for bag in drives]
        rows.append(foreign_row("the towns' drives", where, found))
        rows += blank_rows(config, where, [localizer], (640, 194))
    return rows


def cross_validated_rows(report: Path) -> list[list[str]]:
    """The second KITTI drive by calibrations that had not seen the frames beside each: what `calibrate` wrote."""
    judged = json.loads((report / METRICS_FILE).read_text(encoding="utf-8"))
    names = ("accepted", "right", "accepted_without_map")
    fix, right, beyond = (
        clopper_pearson(part["count"], part["total"]) for part in (judged["acceptance"][name] for name in names)
    )
    where, ece = "KITTI, cross-validated", f"{judged['calibration']['ece']:.3f}"
    return [
        ["kitti00_query", where, str(fix.total), "–", str(fix), str(right), ece, "–", "–", "–"],
        ["kitti00_query beyond the map", where, str(beyond.total), "–", _false(beyond), "–", "–", "–", "–", "–"],
    ]


def measure(config: Config) -> None:
    """Make what is missing, ask, and print the table."""
    seeds = [*config.calibration, *config.drives]
    if reserved := sorted(set(seeds) & set(_RESERVED)):
        raise ConfigError(f"Town {reserved[0]} is kept for acceptance: take another seed.")
    if len(set(seeds)) < len(seeds) or 1 in seeds:
        raise ConfigError("A town is driven, taught on or trained on, never two of these: give other seeds.")
    logging.getLogger().setLevel(logging.WARNING)
    bundle = trained_bundle(config)
    maps = {seed: open_localizer(path, bundle) for seed, path in town_maps(config, bundle).items()}
    rows = town_rows(config, maps)
    if (config.data / "kitti00_map").is_dir():
        rows += kitti_rows(config, bundle)
    threshold = next(iter(maps.values())).threshold
    about = (
        f"Network {load_bundle(bundle).method}; calibrated on validation streets of the towns "
        f"{', '.join(map(str, config.calibration))}, a fix is given from P(correct) = {threshold:.3f} on. In brackets "
        "exact 95 % intervals (Clopper-Pearson), which take frames as independent."
    )
    publish(f"{table(_HEADER, rows)}\n\n{about}", config.docs, "foreign")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/foreign.py"))
