"""Maximum activation of convolutions (Tolias et al., 2016, https://arxiv.org/abs/1511.05879)."""

from __future__ import annotations

from torch import Tensor, nn


class Pooling(nn.Module):
    """The largest value of each channel.

    Attributes:
        dimension: Length of the pooled vector.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dimension = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C)."""
        return x.float().amax((-2, -1))
