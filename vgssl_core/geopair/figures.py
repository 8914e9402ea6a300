"""Figures of a running training: means of the loss terms, speed, spread of the descriptors."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from vgssl_core.ssl.method import LossTerms


class Figures:
    """Sums since the last look and since the last epoch's end, kept on the device."""

    def __init__(self) -> None:
        self.data_s = 0.0
        self._recent: list[dict[str, Tensor]] = []
        self._epoch: list[dict[str, float]] = []
        self._images = 0
        self._since_s = time.monotonic()

    def add(self, output: LossTerms, images: int) -> None:
        """Note one step."""
        spread = output.descriptors.float().var(dim=0).sum().sqrt()
        self._recent.append({**{k: v.detach() for k, v in output.terms.items()}, "spread": spread})
        self._images += images

    def look(self) -> dict[str, float]:
        """Means since the last look; the same again when nothing came since."""
        if not self._recent:
            return self._epoch[-1] if self._epoch else {"loss": 0.0, "spread": 1.0, "images_per_s": 0.0}
        means = {k: torch.stack([item[k] for item in self._recent]).mean().item() for k in self._recent[0]}
        seconds = max(1e-9, time.monotonic() - self._since_s)
        figures = {
            "loss": sum(value for key, value in means.items() if key != "spread"),
            **means,
            "images_per_s": self._images / seconds,
            "data_wait": self.data_s / seconds,
        }
        self._epoch.append(figures)
        self._recent, self._images, self.data_s, self._since_s = [], 0, 0.0, time.monotonic()
        return figures

    def epoch(self) -> dict[str, float]:
        """Means of all looks since the last call."""
        looks, self._epoch = self._epoch or [self.look()], []
        self._since_s = time.monotonic()
        return {key: round(float(np.mean([look[key] for look in looks])), 5) for key in looks[0]}
