"""Descriptor networks (torch): timm backbone, pooling, compact output; their weights; the torch embedder."""

from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.embedder import TorchEmbedder, model_id, normalise_images
from vgssl_core.models.network import DescriptorNet, best_device, build_network, computes_bfloat16
from vgssl_core.models.projector import Predictor, Projector, ProjectorConfig
from vgssl_core.models.statistics import estimate_batch_norm, untrained_network
from vgssl_core.models.vectors import l2_normalised

__all__ = [
    "DescriptorNet",
    "NetworkConfig",
    "Predictor",
    "Projector",
    "ProjectorConfig",
    "TorchEmbedder",
    "best_device",
    "build_network",
    "computes_bfloat16",
    "estimate_batch_norm",
    "l2_normalised",
    "model_id",
    "normalise_images",
    "untrained_network",
]
