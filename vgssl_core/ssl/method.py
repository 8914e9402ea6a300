"""What every self-supervised method is to the trainer.

A method is one module of this package that exposes ``Method`` (a subclass of `SslMethod`) and ``Config`` (a
`MethodConfig` dataclass of its own settings). It sees two views of a batch of pairs and returns named loss terms; it
owns what is special to it (projector, momentum encoder, queue, predictor) and nothing else. Everything that it must
keep over a restart is a parameter or a buffer, so that the state dict holds it.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vgssl_core import ssl
from vgssl_core.errors import ConfigError
from vgssl_core.models import DescriptorNet, Projector, ProjectorConfig, l2_normalised


@dataclass(frozen=True)
class PairBatch:
    """Two views of N places, normalised, on the network's device.

    Attributes:
        x: (N, 3, H, W) float32, the queries.
        y: (N, 3, H, W) float32, the positive of each query.
        negatives: (N, M, 3, H, W) float32 hard negatives of each query, or None where M is 0.
        negatives_y: (N, M, 3, H, W) float32 second views of the same negatives, for methods with two
            ``negative_views``. Else None.
        positives: (N, K, 3, H, W) float32 further positives of each query, or None where K is 0.
        positions_m: (N, 2) float64 where each query was taken, given only when false negatives are to be left out.
        negative_positions_m: (N, M, 2) float64 where each negative was taken; given with ``positions_m``.
        same_place_m: With ``positions_m``: two images within this distance are no negatives of each other.
    """

    x: Tensor
    y: Tensor
    negatives: Tensor | None = None
    negatives_y: Tensor | None = None
    positives: Tensor | None = None
    positions_m: Tensor | None = None
    negative_positions_m: Tensor | None = None
    same_place_m: float = 0.0


@dataclass(frozen=True)
class Views:
    """The two views that a loss compares, row by row.

    Attributes:
        x, y: (B, 3, H, W): [queries; negatives] and [positives; second views of the negatives], the concatenated form
            of VG-SSL; B = N (1 + M).
        positions_m: (B, 2) float64 where each row was taken, or None.
    """

    x: Tensor
    y: Tensor
    positions_m: Tensor | None


@dataclass(frozen=True)
class LossTerms:
    """What a method makes of a batch.

    Attributes:
        terms: Weighted parts of the loss by name, scalars; their sum is minimised.
        descriptors: (N, D) descriptors of the queries, without gradient, to watch for collapse and to reuse.
        positive_descriptors: (N, D) descriptors of their positives by the trained network, without gradient; None
            where the method has none (MoCo v2 sends positives through its momentum encoder only).
    """

    terms: dict[str, Tensor]
    descriptors: Tensor
    positive_descriptors: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The loss."""
        return sum(self.terms.values(), start=self.descriptors.new_zeros(()))


@dataclass(frozen=True)
class TrainingScale:
    """How large a training is, for memories and checks.

    Attributes:
        pairs: Number of query-positive pairs in the training set.
        batch_size: Pairs per step over all processes, as asked for: a batch has at most ``pairs`` queries. A hard
            negative and its second view are a pair too.
    """

    pairs: int
    batch_size: int


@dataclass(frozen=True)
class MethodConfig:
    """Base of every method's ``Config``."""

    def projector(self) -> ProjectorConfig | None:
        """Shape of the method's projector; None where it has none."""
        return None


class SslMethod(nn.Module, ABC):
    """Base of all methods.

    Attributes:
        network: The network that is trained and later exported.
        projector: From descriptors to embeddings; the identity where the network has a projector of its own.
        embedding_dim: Length of an embedding.
        negatives_per_query: How many mined negatives each query of a batch must bring.
        negative_views: 1: a negative is varied as positives are; 2: it comes in two views that are augmented
            independently, and counts as a pair of the batch.
        positives_per_query: How many positives each query of a batch must bring.
        compares_places: Whether images of a batch are each other's negatives, so that those of one place can be left
            out by their positions.
    """

    negatives_per_query: int = 0
    negative_views: Literal[1, 2] = 1
    positives_per_query: int = 1
    compares_places: bool = False

    def __init__(self, network: DescriptorNet, projector: ProjectorConfig | None = None) -> None:
        """Take the network.

        Args:
            network: Its own projector, where it has one, replaces the method's.
            projector: Of the method; None is none.
        """
        super().__init__()
        self.network = network
        wanted = ProjectorConfig(0, 0) if projector is None or network.projector is not None else projector
        self.projector = Projector(network.dimension, wanted)
        self.embedding_dim = self.projector.output_dim

    @abstractmethod
    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch."""

    def after_step(self) -> None:
        """Called after each step of the optimiser (momentum encoders move here)."""

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to (B, D) descriptors without gradient and (B, E) embeddings, which are not normalised."""
        return embed(self.network, self.projector, images)

    def queries_per_step(self, batch_size: int) -> int:
        """Queries in a batch of so many pairs: negatives in two views are pairs of it, others are not counted."""
        return batch_size // (1 + self.negatives_per_query) if self.negative_views == 2 else batch_size


def embed(network: DescriptorNet, projector: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors without gradient, and embeddings through the network's own projector or else the method's.

    Args:
        network: Trained, or its moving average.
        projector: The method's, or its moving average.
        images: (B, 3, H, W).

    Returns:
        (B, D) unit vectors, (B, E) embeddings that are not normalised.
    """
    encoded = network.encode(images)
    if network.projector is not None:
        embeddings = network.projector(encoded)
        return l2_normalised(embeddings.detach()), embeddings
    return encoded.detach(), projector(encoded)


def two_views(batch: PairBatch) -> Views:
    """The concatenated form: hard negatives with their second views follow the queries with their positives."""
    if batch.negatives is None:
        return Views(batch.x, batch.y, batch.positions_m)
    if batch.negatives_y is None:
        raise ValueError("negatives need a second view here")
    x = torch.cat([batch.x, batch.negatives.flatten(0, 1)])
    y = torch.cat([batch.y, batch.negatives_y.flatten(0, 1)])
    if batch.positions_m is None or batch.negative_positions_m is None:
        return Views(x, y, None)
    return Views(x, y, torch.cat([batch.positions_m, batch.negative_positions_m.flatten(0, 1)]))


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
