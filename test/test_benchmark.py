"""The benchmark program: cells that survive kills, and a table that says what they say."""

from __future__ import annotations

import contextlib
import csv
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SOAK
from tiny import make_place_set, table_row

from training import benchmark, benchmark_cell
from training.benchmark import BenchmarkConfig
from training.benchmark_grid import Grid
from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.grid import read_results
from vgssl_core.geopair.trainer import Trainer

#: Three steps an epoch.
TINY = {
    **{"method": "mocov2", "pretrained": False, "backbone": "test_resnet", "stage": -1, "pooling": "gem"},
    **{"descriptor_dim": 8, "width": 32, "height": 32, "batch_size": 4, "lr": 1e-3, "val_every": 1, "warmup_steps": 0},
    **{"schedule": "constant", "precision": "fp32", "options": {"queue_size": 8, "queue_fraction": 0.0}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places") / "street"
    make_place_set(root, count=14, queries=12, split="train")
    return make_place_set(root, count=6, queries=5, split="val")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of settings: one that works, and one that is refused."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "broken.yaml").write_text(yaml.safe_dump({**TINY, "lr": -1.0}))
    return folder


@dataclass
class Cells:
    """Cells that were made in this process, in order; an import of torch apiece would take seconds."""

    made: list[str]

    def child(self, grid: Grid, folder: Path) -> int:
        """Stands for `Grid._child`."""
        self.made.append("/".join(folder.parts[-2:]))
        arguments = ["--out", str(grid.out), "--cell", str(folder), "--threads", "1"]
        with (
            open(folder / "log.txt", "a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            return command_line.run(benchmark_cell.run_cell, benchmark_cell.CellConfig, arguments, "cell")


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    made = Cells([])
    monkeypatch.setattr(Grid, "_child", lambda grid, folder: made.child(grid, folder))
    return made


def arguments(out: Path, data: Path, *configs: Path, seeds: int = 2, steps: int = 3) -> list[str]:
    given = ["--out", out, "--data", data, "--methods", "--configs", *configs, "--baselines", "--seeds", seeds]
    return [str(item) for item in [*given, "--steps", steps]]


def test_the_table_says_what_the_cells_say(
    data: Path, settings: Path, tmp_path: Path, cells: Cells, capsys: pytest.CaptureFixture[str]
) -> None:
    out, document = tmp_path / "grid", tmp_path / "benchmarks.md"
    document.write_text("# Ours\n<!-- benchmark:grid -->\nold\n<!-- /benchmark:grid -->\nend\n")
    given = arguments(out, data, settings / "tiny.yaml", settings / "broken.yaml")
    given += ["--baselines", "hog", "untrained", "--docs", str(document)]
    assert benchmark.main(given) == 0
    assert cells.made[:4] == ["hog/seed-0", "untrained/seed-0", "tiny/seed-0", "broken/seed-0"]
    assert len(cells.made) == 7
    table = (out / "table.md").read_text()
    recall = {result.plan.seed: result.recall[5] for result in read_results(out) if result.plan.row == "tiny"}
    assert list(recall) == [0, 1]
    expected = f"{statistics.fmean(recall.values()):.1f} ± {statistics.stdev(recall.values()):.1f}"
    assert table_row(table, "tiny")[2].strip("*") == expected
    assert table_row(table, "tiny")[5:7] == ["3 ± 0", "12 ± 0"] and table_row(table, "tiny")[-1] == "2"
    assert table_row(table, "hog")[5:] == ["–", "–", "–", "1"]
    assert table_row(table, "broken‡")[1:5] == ["–"] * 4
    assert "broken seed 1 failed and is left out: --lr is -1" in table
    assert (
        "positives within 25 m" in table
        and "chosen on these same images" in table
        and "retrieval on street/val:" in table
    )
    assert "Budget of a training (all rows): 3 steps" in table
    lines = list(csv.DictReader((out / "cells.csv").open()))
    assert [float(line["R@5"]) for line in lines if line["row"] == "tiny"] == [*recall.values()]
    assert all(line["torch"] and line["cpu"] for line in lines if not line["failure"])
    assert (out / "figure.svg").stat().st_size and (out / "figure.png").stat().st_size
    assert document.read_text() == f"# Ours\n<!-- benchmark:grid -->\n{table}\n<!-- /benchmark:grid -->\nend\n"
    assert "[7/7] " in capsys.readouterr().out


def test_only_what_is_wanted_is_made_again(data: Path, settings: Path, tmp_path: Path, cells: Cells) -> None:
    given = arguments(tmp_path, data, settings / "tiny.yaml", settings / "broken.yaml", seeds=1)
    assert benchmark.main(given) == 0
    cells.made.clear()
    assert benchmark.main(given) == 0 and not cells.made
    assert benchmark.main([*given, "--report_only"]) == 0 and not cells.made
    assert benchmark.main([*given, "--retry"]) == 0 and cells.made == ["broken/seed-0"]
    cells.made.clear()
    more = arguments(tmp_path, data, settings / "tiny.yaml", seeds=2)
    assert benchmark.main(more) == 0 and cells.made == ["tiny/seed-1"]


def test_cells_of_other_settings_are_refused_or_redone(
    data: Path, tmp_path: Path, cells: Cells, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--out", str(tmp_path), "--data", str(data), "--methods", "--baselines", "hog", "--radius_m"]
    assert benchmark.main([*given, "25"]) == 0
    assert benchmark.main([*given, "40"]) == 1
    assert "hog · street · seed 0: radius_m was 25.0 and is now 40.0" in capsys.readouterr().err
    assert benchmark.main([*given, "40", "--redo"]) == 0
    (result,) = read_results(tmp_path)
    assert result.plan.radius_m == 40.0 and "within 40 m" in result.protocol


def test_a_training_that_was_killed_goes_on_to_the_same_result(
    data: Path, settings: Path, tmp_path: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    for out in ("straight", "killed"):
        given = arguments(tmp_path / out, data, settings / "tiny.yaml", seeds=1, steps=7)
        if out == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "_step", stopping_at(5))
                with pytest.raises(MemoryError):
                    benchmark.main(given)
            assert not read_results(tmp_path / out)
        assert benchmark.main(given) == 0
    straight, killed = (read_results(tmp_path / out)[0] for out in ("straight", "killed"))
    assert killed.resumed and not straight.resumed
    assert (killed.steps, killed.recall) == (straight.steps, straight.recall) == (7, straight.recall)
    assert killed.last["spread"] == straight.last["spread"]


def stopping_at(last: int) -> Any:
    """A step of the trainer after which nothing is caught or saved any more."""
    step = Trainer._step

    def stop(self: Trainer, *batches: Any) -> None:
        step(self, *batches)
        if self.progress.step == last:
            raise MemoryError

    return stop


@contextlib.contextmanager
def running(given: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "training.benchmark", *given]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def processes_of(out: Path) -> list[str]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(out) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(entry.name)
    return found


def wait_until(true: Any) -> None:
    end_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT] if SOAK else [signal.SIGKILL])
def test_a_killed_grid_takes_its_cells_with_it_and_goes_on_with_the_others(
    data: Path, settings: Path, tmp_path: Path, ending: signal.Signals, cells: Cells
) -> None:
    given = arguments(tmp_path, data, settings / "tiny.yaml")
    folders = [tmp_path / "cells" / "street" / "tiny" / f"seed-{seed}" for seed in (0, 1)]
    finished = [folder / "result.yaml" for folder in folders]
    # Two at once, because each then has one thread: several would wait for each other on a busy machine.
    with running([*given, "--jobs", "2"]) as grid:
        wait_until(lambda: any(map(Path.is_file, finished)) or grid.poll() is not None)
        grid.send_signal(ending)
        grid.wait()
    assert grid.returncode == (130 if ending == signal.SIGINT else -ending)
    wait_until(lambda: not processes_of(tmp_path))
    written = {path: path.read_bytes() for path in finished if path.is_file()}
    assert written and not any(result.failure for result in read_results(tmp_path))
    assert benchmark.main(given) == 0
    assert cells.made == [f"tiny/{path.parent.name}" for path in finished if path not in written]
    assert all(path.read_bytes() == content for path, content in written.items())
    assert [(result.steps, result.failure) for result in read_results(tmp_path)] == [(3, ""), (3, "")]


def test_a_second_grid_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    with benchmark.only_grid(tmp_path), pytest.raises(ConfigError, match="another benchmark is running"):
        benchmark.benchmark(BenchmarkConfig(tmp_path, [str(data)], methods=[]))


def test_a_town_is_rendered_once_and_its_test_streets_are_evaluated(
    tmp_path: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []

    def render(folder: Path, seed: int) -> Path:
        rendered.append(seed)
        for split, count in (("train", 6), ("val", 5), ("test", 4)):
            make_place_set(folder, count=count, split=split)
        return folder

    monkeypatch.setattr("vgssl_core.town.writer.render_town", render)
    config = BenchmarkConfig(tmp_path, ["town:7"], methods=[], baselines=["hog"])
    benchmark.benchmark(config)
    benchmark.benchmark(config)
    (result,) = read_results(tmp_path)
    assert rendered == [7] and cells.made == ["hog/seed-0"]
    assert (result.plan.place_set, result.plan.split, result.database) == ("town-7", "test", 4)
    assert "single-frame retrieval on town-7/test" in result.protocol


def test_folders_that_hold_a_train_and_a_val_set_are_a_set(tmp_path: Path, cells: Cells) -> None:
    for name, count in (("train", 6), ("val", 4)):
        make_place_set(tmp_path / "ours" / name, count=count)
    benchmark.benchmark(BenchmarkConfig(tmp_path / "out", [str(tmp_path / "ours")], methods=[], baselines=["hog"]))
    (result,) = read_results(tmp_path / "out")
    assert (result.plan.place_set, result.database) == ("ours", 4)
    assert "retrieval on ours/val:" in result.protocol
    assert result.plan.train == str(tmp_path / "ours" / "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": []}, "names no place set"),
        ({"methods": ["levitation"]}, "--method levitation is unknown"),
        ({"methods": ["mocov2", "mocov2"]}, "Two rows are called mocov2"),
        ({"baselines": ["sift"]}, "--baselines sift is unknown"),
        ({"steps": 5, "minutes": 1.0}, "give one budget"),
        ({"cpu_minutes": -1.0}, "--cpu_minutes is -1"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"data": ["town:centre"]}, "the seed of the town as a number"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(
    data: Path, tmp_path: Path, cells: Cells, changes: dict[str, Any], message: str
) -> None:
    config = replace(BenchmarkConfig(tmp_path, [str(data)], methods=["mocov2"]), **changes)
    with pytest.raises(ConfigError, match=message):
        benchmark.benchmark(config)
    assert not cells.made


def test_sets_without_a_part_to_train_on_are_refused(tiny_places: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        benchmark.benchmark(BenchmarkConfig(tmp_path, [str(tiny_places)], methods=[]))


def test_a_file_of_settings_without_a_method_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr: 1.0e-3\n")
    with pytest.raises(ConfigError, match="does not name its method"):
        benchmark.benchmark(BenchmarkConfig(tmp_path, [str(data)], methods=[], configs=[tmp_path / "own.yaml"]))


def test_settings_lie_in_layers_under_the_budget(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("method: mocov2\noptions:\n  queue_size: 99\nepochs: 2\n")
    config = BenchmarkConfig(tmp_path, [str(data)], methods=["mocov2"], configs=[tmp_path / "own.yaml"], baselines=[])
    plans = benchmark._plans(config, benchmark._rows(config), benchmark._sets(config))
    assert [plan.row for plan in plans] == ["mocov2", "own"] * 3
    method, own = plans[:2]
    assert method.settings["backbone"] == "resnet10t" and own.settings["options"]["queue_size"] == 99
    assert {**own.settings["options"], "queue_size": 0} == {**method.settings["options"], "queue_size": 0}
    assert own.settings["epochs"] > 1000 and own.settings["max_cpu_minutes"] == 5.0
    papers = replace(config, settings="paper", minutes=7.0)
    plan = benchmark._plans(papers, benchmark._rows(papers), benchmark._sets(papers))[0]
    assert plan.settings["backbone"] == "resnet50"
    assert (plan.settings["max_minutes"], plan.settings["max_cpu_minutes"]) == (7.0, 0.0)
