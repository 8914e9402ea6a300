"""NetVLAD (Arandjelović et al., 2016, https://arxiv.org/abs/1511.07247)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from vgssl_core.errors import DataError
from vgssl_core.models.vectors import l2_normalised

#: How much more the nearest cluster than the second one should get of a descriptor at the start, on average.
_SHARPNESS = 100.0
#: First centres are looked for among this many descriptors per cluster; all of them then move the centres.
_SEEDS_PER_CLUSTER = 64


class Pooling(nn.Module):
    """Residuals to learned centres, summed with learned soft assignment: equation 4.

    V(k) = Σ_i a_k(x_i) (x_i − c_k), a = softmax(W x_i); each V(k) and then the whole is normalised.

    Attributes:
        dimension: Length of the pooled vector, clusters · channels, cluster by cluster.
        assignment: W, 1x1 convolution without bias, as the descriptors are unit vectors.
        centres: (K, C), c.
    """

    def __init__(self, channels: int, clusters: int = 64) -> None:
        """Take the shape; `initialise` should follow.

        Args:
            channels: C.
            clusters: K.
        """
        super().__init__()
        self.dimension = clusters * channels
        self.assignment = nn.Conv2d(channels, clusters, 1, bias=False)
        self.centres = nn.Parameter(l2_normalised(torch.randn(clusters, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, K C)."""
        x = x.float()
        shares = self.assignment(x).softmax(dim=1).flatten(2)  # (B, K, n)
        sums = shares @ x.flatten(2).transpose(1, 2)  # (B, K, C)
        residuals = sums - shares.sum(dim=2, keepdim=True) * self.centres
        return l2_normalised(l2_normalised(residuals, dim=2).flatten(1))

    @torch.no_grad()
    def initialise(self, local_descriptors: NDArray[np.float32], generator: np.random.Generator) -> None:
        """Centres by k-means; weights of the assignment so sharp that it is nearly the nearest centre's.

        The descriptors and the centres' directions are unit vectors, so that W = α c / |c| replaces the paper's
        W = 2α c and b = −α |c|². α makes the mean ratio between the first and the second share 100.

        Args:
            local_descriptors: (N, C) unit vectors.
            generator: Of the first centres.

        Raises:
            DataError: There are fewer descriptors than clusters.
        """
        clusters, channels = self.centres.shape
        if len(local_descriptors) < clusters:
            raise DataError(
                f"{len(local_descriptors)} local descriptors do not make {clusters} clusters: give more images, or a "
                "lower --pooling_options.clusters."
            )
        centres = torch.from_numpy(k_means(local_descriptors, clusters, generator))
        directions = l2_normalised(centres)
        first, second = (torch.from_numpy(local_descriptors) @ directions.T).topk(2).values.unbind(dim=1)
        alpha = math.log(_SHARPNESS) / float((first - second).mean().clamp_min(1e-6))
        self.centres.copy_(centres)
        self.assignment.weight.copy_((alpha * directions).view(clusters, channels, 1, 1))


def k_means(rows: NDArray[np.float32], clusters: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Centres of clusters: k-means++ on a share of the rows, then Lloyd's steps on all.

    Args:
        rows: (N, C).
        clusters: K, at most N.
        generator: Of the first centres.

    Returns:
        (K, C) float32.
    """
    share = generator.choice(rows, min(len(rows), _SEEDS_PER_CLUSTER * clusters), replace=False)
    first, _ = kmeans2(share, clusters, minit="++", seed=generator)
    return kmeans2(rows, first, minit="matrix", seed=generator)[0].astype(np.float32)
