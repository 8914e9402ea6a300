"""Generalised-mean pooling (Radenovic et al., 2019, https://arxiv.org/abs/1711.02512)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """(mean of x^p)^(1/p) over the positions, with a learnable p.

    Always in float32: x³ overflows float16 above 40.

    Attributes:
        dimension: Length of the pooled vector.
    """

    def __init__(self, channels: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.dimension = channels
        self.eps = eps
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C)."""
        return x.float().clamp_min(self.eps).pow(self.p).mean((-2, -1)).pow(1 / self.p)
