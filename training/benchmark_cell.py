"""One cell of a benchmark in a process of its own: trains, evaluates, writes the result (`training.benchmark`)."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.grid import NS, RUN, CellPlan, CellResult, read_plan, write_result
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.retrieval import retrieve
from vgssl_core.inference import Embedder
from vgssl_core.inference.cpu import cpu_name
from vgssl_core.inference.threads import set_threads
from vgssl_core.places import read_place_set

if TYPE_CHECKING:
    from vgssl_core.geopair import TrainConfig


@dataclass(frozen=True)
class CellConfig:
    """Train and evaluate one cell whose plan was written; the process ends when its standard input does.

    Attributes:
        out: Folder of the benchmark.
        cell: Folder of the cell.
        threads: That it may use.
    """

    out: Path
    cell: Path
    threads: int


def run_cell(config: CellConfig) -> None:
    """Do what the plan says and write the result."""
    plan = read_plan(config.cell)
    if plan is None:
        raise ConfigError(f"{config.cell} holds no plan: cells are started by training.benchmark.")
    set_threads(config.threads)
    embedder, figures = _baseline(plan) if plan.is_baseline else _trained(plan, config)
    places = replace(read_place_set(plan.data, plan.split), name=f"{plan.place_set}/{plan.split}")
    metrics = retrieve(embedder, places, plan.radius_m, NS).metrics
    result = CellResult(
        plan,
        protocol=metrics.protocol,
        recall={n: round(value, 4) for n, value in metrics.recall.items()},
        queries=metrics.queries,
        queries_total=metrics.queries_total,
        database=metrics.database,
        machine=_machine(config.threads),
        **figures,
    )
    write_result(config.out, result)
    if not plan.is_baseline:
        _drop_state(config.cell / RUN)


def _end_with_parent() -> None:
    """A killed parent cannot stop its children, so they watch the pipe from it."""
    os.read(sys.stdin.fileno(), 1)  # not through the buffer, whose lock would hold up the end of the interpreter
    os._exit(1)


def _baseline(plan: CellPlan) -> tuple[Embedder, dict[str, Any]]:
    from vgssl_core.geopair.run_folder import versions
    from vgssl_core.models.untrained import untrained_embedder

    embedder = HogEmbedder()
    if plan.row == "untrained":
        embedder = untrained_embedder(None, Path(plan.train), "train", plan.seed)
    return embedder, {"versions": versions()}


def _trained(plan: CellPlan, config: CellConfig) -> tuple[Embedder, dict[str, Any]]:
    """The best network of the training, which goes on where a killed one stopped, and the training's figures."""
    import torch

    from vgssl_core.geopair import build_trainer, load_run
    from vgssl_core.models import best_device
    from vgssl_core.models.embedder import TorchEmbedder
    from vgssl_core.ssl.collapse import Health

    torch.set_num_threads(config.threads)
    run = config.cell / RUN
    settings = _settings(plan, config)
    trainer = build_trainer(settings)
    print(trainer.description())
    trainer.fit()
    progress, last = trainer.progress, _last_figures(run)
    network, preprocessing, manifest = load_run(run)
    batch_size = min(settings.batch_size, manifest["data"]["pairs"])
    queries = trainer.method.queries_per_step(batch_size)
    measured = (last.get("spread", 1.0), last.get("effective_rank", math.inf))  # nothing after no step
    health = Health(*measured, min(queries - 1, network.dimension))
    figures = {
        "checkpoint": _checkpoint(plan, manifest),
        "steps": progress.step,
        "queries_seen": progress.step * queries * settings.accumulate,
        "cpu_minutes": round(progress.cpu_s / 60, 3),
        "wall_minutes": round(progress.elapsed_s / 60, 3),
        "resumed": settings.resume,
        "last": last,
        "collapse": health.problem() or "",
        "versions": manifest["versions"],
    }
    return TorchEmbedder(network.to(best_device(settings.device)), preprocessing), figures


def _settings(plan: CellPlan, config: CellConfig) -> TrainConfig:
    """Of the plan, which holds all layers but where the run lies and what the machine offers."""
    from vgssl_core.geopair import with_options
    from vgssl_core.geopair.run_folder import RunFolder
    from vgssl_core.ssl.method import method_module

    run = config.cell / RUN
    own = {"data": plan.train, "out": str(run), "resume": RunFolder(run).exists, "workers": config.threads}
    options = method_module(str(plan.settings["method"])).Config
    return command_line.parse(
        with_options(options), [f"--config={json.dumps({**plan.settings, **own})}"], "vgssl train"
    )


def _checkpoint(plan: CellPlan, manifest: dict[str, Any]) -> str:
    """How the evaluated weights were chosen."""
    data = manifest["data"]
    if data["val"] is None:
        return "The last weights are evaluated: there is no validation split to choose a checkpoint on"
    evaluated = read_place_set(plan.data, plan.split)
    if (data["val"], data["val_name"]) == (str(evaluated.root), evaluated.name):
        return "The checkpoint with the best Recall@5 is evaluated, chosen on these same images"
    return f"The checkpoint with the best Recall@5 on {data['val_name']} is evaluated"


def _last_figures(run: Path) -> dict[str, float]:
    """Of the last epoch: loss terms, spread, speed."""
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left_out = ("epoch", "step", "elapsed_s", "cpu_s")
    return {key: float(value) for key, value in rows[-1].items() if value and key not in left_out and key[:2] != "R@"}


def _drop_state(run: Path) -> None:
    """Of a finished training only the best weights stay: the state to go on from is several times larger."""
    from vgssl_core.geopair.run_folder import BEST, LAST

    if (run / BEST).is_file():
        (run / LAST).unlink(missing_ok=True)


def _machine(threads: int) -> dict[str, str | int]:
    machine: dict[str, str | int] = {"cpu": cpu_name(), "cores": os.cpu_count() or 1, "threads": threads}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the cell's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return command_line.run(run_cell, CellConfig, arguments, "vgssl benchmark cell")


if __name__ == "__main__":
    sys.exit(main())
