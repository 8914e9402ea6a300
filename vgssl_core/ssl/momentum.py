"""The moving average of a network and its projector (BYOL's target, MoCo's key encoder)."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vgssl_core.models import DescriptorNet
from vgssl_core.ssl.method import embed


class MomentumEncoder(nn.Module):
    """Copies of a network and of the method's projector whose parameters follow them, without gradient.

    Batch-norm statistics are not averaged: they are those of the images that this encoder sees itself.

    Attributes:
        network: Copy of the network.
        projector: Copy of the method's projector.
    """

    def __init__(self, network: DescriptorNet, projector: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.projector = copy.deepcopy(projector).requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E) embeddings, which are not normalised."""
        return embed(self.network, self.projector, images)[1]

    @torch.no_grad()
    def follow(self, network: DescriptorNet, projector: nn.Module, momentum: float) -> None:
        """Move each parameter to m · own + (1 − m) · trained.

        Args:
            network: Trained, of the same shape.
            projector: Trained, of the same shape.
            momentum: m, from 0 to 1.
        """
        trained = list(chain(network.parameters(), projector.parameters()))
        get_ema_multi_avg_fn(momentum)(list(self.parameters()), trained, None)
