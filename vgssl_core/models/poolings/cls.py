"""The class token of a vision transformer; of a distilled one also its distillation token (DeiT)."""

from __future__ import annotations

from torch import Tensor, nn

from vgssl_core.errors import ConfigError


class Pooling(nn.Module):
    """The tokens that the transformer itself has gathered the image in, side by side; the map is not used.

    Attributes:
        dimension: Length of the pooled vector.
        pooled_tokens: T, of which a head may treat each by itself.
    """

    takes_tokens = True

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        if not tokens:
            raise ConfigError("--pooling cls needs a transformer with a class token: choose another one, such as gem.")
        self.dimension = channels * tokens
        self.pooled_tokens = tokens

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, h, w) and (B, T, C) to (B, T C)."""
        return tokens.float().flatten(1)
