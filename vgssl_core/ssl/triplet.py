"""The triplet baseline with mined negatives.

Arandjelović et al., 2016, https://arxiv.org/abs/1511.07247; Berton et al., 2022, https://arxiv.org/abs/2204.03444.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vgssl_core.models import DescriptorNet
from vgssl_core.ssl.method import LossTerms, MethodConfig, PairBatch, SslMethod, TrainingScale
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of the triplet loss.

    Attributes:
        margin: By how much a negative must be farther than the positive, as L2 distance of descriptors.
        negatives: Hard negatives per query.
    """

    margin: float = 0.1
    negatives: int = 10

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("margin", 0 <= self.margin < math.inf, "0 or more"),
            ("negatives", self.negatives >= 1, "at least 1"),
        )


@at_least_float32
def triplet_loss(queries: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Mean over queries and negatives of relu(‖q − p‖ − ‖q − n‖ + margin).

    Args:
        queries: (N, D).
        positives: (N, D).
        negatives: (N, M, D).
        margin: In units of the distance.

    Returns:
        Scalar.
    """
    near = torch.linalg.vector_norm(queries - positives, dim=-1)
    far = torch.linalg.vector_norm(queries[:, None] - negatives, dim=-1)
    return (near[:, None] - far + margin).relu().mean()


class Method(SslMethod):
    """Triplet loss over each query, its positive and its mined negatives, all through one encoder."""

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network)
        self.config = config
        self.negatives_per_query = config.negatives

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch.

        Raises:
            ValueError: The batch has no negatives.
        """
        if batch.negatives is None:
            raise ValueError("the triplet loss needs a batch with negatives")
        count, each = batch.negatives.shape[:2]
        descriptors = self.network(torch.cat([batch.x, batch.y, batch.negatives.flatten(0, 1)]))
        queries, positives, negatives = descriptors.split([count, count, count * each])
        loss = triplet_loss(queries, positives, negatives.unflatten(0, (count, each)), self.config.margin)
        return LossTerms({"triplet": loss}, queries.detach(), positives.detach())
