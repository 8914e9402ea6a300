"""Forward and backward of each loss against lightly's, at the papers' batch and embedding sizes and larger ones.

Both run in turn in one process: ``python benchmarks/losses.py``. Prints median milliseconds of both, their ratio, and
by how much their answers differ, as a share of the value.

One definition differs: lightly's Barlow Twins divides the variance by N where VG-SSL's code takes N − 1, so that its C
is N / (N − 1) times ours; its constant beside the variance is 1e-5 and ours 1e-4. The answers compared there are the
redundancy terms after that factor, of embeddings so large that the constants vanish; the times are of the whole losses.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import lightly.loss
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vgssl_core.ssl.barlow_twins import Config as BarlowTwinsConfig
from vgssl_core.ssl.barlow_twins import barlow_twins_terms
from vgssl_core.ssl.mocov2 import moco_loss
from vgssl_core.ssl.prediction import prediction_loss
from vgssl_core.ssl.simclr import nt_xent
from vgssl_core.ssl.vicreg import Config as VicregConfig
from vgssl_core.ssl.vicreg import vicreg_terms

LEAST_ROUNDS, LEAST_S = 5, 3.0
TEMPERATURE = 0.07
REDUNDANCY_WEIGHT = BarlowTwinsConfig().redundancy_weight
QUEUE = 65536

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contest:
    """One loss in both libraries at one size.

    Attributes:
        name: Of the loss.
        rows, features: N and D of each view.
        ours, theirs: What is timed.
        answers: What is compared, where it is not what is timed.
    """

    name: str
    rows: int
    features: int
    ours: Loss
    theirs: Loss
    answers: tuple[Loss, Loss] | None = None

    def views(self) -> list[Tensor]:
        """Two correlated (N, D) float32 views that ask for a gradient."""
        generator = torch.Generator().manual_seed(0)
        x, noise = (torch.randn(self.rows, self.features, generator=generator) for _ in range(2))
        return [x.requires_grad_(), (x.detach() + 2 * noise).requires_grad_()]

    def difference(self) -> float:
        """Of the answers, as a share of the value."""
        views = self.views()
        own, other = (float(loss(*views).detach()) for loss in self.answers or (self.ours, self.theirs))
        return abs(own - other) / abs(other)


def contests() -> list[Contest]:
    """Every loss that lightly has, from the papers' batch of 64 pairs on."""
    found = [simclr(64, 1024), simclr(512, 1024)]
    found += [barlow_twins(64, 2048), barlow_twins(512, 2048)]
    found += [vicreg(64, 4096), vicreg(512, 4096)]
    return [*found, prediction(64, 4096), moco(64, 1024)]


def simclr(rows: int, features: int) -> Contest:
    theirs = lightly.loss.NTXentLoss(TEMPERATURE)
    return Contest("NT-Xent", rows, features, lambda x, y: nt_xent(x, y, TEMPERATURE), theirs)


def barlow_twins(rows: int, features: int) -> Contest:
    def redundancy(x: Tensor, y: Tensor) -> Tensor:
        return barlow_twins_terms(100 * x, 100 * y, 1.0)["redundancy"] * (rows / (rows - 1)) ** 2

    def their_redundancy(x: Tensor, y: Tensor) -> Tensor:
        both, invariance = (lightly.loss.BarlowTwinsLoss(weight)(100 * x, 100 * y) for weight in (1.0, 0.0))
        return both - invariance

    return Contest(
        "Barlow Twins",
        rows,
        features,
        lambda x, y: sum(barlow_twins_terms(x, y, REDUNDANCY_WEIGHT).values()),
        lightly.loss.BarlowTwinsLoss(REDUNDANCY_WEIGHT),
        (redundancy, their_redundancy),
    )


def vicreg(rows: int, features: int) -> Contest:
    config = VicregConfig()
    return Contest(
        "VICReg", rows, features, lambda x, y: sum(vicreg_terms(x, y, config).values()), lightly.loss.VICRegLoss()
    )


def prediction(rows: int, features: int) -> Contest:
    theirs = lightly.loss.NegativeCosineSimilarity()
    return Contest("BYOL, SimSiam", rows, features, prediction_loss, lambda p, t: 2 + 2 * theirs(p, t.detach()))


def moco(rows: int, features: int) -> Contest:
    """With the papers' queue, which lightly fills inside of its loss and we after the step, outside of ours."""
    theirs = lightly.loss.NTXentLoss(TEMPERATURE, memory_bank_size=(QUEUE, features))
    queue = theirs.memory_bank.bank.clone()

    def unit_loss(x: Tensor, y: Tensor) -> Tensor:
        return moco_loss(normalize(x, dim=1), normalize(y, dim=1).detach(), queue, TEMPERATURE)

    return Contest("MoCo v2", rows, features, unit_loss, lambda x, y: theirs(x, y.detach()))


def milliseconds(loss: Loss, views: list[Tensor]) -> float:
    """Of one forward and backward pass."""
    for view in views:
        view.grad = None
    begin = time.perf_counter()
    loss(*views).backward()
    return (time.perf_counter() - begin) * 1e3


def medians(contest: Contest) -> tuple[float, float]:
    """Milliseconds of ours and theirs, timed in turn."""
    views = contest.views()
    milliseconds(contest.ours, views), milliseconds(contest.theirs, views)  # the first pass allocates
    times, begin = [], time.perf_counter()
    while len(times) < LEAST_ROUNDS or time.perf_counter() - begin < LEAST_S:
        times.append((milliseconds(contest.ours, views), milliseconds(contest.theirs, views)))
    own, other = (statistics.median(column) for column in zip(*times, strict=True))
    return own, other


def main() -> None:
    """Measure both in turn at each size and print."""
    print(f"threads {torch.get_num_threads()}, median of passes forward and backward, float32")
    print(f"{'loss':14}{'N':>6}{'D':>6}{'ours ms':>10}{'lightly ms':>12}{'ratio':>8}{'difference':>12}")
    for contest in contests():
        difference, (own, other) = contest.difference(), medians(contest)
        size = f"{contest.rows:6}{contest.features:6}"
        print(f"{contest.name:14}{size}{own:10.2f}{other:12.2f}{other / own:8.2f}{difference:12.1e}", flush=True)


if __name__ == "__main__":
    main()
