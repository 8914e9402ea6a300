"""The cells of a benchmark: what is trained and evaluated, what came of it, and how both lie on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vgssl_core.errors import DataError
from vgssl_core.storage import read_yaml, write_yaml

#: Of Recall@N in all tables.
NS = (1, 5, 10, 20)
#: Rows without a training.
BASELINES = ("hog", "untrained")
CELLS, PLAN, RESULT, LOG, RUN = "cells", "plan.yaml", "result.yaml", "log.txt", "run"
Content = TypeVar("Content")


@dataclass(frozen=True)
class CellPlan:
    """One training with its evaluation, or the evaluation of a baseline.

    Attributes:
        row: Method, baseline or file of settings: a row of the table.
        place_set: Name of the set.
        seed: Of the training, or of the untrained network.
        train: Place set to train on (its train split, where it has splits).
        data: Place set to evaluate.
        split: Which of its splits, where it has splits.
        radius_m: A database image within this distance of a query is right.
        settings: Of the training, over the defaults, its budget among them; empty for a baseline.
    """

    row: str
    place_set: str
    seed: int
    train: str
    data: str
    split: str
    radius_m: float
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is trained."""
        return not self.settings

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.row} · {self.place_set} · seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Where the cell's files lie in the benchmark's folder."""
        return out / CELLS / self.place_set / self.row / f"seed-{self.seed}"

    def difference(self, other: CellPlan) -> str | None:
        """The first setting in which another plan of the same cell differs, in words; None where they are equal."""
        mine, others = _flat(dataclasses.asdict(self)), _flat(dataclasses.asdict(other))
        for key in sorted(mine.keys() | others.keys()):
            if mine.get(key) != others.get(key):
                return f"{key.removeprefix('settings.')} was {others.get(key)} and is now {mine.get(key)}"
        return None


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Attributes:
        plan: The cell.
        failure: Why there are no figures; empty where there are.
        protocol: How recall was measured, in words.
        recall: N → Recall@N in percent of the best checkpoint, over ``queries``.
        queries: Queries with at least one database image within the radius.
        queries_total: All queries.
        database: Database images.
        checkpoint: How the evaluated weights were chosen, in words; empty for a baseline.
        steps: Steps of the optimiser.
        queries_seen: Training queries that went through the network, with repetition.
        cpu_minutes: CPU time of the training, all threads and resumes together.
        wall_minutes: Time that it took.
        last: Figures of the last epoch: loss terms, spread and effective rank of the descriptors, speed.
        collapse: What was wrong with the descriptors of the last epoch; empty where nothing was.
        resumed: Whether the training was taken up again after a kill.
        versions: Of the software, and the commit.
        machine: CPU, cores, threads and device.
    """

    plan: CellPlan
    failure: str = ""
    protocol: str = ""
    recall: Mapping[int, float] = field(default_factory=dict)
    queries: int = 0
    queries_total: int = 0
    database: int = 0
    checkpoint: str = ""
    steps: int = 0
    queries_seen: int = 0
    cpu_minutes: float = 0.0
    wall_minutes: float = 0.0
    last: Mapping[str, float] = field(default_factory=dict)
    collapse: str = ""
    resumed: bool = False
    versions: Mapping[str, str | None] = field(default_factory=dict)
    machine: Mapping[str, str | int] = field(default_factory=dict)

    def line(self) -> str:
        """The outcome in one line."""
        if self.failure:
            return f"failed: {self.failure}"
        recall = " ".join(f"R@{n} {value:.1f}" for n, value in self.recall.items())
        training = f", {self.steps} steps, {self.cpu_minutes:.1f} CPU min" if self.steps else ""
        return recall + training + (", collapsed" if self.collapse else "")


def write_plan(out: Path, plan: CellPlan) -> None:
    """Write what is about to be done, so that a later grid can tell whether it is the same."""
    write_yaml(plan.folder(out) / PLAN, dataclasses.asdict(plan))


def read_plan(folder: Path) -> CellPlan | None:
    """The plan in a cell's folder, or None where there is none.

    Raises:
        DataError: It is damaged.
    """
    path = folder / PLAN
    return _fill(CellPlan, read_yaml(path, DataError, "the plan of a cell"), path) if path.is_file() else None


def write_result(out: Path, result: CellResult) -> None:
    """Write a finished cell in one atomic step."""
    write_yaml(result.plan.folder(out) / RESULT, dataclasses.asdict(result))


def read_result(folder: Path) -> CellResult | None:
    """The result in a cell's folder, or None where the cell is not finished.

    Raises:
        DataError: It is damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    result = _fill(CellResult, read_yaml(path, DataError, "the result of a cell"), path)
    return dataclasses.replace(result, plan=_fill(CellPlan, result.plan, path))


def read_results(out: Path) -> list[CellResult]:
    """All finished cells of a benchmark's folder: trained rows by name, then the baselines.

    Raises:
        DataError: One of them is damaged.
    """
    folders = sorted((out / CELLS).glob("*/*/seed-*"))
    results = [result for folder in folders if (result := read_result(folder)) is not None]
    return sorted(results, key=lambda result: _order(result.plan))


def _order(plan: CellPlan) -> tuple[str, bool, str, int]:
    return plan.place_set, plan.is_baseline, plan.row, plan.seed


def _fill(kind: type[Content], content: Any, path: Path) -> Content:
    try:
        return kind(**content)
    except TypeError as problem:
        raise DataError(
            f"{path} is damaged, or another version of the benchmark wrote it ({problem}): remove {path.parent}."
        ) from problem


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""

    def items() -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, Mapping):
                yield from _flat(value, f"{prefix}{key}.").items()
            else:
                yield f"{prefix}{key}", value

    return dict(items())
