"""The main job from end to end, each step a program that users call too: ``make demo``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.demo_report import DemoResults, write_demo_report
from vgssl_core import command_line, places
from vgssl_core.bags import BagReader
from vgssl_core.bags.from_places import write_places_bag
from vgssl_core.bags.records import COMPRESSED_IMAGE
from vgssl_core.errors import ConfigError, DataError, VgsslError
from vgssl_core.geomap.map_images import from_bag, from_place_set
from vgssl_core.resources import config_file
from vgssl_core.storage import read_yaml
from vgssl_core.town.config import TownConfig

_MARKER = ".vgssl-demo"
#: Added to the seed: the town whose validation streets teach the map what its answers are worth.
_OTHER_TOWN = 1000
_NODE_ENDS_WITHIN_S = 15


@dataclass(frozen=True)
class DemoConfig:
    """Render a town, train, export, build and calibrate a map, replay a drive through the ROS 2 node, write a report.

    Attributes:
        out: Folder for everything; a folder of an earlier demo is replaced.
        data: Your own data instead of the town's drive: a folder with a map bag and a query bag (names with "map" and
            "query"), or a place set. A place set with a train split is also trained on; else the network learns on
            the town. A bag with "calib" in its name, another drive through the map, calibrates it, as does a val split;
            without them the map stays uncalibrated, and hardly anything is accepted.
        seed: Seed of the town and of the training.
        max_minutes: Longest time for training; two free cores need about two.
        rate: Replay speed.
        town: Settings file of the town, for `training.town --config`.
    """

    out: Path = Path("runs/demo")
    data: Path | None = None
    seed: int = 1
    max_minutes: float = 4.5
    rate: float = 1.0
    town: Path | None = None


@dataclass(frozen=True)
class OwnData:
    """What a user's folder holds: a map and a query bag, or a place set."""

    map_bag: Path | None = None
    query_bag: Path | None = None
    place_set: Path | None = None
    calibration_bag: Path | None = None


