"""Pairs of images of one place, which must not count as negatives of each other."""

from __future__ import annotations

import torch
from torch import Tensor


def same_place(a_m: Tensor, b_m: Tensor, radius_m: float) -> Tensor:
    """Which images of one set were taken within a radius of which images of another.

    Args:
        a_m: (A, 2) float64 positions in metres; planar UTM needs all of float64.
        b_m: (B, 2) float64 positions in the same plane.
        radius_m: Largest distance, itself included.

    Returns:
        (A, B) bool.
    """
    # The faster way by |a|² + |b|² − 2ab would lose metres at UTM's northings.
    return torch.cdist(a_m, b_m, compute_mode="donot_use_mm_for_euclid_dist") <= radius_m
