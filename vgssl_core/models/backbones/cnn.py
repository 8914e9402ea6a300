"""CNNs, and whatever else timm can cut into feature stages."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import Format
from torch import nn

from vgssl_core.errors import ConfigError
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.filling import flat
from vgssl_core.models.weights import pretrained_backbone


def build_cnn(config: NetworkConfig) -> nn.Module:
    """The feature extractor of timm, cut after ``config.stage``.

    Raises:
        ConfigError: See `vgssl_core.models.backbones.build_backbone`.
    """
    if config.blocks:
        raise ConfigError(f"--blocks {config.blocks} cuts vision transformers: {config.backbone} is cut by --stage.")
    options: dict[str, Any] = {"features_only": True, "out_indices": (config.stage,)}
    published = timm.get_pretrained_cfg(config.backbone)
    if config.width and published is not None and published.fixed_input_size:
        options["img_size"] = (config.height, config.width)
    try:
        if config.pretrained and config.weights is None:
            return pretrained_backbone(config.backbone, **options)
        return timm.create_model(config.backbone, **options)
    except (RuntimeError, AssertionError, IndexError, ValueError, AttributeError) as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise ConfigError(
            f"--backbone {config.backbone} has no feature stage {config.stage} ({reason}): choose another --stage "
            "or --backbone."
        ) from problem


def leading_stages(backbone: nn.Module, count: int, name: str) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """The modules and parameters of the first feature stages and of all that comes before them.

    Args:
        backbone: Of `build_cnn`.
        count: How many stages.
        name: Of the model, for messages.

    Returns:
        Modules that lie wholly there, and all parameters there.

    Raises:
        ConfigError: The backbone has fewer stages.
    """
    stages = [flat(stage["module"]) for stage in backbone.feature_info.info]
    used = stages[: backbone.feature_info.out_indices[-1] % len(stages) + 1]
    if count > len(used):
        raise ConfigError(f"--freeze {count}: {name} has {len(used)} feature stages up to the pooled one.")
    # Modules are defined in the order in which an image meets them, each before its own parts.
    names, modules = zip(*backbone.named_modules(), strict=True)
    inside = [i for i, key in enumerate(names) if f"{flat(key)}_".startswith(f"{used[count - 1]}_")]
    if not inside:
        raise ConfigError(f"--freeze {count}: {name} does not tell where its stages end, give --freeze 0.")
    leading = modules[: inside[-1] + 1]
    whole = [module for i, module in enumerate(leading) if i + sum(1 for _ in module.modules()) <= len(leading)]
    return whole, [parameter for module in leading for parameter in module.parameters(recurse=False)]


def channels_last(backbone: nn.Module) -> bool:
    """Whether the maps come as (B, h, w, C), as those of Swin and its like."""
    return getattr(backbone, "output_fmt", Format.NCHW) == Format.NHWC
