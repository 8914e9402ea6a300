"""SALAD, aggregation by optimal transport (Izquierdo and Civera, 2024, https://arxiv.org/abs/2311.15937)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vgssl_core.models.vectors import l2_normalised

_HIDDEN, _DROPOUT = 512, 0.3


class Pooling(nn.Module):
    """Reduced features, gathered in clusters by a transport plan with a dustbin, beside a global token.

    Made for the normalised tokens of DINOv2, where it reads the class token. The unit vectors of the map are scaled to
    the size of such tokens, and without a class token the mean of the map stands for it.

    Attributes:
        dimension: Length of the pooled vector, token_dim + clusters · cluster_dim.
        dustbin: Score of the dustbin, learned.
    """

    takes_tokens = True

    def __init__(
        self,
        channels: int,
        tokens: int,
        clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        iterations: int = 3,
    ) -> None:
        """Take the shape.

        Args:
            channels: C.
            tokens: T, of which the first is used.
            clusters: m.
            cluster_dim: l, length of a feature in a cluster.
            token_dim: Length of the global token.
            iterations: Of Sinkhorn's algorithm.
        """
        super().__init__()
        self.dimension = token_dim + clusters * cluster_dim
        self.iterations = iterations
        self._scale = math.sqrt(channels)
        self.token = nn.Sequential(nn.Linear(channels, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, token_dim))
        self.features = _pointwise(channels, cluster_dim)
        self.scores = _pointwise(channels, clusters)
        self.dustbin = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(B, C, h, w) and, of a transformer, (B, T, C) to (B, dimension)."""
        x = x.float() * self._scale
        token = self.token(x.mean((-2, -1)) if tokens is None else tokens[:, 0].float())
        plan = transport_plan(self.scores(x).flatten(2), self.dustbin, self.iterations)  # (B, m, n)
        gathered = plan @ self.features(x).flatten(2).transpose(1, 2)  # (B, m, l)
        return torch.cat([l2_normalised(token), l2_normalised(gathered, dim=2).flatten(1)], dim=1)


def _pointwise(channels: int, output: int) -> nn.Sequential:
    """The same two layers at every position."""
    return nn.Sequential(
        nn.Conv2d(channels, _HIDDEN, 1), nn.Dropout(_DROPOUT), nn.ReLU(), nn.Conv2d(_HIDDEN, output, 1)
    )


def transport_plan(scores: Tensor, dustbin: Tensor, iterations: int) -> Tensor:
    """Which share of each position goes to which cluster, by Sinkhorn's algorithm on logarithms (section 3.2).

    Every position has mass 1, every cluster takes 1, the dustbin takes what is left. On a map of no more positions than
    clusters, which the paper does not have, the dustbin takes half of the mass and the clusters share the rest.

    Args:
        scores: (B, m, n) of n positions for m clusters.
        dustbin: Scalar score of every position for the dustbin.
        iterations: Of the algorithm.

    Returns:
        (B, m, n); with the dustbin's row, which is left out, each column has the sum 1.
    """
    batch, clusters, positions = scores.shape
    left = positions - clusters if positions > clusters else positions / 2
    masses = [(positions - left) / clusters] * clusters + [left]
    row_masses = torch.tensor(masses, device=scores.device).log()[:, None]  # (m + 1, 1)
    kernel = torch.cat([scores, dustbin.expand(batch, 1, positions)], dim=1)
    columns = torch.zeros_like(kernel[:, :1])
    for _ in range(iterations):
        rows = row_masses - (kernel + columns).logsumexp(dim=2, keepdim=True)
        columns = -(kernel + rows).logsumexp(dim=1, keepdim=True)
    return (kernel + rows + columns).exp()[:, :-1]
