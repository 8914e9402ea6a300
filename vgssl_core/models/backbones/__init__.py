"""Backbones from timm: a CNN's feature stage, or a vision transformer's patch tokens as a map.

A backbone takes (B, 3, H, W) normalised images and gives a list: last the (B, C, h, w) feature map; before it, where
the network has class tokens, these as (B, T, C).
"""

from __future__ import annotations

import difflib

import timm
import torch
from torch import nn

from vgssl_core.errors import ConfigError
from vgssl_core.models.backbones.cnn import build_cnn
from vgssl_core.models.backbones.vit import VitBackbone, build_vit, patch_sides
from vgssl_core.models.config import NetworkConfig

__all__ = ["VitBackbone", "build_backbone", "input_multiple"]

#: Sides of a CNN's input are rounded to this.
_CNN_MULTIPLE = 16


def build_backbone(config: NetworkConfig) -> nn.Module:
    """Make a backbone, with timm's published weights where ``config`` asks for them.

    Raises:
        ConfigError: Unknown model, a stage, number of blocks or input size that it has not, or published weights that
            cannot be had.
    """
    outline = _outline(config.backbone)
    return build_cnn(config) if patch_sides(outline) is None else build_vit(config, outline)


def input_multiple(backbone: str) -> int:
    """What both sides of the network's input should be a multiple of.

    Args:
        backbone: Name of a timm model.

    Raises:
        ConfigError: No such model.
    """
    sides = patch_sides(_outline(backbone))
    return _CNN_MULTIPLE if sides is None else max(sides)


def _outline(name: str) -> nn.Module:
    """A timm model without memory for its weights."""
    if not timm.is_model(name):
        similar = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise ConfigError(
            f"--backbone {name} is no timm model. " + (f"Similar: {similar}." if similar else "See timm.")
        )
    with torch.device("meta"):
        return timm.create_model(name)
