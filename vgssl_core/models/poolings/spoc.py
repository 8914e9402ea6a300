"""Sum pooling of convolutional features (Babenko and Lempitsky, 2015, https://arxiv.org/abs/1510.07493)."""

from __future__ import annotations

from torch import Tensor, nn


class Pooling(nn.Module):
    """The mean of each channel, which the normalisation after it makes the same as the sum.

    Attributes:
        dimension: Length of the pooled vector.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dimension = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C)."""
        return x.float().mean((-2, -1))
