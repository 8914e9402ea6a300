"""Projector and predictor: the small networks between descriptors and a self-supervised loss (VG-SSL, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn


@dataclass(frozen=True)
class ProjectorConfig:
    """Shape of a projector.

    Attributes:
        layers: L, its linear layers; 0 is no projector.
        dim: D_p, length of its hidden layers and of its output.
        batch_norm: Linear without bias, batch norm, ReLU in each hidden layer (BYOL, SimSiam, Barlow Twins, VICReg);
            otherwise Linear, ReLU (SimCLR, MoCo v2). The output is never normalised.
        last_bias: Whether the last layer has a bias.
    """

    layers: int
    dim: int
    batch_norm: bool = False
    last_bias: bool = True


class Projector(nn.Sequential):
    """(B, D) descriptors to (B, output_dim) embeddings; the identity where ``layers`` is 0.

    Attributes:
        output_dim: Length of an embedding.
    """

    def __init__(self, input_dim: int, config: ProjectorConfig) -> None:
        widths = [input_dim, *[config.dim] * config.layers]
        parts: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            last = number == config.layers
            parts.append(nn.Linear(before, after, bias=config.last_bias if last else not config.batch_norm))
            if not last:
                parts += [nn.BatchNorm1d(after)] if config.batch_norm else []
                parts.append(nn.ReLU())
        super().__init__(*parts)
        self.output_dim = widths[-1]


class Predictor(nn.Module):
    """Linear, batch norm, ReLU, Linear (BYOL, SimSiam): from one view's embedding to the other's.

    Args:
        dim: Length of an embedding.
        hidden_dim: Width of the hidden layer.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, dim) to (B, dim)."""
        return self.layers(embeddings)
