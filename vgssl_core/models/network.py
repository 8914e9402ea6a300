"""The descriptor network: timm backbone → L2 over channels → pooling → head → L2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.models.backbones import VitBackbone, build_backbone
from vgssl_core.models.backbones.cnn import channels_last, leading_stages
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.heads import build_head
from vgssl_core.models.pooling import build_pooling, takes_tokens
from vgssl_core.models.projector import Projector
from vgssl_core.models.vectors import l2_normalised
from vgssl_core.models.weights import load_weights


class DescriptorNet(nn.Module):
    """Normalised images to unit descriptors.

    Attributes:
        config: What it was built from.
        backbone: (B, 3, H, W) to a list: the (B, C, h, w) feature map, and before it the class tokens, if any.
        pooling: (B, C, h, w), and where it takes them the class tokens, to (B, P).
        head: From P to ``encoded_dim``.
        projector: Where its embeddings are the descriptors; else None.
        encoded_dim: Length of what `encode` gives.
        dimension: Length of a descriptor.
        autocast_dtype: Compute the backbone in this type (bfloat16, float16); pooling, head and losses stay float32.
            None is float32 throughout.
        loaded: Names of the weights that ``config.weights`` brought.
    """

    autocast_dtype: torch.dtype | None = None
    loaded: tuple[str, ...] = ()

    def __init__(self, config: NetworkConfig, backbone: nn.Module) -> None:
        """Put a network of random weights on a backbone.

        Raises:
            ConfigError: A pooling, head or number of frozen stages that does not fit.
        """
        super().__init__()
        vit = isinstance(backbone, VitBackbone)
        channels = backbone.channels if vit else backbone.feature_info.channels()[-1]
        self.config = config
        self.backbone = backbone
        self._channels_last = not vit and channels_last(backbone)
        tokens = backbone.class_tokens if vit else 0
        self.pooling = build_pooling(config.pooling, config.pooling_options, channels, tokens)
        pooled_tokens = getattr(self.pooling, "pooled_tokens", 0)
        self.head = build_head(config.head, self.pooling.dimension, config.descriptor_dim, pooled_tokens)
        self.encoded_dim: int = self.pooling.dimension if config.head == "none" else config.descriptor_dim
        self.projector = None if config.projector is None else Projector(self.encoded_dim, config.projector)
        self.dimension = self.encoded_dim if self.projector is None else self.projector.output_dim
        self._frozen: tuple[str, ...] = ()
        if config.freeze:
            self._freeze(config.freeze)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to (B, dimension) float32 unit vectors, the descriptors."""
        encoded = self.encode(images)
        return encoded if self.projector is None else l2_normalised(self.projector(encoded))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to (B, encoded_dim) float32 unit vectors, a projector's input."""
        return l2_normalised(self.head(self._pooled(images)))

    def local_descriptors(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to the (B, C, h, w) float32 unit vectors that are pooled."""
        return self._features(images)[-1]

    def train(self, mode: bool = True) -> DescriptorNet:
        """Frozen parts stay in evaluation mode: their batch-norm statistics do not move either."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def _pooled(self, images: Tensor) -> Tensor:
        *tokens, feature_map = self._features(images)
        return self.pooling(feature_map, *tokens) if takes_tokens(self.pooling) else self.pooling(feature_map)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Class tokens, if any, and the map of unit vectors, float32."""
        if self.autocast_dtype is None:
            *tokens, feature_map = self.backbone(images)
        else:
            with torch.autocast(images.device.type, self.autocast_dtype):
                *tokens, feature_map = self.backbone(images)
        if self._channels_last:
            feature_map = feature_map.permute(0, 3, 1, 2)
        return [*(part.float() for part in tokens), l2_normalised(feature_map.float())]

    def _freeze(self, count: int) -> None:
        if isinstance(self.backbone, VitBackbone):
            modules, parameters = self.backbone.leading_blocks(count)
        else:
            modules, parameters = leading_stages(self.backbone, count, self.config.backbone)
        # Names, since synchronised batch norm takes the place of the modules.
        self._frozen = tuple(name for name, module in self.named_modules() if any(module is part for part in modules))
        for parameter in parameters:
            parameter.requires_grad_(False)
        self.train(self.training)


def build_network(config: NetworkConfig) -> DescriptorNet:
    """Make the network, with pre-trained weights where the configuration asks for them.

    Raises:
        ConfigError: A setting that no network of that backbone can have, pre-trained weights that cannot be had, or a
            checkpoint that does not fit.
    """
    config.check()
    network = DescriptorNet(config, build_backbone(config))
    if config.weights is not None:
        network.loaded = load_weights(network, config.weights).taken
    return network


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
