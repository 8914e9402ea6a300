"""Plain vision transformers (ViT, DeiT, DINOv2 and their kin), built for one input size.

The position embedding is resampled to the grid of patches once, when weights are loaded, so that neither a training
step nor an exported graph computes it.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.weights import pretrained_backbone


class VitBackbone(nn.Module):
    """Patch tokens as a map, and the class tokens, both after the last layer norm.

    Attributes:
        model: timm's transformer without its classifier and the blocks that are not used.
        class_tokens: T: 0, 1 (class token), or 2 (class and distillation token). Register tokens are left out.
        channels: C, length of a token.
    """

    def __init__(self, model: nn.Module, blocks: int) -> None:
        super().__init__()
        model.prune_intermediate_layers([blocks - 1])
        self.model = model
        self.channels = int(model.embed_dim)
        self.class_tokens = sum(getattr(model, name, None) is not None for name in ("cls_token", "dist_token"))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to [(B, T, C), (B, C, H / patch, W / patch)]; without class tokens the map alone."""
        last = [len(self.model.blocks) - 1]
        options = {"indices": last, "norm": True, "return_prefix_tokens": True, "intermediates_only": True}
        found = self.model.forward_intermediates(images, **options)[0]
        if not self.class_tokens:
            return [found[0] if isinstance(found, tuple) else found]
        feature_map, prefix = found
        return [prefix[:, : self.class_tokens], feature_map]

    def leading_blocks(self, count: int) -> tuple[list[nn.Module], list[nn.Parameter]]:
        """The modules of the first blocks and of what comes before them; and all parameters there.

        Raises:
            ConfigError: There are fewer blocks.
        """
        if count > len(self.model.blocks):
            raise ConfigError(f"--freeze {count}: the transformer has {len(self.model.blocks)} blocks.")
        stem = [module for name, module in self.model.named_children() if name not in ("blocks", "norm")]
        modules = [*stem, *self.model.blocks[:count]]
        inner = [parameter for module in modules for parameter in module.parameters()]
        return modules, [*self.model.parameters(recurse=False), *inner]


def patch_sides(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of a plain transformer's patches in pixels; None for any other network."""
    wanted = ("blocks", "num_prefix_tokens", "forward_intermediates", "prune_intermediate_layers")
    sides = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if sides is None or not all(hasattr(model, name) for name in wanted):
        return None
    return int(sides[0]), int(sides[1])


def build_vit(config: NetworkConfig, outline: nn.Module) -> VitBackbone:
    """The transformer for ``config``'s input size, cut after ``config.blocks``.

    Args:
        config: Of the network.
        outline: The same model, of which only the shape is looked at.

    Raises:
        ConfigError: See `vgssl_core.models.backbones.build_backbone`.
    """
    depth = len(outline.blocks)
    if config.stage != -1:
        raise ConfigError(f"--stage {config.stage} cuts CNNs: {config.backbone} is cut by --blocks.")
    if config.blocks > depth:
        raise ConfigError(f"--blocks {config.blocks}: {config.backbone} has {depth}.")
    options: dict[str, Any] = {}
    if config.width:
        _check_sides(config, *patch_sides(outline))
        options["img_size"] = (config.height, config.width)
    fetch = config.pretrained and config.weights is None
    model = pretrained_backbone(config.backbone, **options) if fetch else timm.create_model(config.backbone, **options)
    return VitBackbone(model, config.blocks or depth)


def _check_sides(config: NetworkConfig, patch_height: int, patch_width: int) -> None:
    if config.width % patch_width or config.height % patch_height:
        width = max(1, round(config.width / patch_width)) * patch_width
        height = max(1, round(config.height / patch_height)) * patch_height
        raise ConfigError(
            f"--width {config.width} --height {config.height}: {config.backbone} cuts images into patches of "
            f"{patch_width}x{patch_height}, give multiples of them, for example {width} and {height}."
        )
