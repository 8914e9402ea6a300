"""The real program under torchrun: two processes on the CPU train what one trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SOAK
from train_support import METHODS, arguments, assert_same_training, make_data, state

from training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


def train_by_two(given: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the program by torchrun with two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, "-m", "training.train", *given],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=Path(__file__).parents[1],
        check=False,
    )


@pytest.mark.parametrize(
    ("method", "more"),
    [(name, []) for name in METHODS]
    if SOAK
    else [("vicreg", ["--accumulate", "2", "--pairs.reuse_steps", "4", "--freeze", "1"])],
)
def test_two_processes_train_what_one_trains(data: Path, tmp_path: Path, method: str, more: list[str]) -> None:
    given = arguments(method, data, "--max_steps", "3", *more)
    assert train.main([*given, "--out", str(tmp_path / "one")]) == 0
    done = train_by_two([*given, "--out", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: ") == 1 and "2 processes" in done.stdout
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one["progress"]["step"] == two["progress"]["step"] == 3
    assert one["progress"]["best"] == two["progress"]["best"]
    assert two["progress"]["rows"][0]["loss"] == pytest.approx(one["progress"]["rows"][0]["loss"], rel=1e-3)
    counts = [name for name in one["method"] if name.endswith(".num_batches_tracked")]
    assert counts and all(torch.equal(one["method"][name], two["method"][name]) for name in counts)
    # Adam moves a weight by the step size of 1e-3 even where its gradient is only rounding: a few differ by that.
    floats = [
        name for name, value in one["method"].items() if name.startswith("network.") and value.is_floating_point()
    ]
    differences = torch.cat([(two["method"][name] - one["method"][name]).abs().flatten() for name in floats])
    assert float(differences.mean()) < 3e-5 and float((differences > 1e-4).float().mean()) < 0.01


def test_an_error_in_one_process_ends_all_with_one_message(data: Path, tmp_path: Path) -> None:
    given = arguments("triplet", data, "--out", str(tmp_path / "run"), "--options.negatives", "14")
    done = train_by_two(given)
    assert done.returncode != 0
    assert done.stderr.count("negatives are wanted") == done.stderr.count("error: ") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not SOAK, reason="three runs of torchrun for each method: make soak")
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_go_on_to_the_same_bits(data: Path, tmp_path: Path, method: str) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    given = arguments(method, data, "--augment.jitter", "0.2", "--epochs", "2")
    for more in (["--out", str(straight)], ["--out", str(stopped), "--max_steps", "4"]):
        done = train_by_two([*given, *more])
        assert done.returncode == 0, done.stderr
    done = train_by_two(["--resume", "--out", str(stopped), "--max_steps", "0"])
    assert done.returncode == 0 and "go on" not in done.stderr, done.stderr
    assert state(stopped)["progress"]["processes"] == 2
    assert_same_training(straight, stopped)
