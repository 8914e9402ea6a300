"""The real program under torchrun: two processes on the CPU train what one trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import SOAK
from train_support import METHODS, arguments, assert_same_training, make_data, state

from training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


#: The program, whose first process has torchrun pass Ctrl-C on to all after its fourth step, and waits for it.
INTERRUPTED = """
import os, signal, sys
from training import train
from vgssl_core.geopair.trainer import Trainer
step = Trainer._step
def interrupted(self, batches):
    step(self, batches)
    if self.progress.step == 4 and self._processes.first:
        os.kill(os.getppid(), signal.SIGINT)
        while not self.budget._asked:
            os.sched_yield()
Trainer._step = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(train.main())
"""


def train_by_two(
    given: list[str], program: Sequence[str] = ("-m", "training.train")
) -> subprocess.CompletedProcess[str]:
    """Run the program by torchrun with two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, *program, *given],
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


def test_an_interrupt_ends_all_processes_after_the_same_step(data: Path, tmp_path: Path) -> None:
    run, program = tmp_path / "run", tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    done = train_by_two([*arguments("triplet", data), "--out", str(run)], [str(program)])
    assert f"stopped at step 4, and saved: {run} (go on: torchrun" in done.stdout, done.stdout + done.stderr
    saved = state(run)["progress"]
    assert (saved["step"], saved["processes"]) == (4, 2) and "R@1" not in saved["rows"][-1]


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