class _Steps:
    """Runs programs one after the other, says what each is for and how long it took.

    Attributes:
        seconds: Step → duration.
    """

    def __init__(self, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._total = total

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and time it."""
        print(f"\n[{len(self.seconds) + 1}/{self._total}] {title}", flush=True)
        begin = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - begin
        print(f"      {self.seconds[title]:.0f} s", flush=True)

    def program(self, module: str, *arguments: object) -> None:
        """Run a program in its own process, its output passed on.

        Raises:
            VgsslError: It failed; its own message stands above.
        """
        command = [sys.executable, "-m", module, *map(str, arguments)]
        if status := subprocess.run(command, check=False).returncode:
            raise VgsslError(f"`{' '.join(command[1:])}` failed with exit status {status}: its message stands above.")


def demo(config: DemoConfig) -> None:
    """Run all steps and print the figures of the report."""
    begin = time.monotonic()
    own = None if config.data is None else find_own_data(config.data)
    trains_on_own = own is not None and own.place_set is not None and "train" in places.splits(own.place_set)
    _prepare(config.out)
    calibration = _calibration(config.out, own)
    steps = _Steps(7 - trains_on_own + (calibration is not None))
    town, run, bundle, built_map = (config.out / name for name in ("town", "run", "bundle", "map"))
    if not trains_on_own:
        with steps.step("Render a town: streets to learn on, other streets to drive through"):
            settings = ["--config", config.town] if config.town else []
            steps.program("training.town", "--seed", config.seed, "--out", town, *settings)
    learning_set = own.place_set if trains_on_own else town
    with steps.step("Train MoCov2 from random weights on the streets to learn on"):
        small = config_file("train/small/mocov2.yaml")
        arguments = ["--method", "mocov2", "--data", learning_set, "--out", run, "--config", small]
        steps.program("training.train", *arguments, "--seed", config.seed, "--max-minutes", config.max_minutes)
    with steps.step("Export to ONNX and compare with torch"):
        steps.program("training.export", run, "--out", bundle)
    with steps.step("Recall on streets it has never seen, before and after training"):
        evaluated = own.place_set if own and own.place_set else town
        for name, baseline in (("hog", "hog"), ("untrained", "untrained"), ("trained", None)):
            print(f"      {name}: ", end="", flush=True)
            chosen = ["--baseline", baseline] if baseline else []
            steps.program(
                "training.evaluate", "--bundle", bundle, "--data", evaluated, "--out", config.out / name, *chosen
            )
    with steps.step("Build the map"):
        source = ["--bag", own.map_bag] if own and own.map_bag else ["--data", evaluated]
        steps.program("training.build_map", "--bundle", bundle, *source, "--out", built_map)
    if calibration is not None:
        with steps.step("Learn on yet other streets what an answer of the map is worth"):
            if own is None:
                _render_other_town(config, steps)
            steps.program("training.calibrate", "--map", built_map, "--bundle", bundle, *calibration)
    drive = _drive_bag(config.out, own, town)
    with steps.step(f"Replay the drive into the localizer node over DDS at {config.rate:g}x"):
        _replay(config, drive, bundle, built_map)
    with steps.step("Compare with the truth"):
        results = DemoResults(
            out=config.out,
            drive=drive,
            bundle=bundle,
            built_map=built_map,
            run=run,
            learned=learning_set,
            evaluated="other streets of the town" if evaluated == town else str(evaluated),
            map_images=lambda: from_bag(own.map_bag) if own and own.map_bag else from_place_set(evaluated, "test"),
            subject=_subject(config, own),
            seconds=steps.seconds,
        )
        lines = write_demo_report(results)
    print("\n" + "\n".join(lines))
    print(f"Took {(time.monotonic() - begin) / 60:.1f} minutes. Report: {config.out / 'report.html'}")


def _calibration(out: Path, own: OwnData | None) -> list[object] | None:
    """Where the calibration queries come from, as arguments, never the drive's streets; None where there are none."""
    report = ["--out", out / "calibration"]
    if own is None:
        return ["--data", out / "other_town", "--split", "val", "--stand_in", "true", *report]
    if own.calibration_bag is not None:
        return ["--bag", own.calibration_bag, *report]
    if own.place_set is not None and {"val", "test"} <= set(places.splits(own.place_set)):
        return ["--data", own.place_set, "--split", "val", "--stand_in", "true", *report]
    return None


def _render_other_town(config: DemoConfig, steps: _Steps) -> None:
    """A town with more validation streets and as little as can be of everything else."""
    settings = read_yaml(config.town, ConfigError, "settings of a town").get("town", {}) if config.town else {}
    streets = {"val_size": settings.get("val_size", TownConfig.val_size) + 1, "train_size": 2, "test_size": 2}
    flags = [item for name, value in {**streets, "drive_s": 0}.items() for item in (f"--town.{name}", value)]
    given = ["--config", config.town] if config.town else []
    out = config.out / "other_town"
    steps.program("training.town", "--seed", config.seed + _OTHER_TOWN, "--out", out, *given, *flags)


def find_own_data(folder: Path) -> OwnData:
    """A place set, or the one map bag and the one query bag in a folder, its subfolders or its ``bags``.

    Raises:
        DataError: Neither, or several to choose from.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one with a map bag and a query bag, or a place set.")
    if (folder / "images").is_dir():
        return OwnData(place_set=folder)
    around = [*folder.iterdir(), *((folder / "bags").iterdir() if (folder / "bags").is_dir() else ())]
    bags = [item for item in around if item.suffix in (".mcap", ".db3") or (item / "metadata.yaml").is_file()]
    chosen = {}
    for kind in ("map", "query"):
        named = sorted(bag for bag in bags if kind in bag.name.lower())
        if len(named) != 1:
            listed = ", ".join(bag.name for bag in named or bags) or "no bag at all"
            raise DataError(
                f"{folder} holds {len(named)} bags with {kind!r} in the name ({listed}): give a folder with one map "
                "bag and one query bag, or a place set with images/database and images/queries."
            )
        chosen[kind] = named[0]
    calibration = sorted(bag for bag in bags if "calib" in bag.name.lower())
    if len(calibration) > 1:
        raise DataError(f"{folder} holds {len(calibration)} bags with 'calib' in the name: leave one of them there.")
    return OwnData(chosen["map"], chosen["query"], calibration_bag=next(iter(calibration), None))


def _prepare(out: Path) -> None:
    """An empty output folder; only what an earlier demo wrote is removed."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).is_file():
            raise ConfigError(f"{out} is not empty and no demo wrote it: give another folder with --out.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()


def _drive_bag(out: Path, own: OwnData | None, town: Path) -> Path:
    if own is None:
        return town / "drive"
    if own.query_bag is not None:
        return own.query_bag
    assert own.place_set is not None
    queries = places.read_place_set(own.place_set, "test").queries
    write_places_bag(queries, out / "queries")
    return out / "queries"


def _subject(config: DemoConfig, own: OwnData | None) -> str:
    return f"the synthetic town of seed {config.seed}" if own is None else str(config.data)


def _replay(config: DemoConfig, drive: Path, bundle: Path, built_map: Path) -> None:
    """The node as its own process, and the replay that records its answers as another.

    Raises:
        VgsslError: The node did not start, or did not end well; names its log.
    """
    environment = {
        **os.environ,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(config_file("fastdds_local.xml")),
    }
    node_log = config.out / "node.log"
    with BagReader(drive) as bag:
        topic = bag.image_topic()
        is_compressed = bag.topics[topic] == COMPRESSED_IMAGE
    parameters = {
        "map_path": built_map,
        "bundle_path": bundle,
        "image_topic": topic.removesuffix("/compressed") if is_compressed else topic,
        "image_transport": "compressed" if is_compressed else "raw",
        # Single frames, so that every answer can be held against the one without DDS.
        "filter": "false",
    }
    arguments = [item for name, value in parameters.items() for item in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "vgssl_ros.localizer_node", "--ros-args", *arguments]
    with open(node_log, "w", encoding="utf-8") as log:
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        command = [sys.executable, "-m", "vgssl_ros.replay", "--bag", str(drive), "--rate", f"{config.rate:g}"]
        command += ["--record", str(config.out / "answers")]
        status = subprocess.run(command, env=environment, check=False).returncode
    finally:
        node.send_signal(signal.SIGINT)
        try:
            ended = node.wait(timeout=_NODE_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            node.kill()
            ended = node.wait()
    if status or ended:
        tail = "\n".join(node_log.read_text(encoding="utf-8").splitlines()[-5:])
        raise VgsslError(f"Replay ended with {status} and the node with {ended}. The end of {node_log}:\n{tail}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(demo, DemoConfig, arguments, "vgssl demo")


if __name__ == "__main__":
    sys.exit(main())
