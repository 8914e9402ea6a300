"""What a descriptor network is made of, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgssl_core.models.projector import ProjectorConfig


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture and initial weights of a descriptor network.

    Attributes:
        backbone: Name of a timm model.
        stage: Which of the backbone's feature stages to pool: -1 is the last one, -2 the one before (conv4).
        pooling: Module of `vgssl_core.models.poolings`.
        descriptor_dim: Length of the descriptor, D_g.
        pretrained: Start from timm's ImageNet weights (downloaded once).
        weights: Start from this local checkpoint instead (safetensors, or a torch state dict).
        projector: The embeddings of this projector are the descriptors, as in the first paper; None: it belongs to
            the method and is dropped after training, as in the second.
    """

    backbone: str = "resnet50"
    stage: int = -1
    pooling: str = "gem"
    descriptor_dim: int = 1024
    pretrained: bool = True
    weights: Path | None = None
    projector: ProjectorConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for manifests."""
        return {**asdict(self), "weights": None if self.weights is None else str(self.weights)}

    def architecture(self) -> dict[str, Any]:
        """`to_dict` without where the first weights came from: what decides the network's shape."""
        return {key: value for key, value in self.to_dict().items() if key not in ("pretrained", "weights")}

    @classmethod
    def from_architecture(cls, values: dict[str, Any]) -> NetworkConfig:
        """A network of that shape with random weights, to load a checkpoint into."""
        shape = {key: value for key, value in values.items() if key not in ("pretrained", "weights")}
        projector = shape.get("projector")
        shape["projector"] = None if projector is None else ProjectorConfig(**projector)
        return cls(**shape, pretrained=False, weights=None)
