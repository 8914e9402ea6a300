"""The descriptor network: timm backbone → L2 over channels → pooling → Linear → L2."""

from __future__ import annotations

import importlib
import pkgutil

import timm
import torch
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.models import poolings
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.projector import Projector
from vgssl_core.models.weights import load_weights, pretrained_backbone


def l2_normalised(x: Tensor) -> Tensor:
    """Unit vectors along dimension 1, written so that the exported graph stays plain."""
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


class DescriptorNet(nn.Module):
    """Normalised images to unit descriptors.

    Attributes:
        config: What it was built from.
        backbone: (B, 3, H, W) to a list with one (B, C, h, w) feature map.
        pooling: (B, C, h, w) to (B, P).
        head: Linear from P to ``descriptor_dim``.
        projector: Where its embeddings are the descriptors; else None.
        dimension: Length of a descriptor.
        mixed_precision: Compute the backbone in bfloat16 while training; pooling, head and losses stay float32.
    """

    mixed_precision = False

    def __init__(self, config: NetworkConfig, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.pooling = _pooling_module(config.pooling)(channels)
        self.head = nn.Linear(self.pooling.dimension, config.descriptor_dim)
        self.projector = None if config.projector is None else Projector(config.descriptor_dim, config.projector)
        self.dimension = config.descriptor_dim if self.projector is None else self.projector.output_dim

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to (B, dimension) float32 unit vectors, the descriptors."""
        encoded = self.encode(images)
        return encoded if self.projector is None else l2_normalised(self.projector(encoded))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to (B, descriptor_dim) float32 unit vectors, a projector's input."""
        return l2_normalised(self.head(self.pooling(l2_normalised(self._features(images)))))

    def _features(self, images: Tensor) -> Tensor:
        """(B, C, h, w) float32."""
        if not (self.mixed_precision and self.training):
            return self.backbone(images)[-1]
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.backbone(images)[-1].float()


def build_network(config: NetworkConfig) -> DescriptorNet:
    """Make the network, with pre-trained weights where the configuration asks for them.

    Raises:
        ConfigError: Unknown backbone or pooling, a stage that the backbone has not, pre-trained weights that
            cannot be had, or a checkpoint that does not fit.
    """
    if config.descriptor_dim < 1:
        raise ConfigError(f"descriptor_dim is {config.descriptor_dim}: give a positive number.")
    backbone = _build_backbone(config)
    network = DescriptorNet(config, backbone, backbone.feature_info.channels()[-1])
    if config.weights is not None:
        load_weights(network, config.weights)
    return network


def _build_backbone(config: NetworkConfig) -> nn.Module:
    if not timm.is_model(config.backbone):
        similar = ", ".join(timm.list_models(f"*{config.backbone[:6]}*")[:8])
        raise ConfigError(
            f"--backbone {config.backbone} is no timm model. " + (f"Similar: {similar}." if similar else "See timm.")
        )
    try:
        if config.pretrained and config.weights is None:
            return pretrained_backbone(config.backbone, config.stage)
        return timm.create_model(config.backbone, features_only=True, out_indices=(config.stage,))
    except (RuntimeError, AssertionError, IndexError, ValueError, AttributeError) as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise ConfigError(
            f"--backbone {config.backbone} has no feature stage {config.stage} ({reason}): choose another --stage "
            "or --backbone."
        ) from problem


def _pooling_module(name: str) -> type[nn.Module]:
    known = sorted(module.name for module in pkgutil.iter_modules(poolings.__path__))
    if name not in known:
        raise ConfigError(f"--pooling {name} is unknown: choose one of {', '.join(known)}.")
    return importlib.import_module(f"{poolings.__name__}.{name}").Pooling


def best_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where it works, else the CPU.

    Raises:
        ConfigError: A device that this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"--device {name} is not usable here: try --device auto or cpu.") from problem
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
