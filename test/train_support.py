"""What the tests of training share: a tiny network and set, every method made small, and a look into runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_place_set

from training import train
from vgssl_core.geopair import TrainConfig
from vgssl_core.geopair.run_folder import load_checkpoint

#: Three epochs of three steps.
TINY = [
    *("--pretrained", "false", "--backbone", "test_resnet", "--descriptor_dim", "8", "--width", "32", "--height", "32"),
    *("--batch_size", "4", "--lr", "1e-3", "--epochs", "3", "--val_every", "1", "--workers", "1"),
    *("--pairs.refresh_queries", "8", "--queries_per_epoch", "0"),
]
_NARROW = ["--options.projector_dim", "12"]
_PREDICTOR = [*_NARROW, "--options.predictor_dim", "16"]
#: Every method with narrow layers. Hard negatives in two views halve the queries of a batch.
METHODS = {
    "mocov2": ["--method", "mocov2", "--options.queue_size", "8"],
    "triplet": ["--method", "triplet", "--options.negatives", "2"],
    "simclr": ["--method", "simclr", *_NARROW, "--batch_size", "8"],
    "byol": ["--method", "byol", *_PREDICTOR],
    "simsiam": ["--method", "simsiam", *_PREDICTOR],
    "barlow_twins": ["--method", "barlow_twins", *_NARROW, "--batch_size", "8"],
    "vicreg": ["--method", "vicreg", *_NARROW, "--batch_size", "8"],
    "multi_similarity": ["--method", "multi_similarity", "--options.positives_per_query", "1"],
}
MOCO, TRIPLET = METHODS["mocov2"], METHODS["triplet"]


def make_data(root: Path) -> Path:
    """A set with 12 pairs to train on and 5 queries to validate on."""
    make_place_set(root, count=14, queries=12, split="train")
    return make_place_set(root, count=6, queries=5, split="val")


def arguments(method: str, data: Path, *more: str) -> list[str]:
    """Command line of a tiny training; what stands later in it counts."""
    return [*TINY, *METHODS[method], "--data", str(data), *more]


def configuration(given: list[str]) -> TrainConfig:
    """The settings of a command line."""
    return train._configuration(given)[0]


def state(run: Path) -> dict[str, Any]:
    """A run's last checkpoint."""
    return load_checkpoint(run / "last.pt")


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through all containers."""
    if isinstance(a, torch.Tensor):
        alike = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_training(first: Path, second: Path) -> None:
    """Two runs ended with the same weights, optimiser, memory of the mining and random state, to the last bit."""
    a, b = state(first), state(second)
    assert a["progress"]["step"] == b["progress"]["step"]
    for part in ("method", "optimiser", "miner", "rng"):
        assert same(a[part], b[part]), part


def refused(given: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a training that must fail with one line, and leave no run behind."""
    assert train.main([*given, "--out", str(out)]) == 1
    assert not out.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def train_until_killed(given: list[str], step: int, number: signal.Signals = signal.SIGKILL) -> str:
    """Train in another process, which sends itself a signal after a step: no time is waited for.

    Returns:
        What it printed.
    """
    code = (
        "import os, signal, sys\n"
        "from training import train\n"
        "from vgssl_core.geopair.trainer import Trainer\n"
        "step = Trainer._step\n"
        "def killed(self, batches):\n"
        "    step(self, batches)\n"
        f"    if self.progress.step == {step}:\n"
        f"        os.kill(os.getpid(), {number:d})\n"
        "Trainer._step = killed\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job would ignore it
        "sys.exit(train.main(sys.argv[1:]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == (130 if number == signal.SIGINT else -number), done.stderr
    return done.stdout + done.stderr
