"""Compare methods on place sets, seed by seed, within a budget: ``python -m training.benchmark --help``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.benchmark_grid import Grid, only_grid, unfinished
from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.grid import BASELINES, CellPlan, read_results
from vgssl_core.evaluation.grid_figure import write_figure
from vgssl_core.evaluation.grid_table import markdown, replace_section, rows_by_set, write_csv
from vgssl_core.places import read_place_set, splits
from vgssl_core.places.reader import SPLITS
from vgssl_core.resources import config_file
from vgssl_core.storage import atomic_file, check_output_folder, read_yaml

_TOWN = "town:"
#: The budget ends a training, never the number of epochs.
_EPOCHS = 1_000_000


@dataclass(frozen=True)
class BenchmarkConfig:
    """Train and evaluate methods x seeds on place sets within a budget, and write the table of a paper.

    Attributes:
        out: Folder for table.md, cells.csv, figure.svg and figure.png, and for all cells. The same command goes on
            where an ended one stopped.
        data: Place sets with the splits train and val (and test), folders that hold such place sets under these names,
            or town:SEED for the built-in town of that seed.
        methods: Rows of the table by the names of methods; "all" takes every method.
        configs: Further rows, each a file of training settings that names its method; the row is named by the file.
        baselines: Further rows without training: hog, untrained.
        settings: What every training begins with: config/train/small, or the papers' settings. Files go over it.
        seeds: Trainings of each row on each set, with the seeds 0, 1, …
        cpu_minutes: Budget of a training in CPU time of all its threads. Without any budget it is 5.
        minutes: Budget of a training in minutes.
        steps: Budget of a training in steps of the optimiser.
        split: Which split is evaluated; default test, or val where a set has no test split.
        radius_m: A database image within this distance of a query is right.
        jobs: Trainings at once; each has an equal share of the cores.
        retry: Make failed cells anew.
        redo: Make cells anew that were made with other settings.
        report_only: Only write table and figure of what is finished.
        docs: Markdown file in which the table replaces what stands between the lines <!-- benchmark:NAME --> and
            <!-- /benchmark:NAME -->.
        section: The NAME there; default the name of the folder of ``out``.
    """

    out: Path
    data: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["all"])
    configs: list[Path] = field(default_factory=list)
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    settings: Literal["small", "paper"] = "small"
    seeds: int = 3
    cpu_minutes: float = 0.0
    minutes: float = 0.0
    steps: int = 0
    split: Literal["train", "val", "test"] | None = None
    radius_m: float = 25.0
    jobs: int = 1
    retry: bool = False
    redo: bool = False
    report_only: bool = False
    docs: Path | None = None
    section: str | None = None

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        if not self.data:
            raise ConfigError("--data names no place set: give folders, or town:SEED for the built-in town.")
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give at least 1.")
        given = [name for name in ("cpu_minutes", "minutes", "steps") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]}: give one budget.")
        for name in (*given, "radius_m"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give a number above 0.")
        unknown = set(self.baselines) - set(BASELINES)
        if unknown:
            raise ConfigError(f"--baselines {unknown.pop()} is unknown: choose of {', '.join(BASELINES)}.")

    def budget(self) -> dict[str, float]:
        """As settings of a training."""
        cpu_minutes = self.cpu_minutes if self.minutes or self.steps else self.cpu_minutes or 5.0
        return {"max_cpu_minutes": cpu_minutes, "max_minutes": self.minutes, "max_steps": self.steps}


@dataclass(frozen=True)
class TrainedAndEvaluated:
    """Where the parts of a set lie.

    Attributes:
        name: Of the set.
        train: Place set to train on.
        val: Place set to choose the checkpoint on, where it is not a split of ``train``.
        evaluated: Place set that the table is about.
        split: Its split, where it has splits.
    """

    name: str
    train: Path
    val: Path | None
    evaluated: Path
    split: str


def benchmark(config: BenchmarkConfig) -> None:
    """Make all cells that are not finished, and the table."""
    check_output_folder(config.out, "--out")
    if not config.report_only:
        config.check()
        rows = _rows(config)
        with only_grid(config.out):
            plans = _plans(config, rows, _sets(config))
            todo = unfinished(config.out, plans, config.retry, config.redo)
            print(f"{len(plans)} cells, {len(plans) - len(todo)} of them finished; {config.jobs} at once.", flush=True)
            Grid(config.out, config.jobs).run(todo, len(plans), lambda: _report(config.out))
    table = _report(config.out)
    if config.docs is not None:
        replace_section(config.docs, config.section or config.out.resolve().name, table)
    print(f"\n{table}\nTable, figure and cells are in {config.out}.")


def _report(out: Path) -> str:
    """Write everything that is made from the finished cells; the table's text."""
    results = read_results(out)
    table = markdown(results)
    with atomic_file(out / "table.md") as aside:
        aside.write_text(table, encoding="utf-8")
    write_csv(out / "cells.csv", results)
    write_figure([out / "figure.svg", out / "figure.png"], rows_by_set(results))
    return table


