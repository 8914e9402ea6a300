"""What a descriptor network is made of, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from vgssl_core.errors import ConfigError
from vgssl_core.models.heads import HeadName
from vgssl_core.models.projector import ProjectorConfig

#: Settings that decide where weights come from and which of them move, not what the network computes.
_NO_ARCHITECTURE = ("pretrained", "weights", "freeze")


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture and initial weights of a descriptor network.

    Attributes:
        backbone: Name of a timm model: a CNN (resnet50, convnext_tiny, …) or a vision transformer
            (deit_small_distilled_patch16_224, vit_small_patch14_dinov2, …).
        stage: Of a CNN: which of its feature stages to pool: -1 is the last one, -2 the one before (conv4).
        blocks: Of a vision transformer: how many of its blocks to keep; 0 keeps all.
        freeze: How many leading stages (of timm's counting, as ``stage`` from 0: a ResNet's stem is the first) or
            blocks are not trained, with everything before them; 0 trains all.
        width: Of the network's input in pixels: a vision transformer is built for it; 0, with ``height``, takes the
            size that timm names for the model. A CNN takes any size.
        height: Of the network's input in pixels, or 0.
        pooling: Module of `vgssl_core.models.poolings`: gem, netvlad, cls, …
        pooling_options: The pooling's own settings by name, such as clusters.
        head: linear: a trained layer to ``descriptor_dim``; none: the pooled vector is the descriptor; pca: a
            whitening projection to ``descriptor_dim``, fitted after a training with none.
        descriptor_dim: Length of the descriptor, D_g, where there is a head.
        pretrained: Start from timm's ImageNet weights (downloaded once).
        weights: Start from this local checkpoint instead (safetensors, or a torch state dict).
        projector: The embeddings of this projector are the descriptors, as in the first paper; None: it belongs to
            the method and is dropped after training, as in the second.
    """

    backbone: str = "resnet50"
    stage: int = -1
    blocks: int = 0
    freeze: int = 0
    width: int = 0
    height: int = 0
    pooling: str = "gem"
    pooling_options: dict[str, int | float] = field(default_factory=dict)
    head: HeadName = "linear"
    descriptor_dim: int = 1024
    pretrained: bool = True
    weights: Path | None = None
    projector: ProjectorConfig | None = None

    def check(self) -> None:
        """Refuse values that no network can have.

        Raises:
            ConfigError: Naming the setting.
        """
        if self.descriptor_dim < 1:
            raise ConfigError(f"--descriptor_dim is {self.descriptor_dim}: give a positive number.")
        for name in ("blocks", "freeze", "width", "height"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give 0 or more.")
        if (self.width == 0) != (self.height == 0):
            raise ConfigError(f"--width {self.width} --height {self.height}: give both, or 0 for both.")
        if self.head not in get_args(HeadName):
            raise ConfigError(f"--head {self.head} is unknown: choose one of {', '.join(get_args(HeadName))}.")
        if self.head == "pca" and self.projector is not None:
            raise ConfigError("--head pca compacts pooled vectors: it does not go with a projector, use --head none.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for manifests."""
        return {**asdict(self), "weights": None if self.weights is None else str(self.weights)}

    def architecture(self) -> dict[str, Any]:
        """`to_dict` without where the first weights came from: what decides the network's shape."""
        return {key: value for key, value in self.to_dict().items() if key not in _NO_ARCHITECTURE}

    @classmethod
    def from_architecture(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """A network of that shape with random weights, to load a checkpoint into.

        Args:
            values: Of `architecture` or `to_dict`; settings that an older version did not know take their defaults.

        Raises:
            ConfigError: Settings that this version does not know.
        """
        shape = {key: value for key, value in values.items() if key not in _NO_ARCHITECTURE}
        unknown = sorted(shape.keys() - {item.name for item in fields(cls)})
        if unknown:
            raise ConfigError(
                f"The architecture has {', '.join(unknown)}, which this version does not know: it is of a newer "
                "version, or of another program's network."
            )
        projector = shape.get("projector")
        shape["projector"] = None if projector is None else ProjectorConfig(**projector)
        return cls(**shape, pretrained=False)
