"""Heads: from the pooled vector to the descriptor before its last normalisation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vgssl_core.errors import DataError
from vgssl_core.models.vectors import l2_normalised

HeadName = Literal["linear", "none", "pca"]
#: A PCA is fitted on at most this many descriptors (VG-SSL, 2023).
PCA_SAMPLES = 2**14
#: Components below this share of the largest variance are noise of float32, which whitening would blow up.
_SMALLEST_VARIANCE = 1e-7


class TwoTokenHead(nn.Module):
    """(head(cls) + head_dist(dist)) / 2 on the two tokens of a distilled transformer (Touvron et al., 2021, DeiT)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, dim)
        self.head_dist = nn.Linear(channels, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 2 C), class token and distillation token side by side, to (B, dim)."""
        class_token, distillation_token = tokens.chunk(2, dim=1)
        return (self.head(class_token) + self.head_dist(distillation_token)) / 2


class PcaHead(nn.Linear):
    """Whitening projection of the unit vector: its rows are principal axes over their standard deviation."""

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, P) to (B, dim)."""
        return super().forward(l2_normalised(pooled))


def build_head(name: HeadName, pooled_dim: int, dim: int, tokens: int) -> nn.Module:
    """A head with random weights.

    Args:
        name: Which one.
        pooled_dim: Length of a pooled vector, P.
        dim: Length of the head's output; not used by none.
        tokens: How many class tokens the pooled vector is made of, 0 where it comes from a map.
    """
    if name == "none":
        return nn.Identity()
    if name == "pca":
        return PcaHead(pooled_dim, dim)
    return TwoTokenHead(pooled_dim // 2, dim) if tokens == 2 else nn.Linear(pooled_dim, dim)


def fitted_pca_head(descriptors: Tensor, dim: int) -> PcaHead:
    """PCA with whitening (Jégou and Chum, 2012), by the smaller of covariance and Gram matrix.

    Args:
        descriptors: (N, P) float32 unit vectors, on any device; of more than `PCA_SAMPLES` an even share is taken.
        dim: Components to keep.

    Returns:
        The head, on the device of ``descriptors``, without gradient.

    Raises:
        DataError: The descriptors do not span that many dimensions.
    """
    if len(descriptors) > PCA_SAMPLES:
        descriptors = descriptors[torch.linspace(0, len(descriptors) - 1, PCA_SAMPLES).long()]
    mean = descriptors.mean(dim=0)
    centred = descriptors - mean
    small = len(centred) < centred.shape[1]
    gram = centred @ centred.T if small else centred.T @ centred
    squares, axes = torch.linalg.eigh(gram.double())  # ascending
    squares, axes = squares.flip(0)[:dim], axes.flip(1)[:, :dim].float()
    spanned = int((squares > _SMALLEST_VARIANCE * squares[0]).sum())
    if spanned < dim or not squares[0] > 0:
        raise DataError(
            f"{len(centred)} descriptors of length {centred.shape[1]} span {spanned} dimensions, not the {dim} asked "
            "for: give more images, or a lower --descriptor_dim."
        )
    deviations = (squares / (len(centred) - 1)).sqrt().float()
    if small:  # from axes of the Gram matrix to those of the covariance
        axes = centred.T @ axes / squares.sqrt().float()
    with torch.no_grad():
        head = PcaHead(centred.shape[1], dim, device=descriptors.device)
        head.weight.copy_((axes / deviations).T)
        head.bias.copy_(-head.weight @ mean)
    return head.requires_grad_(False)