def _rows(config: BenchmarkConfig) -> dict[str, dict[str, Any]]:
    """Row → settings of its trainings in all layers; empty for a baseline."""
    from vgssl_core.ssl.method import method_names

    methods = [name for item in config.methods for name in (method_names() if item == "all" else [item])]
    rows: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in config.baselines]
    rows += [(name, _layers(config.settings, name, {})) for name in methods]
    for path in config.configs:
        own = read_yaml(path, ConfigError, "settings of training")
        if not isinstance(own.get("method"), str):
            raise ConfigError(f"{path} does not name its method: begin it with `method: NAME`.")
        rows.append((path.stem, _layers(config.settings, own["method"], own)))
    names = [name for name, _ in rows]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two rows are called {name}: rename a file of --configs, or name each method once.")
    return dict(rows)


def _layers(base: str, method: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings of a method, and a file's over them."""
    from vgssl_core.ssl.method import method_module

    method_module(method)  # before its files are sought: is there such a method?
    small = _shipped(f"train/small/{method}.yaml") if base == "small" else {}
    if base == "small" and not (small or own):
        raise ConfigError(f"Method {method} has no small settings: give them as a file of --configs.")
    return _over({"method": method}, _over(_shipped(f"train/{method}.yaml"), _over(small, own)))


def _shipped(name: str) -> dict[str, Any]:
    """A shipped file of settings; nothing for a method of the user's own, which has none."""
    try:
        path = config_file(name)
    except ConfigError:
        return {}
    return read_yaml(path, ConfigError, "settings of training")


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _sets(config: BenchmarkConfig) -> list[TrainedAndEvaluated]:
    """The parts of each set; towns are rendered."""
    sets: list[TrainedAndEvaluated] = []
    for item in config.data:
        folder = _town(config.out, item.removeprefix(_TOWN)) if item.startswith(_TOWN) else Path(item).resolve()
        if folder.name in [part.name for part in sets]:
            raise ConfigError(f"--data {item}: two sets are called {folder.name}. Rename the folder of one of them.")
        sets.append(_parts(folder, config.split))
        read_place_set(sets[-1].train, "train")
        read_place_set(sets[-1].evaluated, sets[-1].split)
    return sets


def _parts(folder: Path, split: str | None) -> TrainedAndEvaluated:
    """Of a set with splits, or of a folder that holds the sets train and val, and test if it likes."""
    if "train" in splits(folder):
        split = split or ("test" if "test" in splits(folder) else "val")
        return TrainedAndEvaluated(folder.name, folder, None, folder, split)
    train, val, test = (folder / name for name in SPLITS)
    if not (train.is_dir() and val.is_dir()):
        raise ConfigError(
            f"--data {folder} offers nothing to train on and to evaluate: it needs images/train and images/val, or two "
            "place sets train and val."
        )
    split = split or ("test" if test.is_dir() else "val")
    return TrainedAndEvaluated(folder.name, train, val, folder / split, split)


def _town(out: Path, seed: str) -> Path:
    from vgssl_core.town.writer import render_town

    if not seed.isdecimal():
        raise ConfigError(f"--data {_TOWN}{seed}: give the seed of the town as a number, for example town:1.")
    folder = out.resolve() / "sets" / f"town-{seed}"
    return folder if folder.is_dir() else render_town(folder, int(seed))


def _plans(
    config: BenchmarkConfig, rows: Mapping[str, dict[str, Any]], sets: Sequence[TrainedAndEvaluated]
) -> list[CellPlan]:
    """All cells; a seed of every row before the next seed, so that a table of some seeds compares all rows."""
    return [
        CellPlan(
            row,
            part.name,
            seed,
            str(part.train),
            str(part.evaluated),
            part.split,
            config.radius_m,
            _training(config, part, settings, seed) if settings else {},
        )
        for seed in range(config.seeds)
        for part in sets
        for row, settings in rows.items()
        if not (row == "hog" and seed)  # it has no random part
    ]


def _training(
    config: BenchmarkConfig, part: TrainedAndEvaluated, settings: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    val = None if part.val is None else str(part.val)
    own = {"val": val, "seed": seed, "epochs": _EPOCHS, "recall_radius_m": config.radius_m}
    return {**settings, **own, **config.budget()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(benchmark, BenchmarkConfig, arguments, "vgssl benchmark")


if __name__ == "__main__":
    sys.exit(main())
