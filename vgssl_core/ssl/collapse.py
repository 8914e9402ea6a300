"""When a network has collapsed: its descriptors no longer tell images apart.

Two ways are told apart. *Point collapse*: all images get nearly one descriptor, so the spread falls below
`LEAST_SPREAD`. *Dimensional collapse* (Jing et al., 2022, https://arxiv.org/abs/2110.09348): descriptors still differ,
but only along few directions, so the effective rank falls below `least_rank`. Descriptors must come from different
places, as those of the queries of a batch do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Spread below which descriptors are one point; random networks begin near 0.3, trained ones reach 0.7 to 1.
LEAST_SPREAD = 0.05
#: Effective rank, as a share of the largest possible one, below which descriptors use too few directions; networks that
#: recognise places have 0.7 and more of it on batches of 32.
LEAST_RANK_SHARE = 0.2


@dataclass(frozen=True)
class Health:
    """How far descriptors tell images apart.

    Attributes:
        spread: See `spread`.
        effective_rank: See `effective_rank`.
        largest_rank: What the effective rank could be at most.
    """

    spread: float
    effective_rank: float
    largest_rank: int

    def problem(self) -> str | None:
        """What has happened to a collapsed network, with the figures; None for a healthy one."""
        if self.spread < LEAST_SPREAD:
            return f"all descriptors are nearly one point: their spread is {self.spread:.4f} (1 fills the sphere)"
        if self.effective_rank < least_rank(self.largest_rank):
            return (
                f"descriptors differ along few directions: their effective rank is {self.effective_rank:.1f} of "
                f"{self.largest_rank}"
            )
        return None


def health(descriptors: Tensor) -> Health:
    """Both figures of (N, D) descriptors, NaN where these are not finite; waits for the device."""
    largest = min(len(descriptors) - 1, descriptors.shape[1])
    if not descriptors.isfinite().all():
        return Health(math.nan, math.nan, largest)
    return Health(float(spread(descriptors)), float(effective_rank(descriptors)), largest)


def spread(descriptors: Tensor) -> Tensor:
    """Standard deviation over images, all dimensions together: the root of their summed variance.

    Args:
        descriptors: (N, D) unit vectors.

    Returns:
        Scalar: 0 where all are equal, 1 where their mean is the origin. Times 1/√D it is the mean standard
        deviation of one dimension that SimSiam (2020, section 4.1) watches.
    """
    return descriptors.var(dim=0, correction=0).sum().sqrt()


def effective_rank(descriptors: Tensor) -> Tensor:
    """Directions along which descriptors differ: exp of the entropy of the normalised singular values.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, of the centred descriptors, so that what all have in common
    is no direction.

    Args:
        descriptors: (N, D).

    Returns:
        Scalar from 1 to min(N − 1, D).
    """
    values = torch.linalg.svdvals((descriptors - descriptors.mean(dim=0)).float())
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def least_rank(largest: int) -> float:
    """Effective rank that a healthy network does not fall below, of a largest possible one."""
    return 1 + LEAST_RANK_SHARE * (largest - 1)
