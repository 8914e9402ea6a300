"""What our training costs over a plain torch loop: same network, loss and batch, in one process, in turn.

``python benchmarks/train_overhead.py --data DIR``: the plain loop takes ready batches from memory. The trainer
normalises, logs and watches the loss; once it takes the same ready pixels, which shows what its step costs, and once it
makes its batches as in a training, which adds reading, crops, flips and colours in threads. They make rounds of as many
steps in turn. Prints images per second and how much slower ours is, in percent, at the small settings' own
size and at larger ones.
"""

from __future__ import annotations

import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from training.train import _configuration as configuration
from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.geopair import build_trainer
from vgssl_core.geopair.batches import PixelBatch
from vgssl_core.geopair.pairs import PairList
from vgssl_core.geopair.trainer import Trainer
from vgssl_core.ssl.method import PairBatch

#: Steps at the beginning of a round of ours that do not count: batches wait that were made before.
_UNCOUNTED = 4
#: Batches that the plain loop goes round.
_READY = 16
OWN_SIZE = "own"


@dataclass(frozen=True)
class Config:
    """Compare the trainer with a plain torch loop.

    Attributes:
        data: Place set.
        method: Whose small settings are taken.
        device: auto, cpu or cuda.
        batch_size: Pairs per step.
        sizes: Inputs of the network as WIDTHxHEIGHT in pixels; own is that of the small settings.
        steps: Of one round.
        rounds: Of each.
    """

    data: Path
    method: str = "mocov2"
    device: str = "auto"
    batch_size: int = 32
    sizes: list[str] = field(default_factory=lambda: [OWN_SIZE, "128x64", "256x128"])
    steps: int = 12
    rounds: int = 8


@dataclass(frozen=True)
class Cost:
    """Of one step.

    Attributes:
        wall_s: By the clock.
        cpu_s: Of all threads of the process.
    """

    wall_s: float
    cpu_s: float


class Ours:
    """The trainer, step after step, with all that its loop does between two steps; on ready pixels where given."""

    def __init__(self, trainer: Trainer, ready: Sequence[PixelBatch] = ()) -> None:
        self.trainer, self._step, self._ready = trainer, trainer._step, itertools.cycle(ready) if ready else None
        self._marks: list[tuple[float, float]] = []
        trainer._step = self._marked_step  # type: ignore[method-assign]

    def round(self, steps: int) -> Cost:
        """Train on for some steps; the first ones, which start the loader's threads, do not count."""
        self._marks.clear()
        self.trainer.budget.steps = self.trainer.progress.step + steps
        self.trainer.fit()
        (wall, cpu), (wall_end, cpu_end) = self._marks[_UNCOUNTED], self._marks[-1]
        counted = steps - 1 - _UNCOUNTED
        return Cost((wall_end - wall) / counted, (cpu_end - cpu) / counted)

    def _marked_step(self, source: Iterator[PixelBatch]) -> None:
        self._step(self._ready or source)
        self._marks.append((time.perf_counter(), time.process_time()))


class PlainLoop:
    """The shortest loop that trains a method, on batches that are ready in memory."""

    def __init__(self, trainer: Trainer, batches: Sequence[PairBatch]) -> None:
        self._method, self._batches = trainer.method.train(), itertools.cycle(batches)
        trained = [parameter for parameter in self._method.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(trained, lr=trainer.config.lr)

    def round(self, steps: int) -> Cost:
        """Train on for some steps."""
        began, began_cpu = time.perf_counter(), time.process_time()
        for batch in itertools.islice(self._batches, steps):
            self._optimiser.zero_grad(set_to_none=True)
            self._method(batch).total.backward()
            self._optimiser.step()
            self._method.after_step()
        return Cost((time.perf_counter() - began) / steps, (time.process_time() - began_cpu) / steps)


def trainer_for(config: Config, size: str, folder: Path) -> Trainer:
    """A trainer with the method's small settings, that never validates."""
    width, cross, height = size.partition("x")
    if size != OWN_SIZE and not (cross and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--sizes {size}: give WIDTHxHEIGHT in pixels, or {OWN_SIZE}.")
    given = [
        *("--config", f"small/{config.method}.yaml", "--data", str(config.data), "--out", str(folder)),
        *("--epochs", "1000000", "--batch_size", str(config.batch_size), "--val_every", "1000000"),
        *("--device", config.device, *([] if size == OWN_SIZE else ["--width", width, "--height", height])),
    ]
    trainer = build_trainer(configuration(given)[0])
    trainer._validation = None
    return trainer


def ready_pixels(trainer: Trainer, pairs: PairList) -> list[PixelBatch]:
    """One epoch's batches as the trainer makes them, at most `_READY`."""
    return list(itertools.islice(trainer._data.batches(pairs, 0, 0, 0), _READY))


def compare(config: Config) -> None:
    """Compare at every size."""
    logging.disable(logging.WARNING)
    for size in config.sizes:
        compare_at(size, config)


def compare_at(size: str, config: Config) -> None:
    """Measure all in turn and print."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer_for(config, size, Path(folder) / name) for name in ("plain", "ready", "own")]
        other, data = trainers[0], trainers[0]._data
        pairs = other._make_pairs(data.chunks(0)[0])
        pixels = ready_pixels(other, pairs)
        plain = PlainLoop(other, [data.on_device(batch, pairs, other._device) for batch in pixels])
        ours = {"on ready batches": Ours(trainers[1], pixels), "making its batches": Ours(trainers[2])}
        plain.round(_UNCOUNTED), [one.round(_UNCOUNTED + 3) for one in ours.values()]  # the first steps allocate
        costs = [
            (plain.round(config.steps), *(one.round(config.steps) for one in ours.values()))
            for _ in range(config.rounds)
        ]
    images = pixels[0].images
    given = f"{data.preprocessing.width}x{data.preprocessing.height}"
    print(f"{config.method}, {other.config.backbone} at {given} on {other._device}, {images} images per step, ", end="")
    print(f"{torch.get_num_threads()} threads, medians of {config.rounds} rounds of {config.steps} steps")
    for unit in ("wall", "cpu"):
        plain_s, *ours_s = np.array([[getattr(cost, f"{unit}_s") for cost in row] for row in costs]).T
        print(f"images/s by {unit} time: plain torch loop {images / np.median(plain_s):.1f}")
        for name, seconds in zip(ours, ours_s, strict=True):
            overhead = 100 * (np.median(seconds / plain_s) - 1)
            print(f"    trainer {name} {images / np.median(seconds):.1f}, overhead {overhead:.1f} %")


if __name__ == "__main__":
    sys.exit(run(compare, Config, None, "train_overhead"))
