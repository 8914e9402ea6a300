"""What every self-supervised method is to the trainer.

A method is one module of this package that exposes ``Method`` (a subclass of `SslMethod`) and ``Config`` (a
dataclass of its own settings). It sees two views of a batch of pairs and returns named loss terms; it owns what is
special to it (momentum encoder, queue, predictor) and nothing else. Everything that it must keep over a restart is a
parameter or a buffer, so that the state dict holds it.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from vgssl_core import ssl
from vgssl_core.errors import ConfigError
from vgssl_core.models import DescriptorNet


@dataclass(frozen=True)
class PairBatch:
    """Two views of N places, normalised, on the network's device.

    Attributes:
        x: (N, 3, H, W) float32, the queries.
        y: (N, 3, H, W) float32, the positive of each query.
        negatives: (N, M, 3, H, W) float32 hard negatives of each query, or None where M is 0.
        negatives_y: (N, M, 3, H, W) float32 second views of the same negatives, for methods with two
            ``negative_views``: a method with hard negatives takes [x; negatives] and [y; negatives_y] as its two
            views. Else None.
    """

    x: Tensor
    y: Tensor
    negatives: Tensor | None = None
    negatives_y: Tensor | None = None


@dataclass(frozen=True)
class LossTerms:
    """What a method makes of a batch.

    Attributes:
        terms: Weighted parts of the loss by name, scalars; their sum is minimised.
        descriptors: (N, D) descriptors of the queries, without gradient, to watch for collapse.
    """

    terms: dict[str, Tensor]
    descriptors: Tensor

    @property
    def total(self) -> Tensor:
        """The loss."""
        return sum(self.terms.values(), start=self.descriptors.new_zeros(()))


@dataclass(frozen=True)
class TrainingScale:
    """How large a training is, for memories and checks.

    Attributes:
        pairs: Number of query-positive pairs in the training set.
        batch_size: Pairs per step.
    """

    pairs: int
    batch_size: int


class SslMethod(nn.Module, ABC):
    """Base of all methods.

    Attributes:
        network: The network that is trained and later exported.
        negatives_per_query: How many mined negatives each query of a batch must bring.
        negative_views: 1: a negative comes as it is; 2: in two views that are augmented independently.
    """

    negatives_per_query: int = 0
    negative_views: Literal[1, 2] = 1

    def __init__(self, network: DescriptorNet) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch."""

    def after_step(self) -> None:
        """Called after each step of the optimiser (momentum encoders move here)."""


def method_names() -> list[str]:
    """Every module of this package that is a method, sorted."""
    modules = (item.name for item in pkgutil.iter_modules(ssl.__path__))
    return sorted(name for name in modules if hasattr(importlib.import_module(f"{ssl.__name__}.{name}"), "Method"))


def method_module(name: str) -> Any:
    """The module of a method, with ``Method`` and ``Config``.

    Raises:
        ConfigError: No such method; the message lists those that exist.
    """
    names = method_names()
    if name not in names:
        raise ConfigError(f"--method {name} is unknown: choose one of {', '.join(names)}.")
    return importlib.import_module(f"{ssl.__name__}.{name}")
