"""Figures of a running training: means of the loss terms, health of the descriptors, speed, waiting for data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vgssl_core.geopair.distributed import Processes
from vgssl_core.ssl.collapse import Health, health
from vgssl_core.ssl.method import LossTerms


class Figures:
    """Sums since the last look and since the last epoch's end, kept on the device.

    Attributes:
        health: Of the descriptors at the last look; None before it.
    """

    def __init__(self, processes: Processes) -> None:
        self.health: Health | None = None
        self._processes = processes
        self._recent: list[dict[str, Tensor]] = []
        self._descriptors: Tensor | None = None
        self._epoch: list[dict[str, float]] = []
        self._images, self._waited_s, self._since_s = 0, 0.0, time.monotonic()

    def add(self, outputs: Sequence[LossTerms], images: int) -> None:
        """Note the batches of one step and how many images they held."""
        self._recent += [{name: value.detach() for name, value in output.terms.items()} for output in outputs]
        self._descriptors = outputs[-1].descriptors
        self._images += images

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here counts as waiting for data."""
        began_s = time.monotonic()
        yield
        self._waited_s += time.monotonic() - began_s

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count: mining and validation are no training steps."""
        began_s = time.monotonic()
        yield
        self._since_s += time.monotonic() - began_s

    def look(self) -> dict[str, float]:
        """Means since the last look, over all processes; waits for the device. The same again when nothing came."""
        if not self._recent:
            return self._epoch[-1] if self._epoch else {"loss": 0.0}
        names = list(self._recent[0])
        table = torch.stack([torch.stack([row[name].double() for name in names]) for row in self._recent])
        terms = dict(zip(names, self._processes.mean(table.mean(dim=0)).tolist(), strict=True))
        seconds = max(1e-9, time.monotonic() - self._since_s)
        figures = {
            "loss": sum(terms.values()),
            **terms,
            **self._health(),
            "images_per_s": self._images * self._processes.count / seconds,
            "data_wait": self._waited_s / seconds,
        }
        self._epoch.append(figures)
        self._recent, self._images, self._waited_s, self._since_s = [], 0, 0.0, time.monotonic()
        return figures

    def epoch(self) -> dict[str, float]:
        """Means of all looks since the last call."""
        looks, self._epoch = self._epoch or [self.look()], []
        return {key: round(float(np.mean([look[key] for look in looks])), 5) for key in looks[0]}

    def _health(self) -> dict[str, float]:
        assert self._descriptors is not None
        self.health = health(self._descriptors.float())
        return {"spread": self.health.spread, "effective_rank": self.health.effective_rank}
