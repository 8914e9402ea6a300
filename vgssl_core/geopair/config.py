"""Settings of a training, flat, with the method's own under ``options``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.augment import AugmentConfig
from vgssl_core.geopair.pairs import PairConfig
from vgssl_core.models.config import NetworkConfig

SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16", "auto")
_NOT_NEGATIVE = ("seed", "weight_decay", "warmup_steps", "queries_per_epoch", "max_minutes", "workers", "memory_mib")
#: Random generators take no larger seed.
_LARGEST = 2**63


@dataclass(frozen=True)
class TrainConfig:
    """Train a descriptor network on geotagged images.

    Attributes:
        method: Module of `vgssl_core.ssl`: mocov2, triplet, …
        data: Place set to train on (its train split, where it has splits).
        val: Place set for Recall@N during training (its val split, where it has splits); without it the val split
            of ``data``, and where there is none the last weights are taken.
        out: Run folder to write; default runs/METHOD-TIME.
        resume: Go on with the run in ``out`` where it stopped.
        seed: Of weights, order and augmentation.
        device: auto, cpu, cuda, cuda:1, …
        backbone: Name of a timm model.
        stage: Which of the backbone's feature stages to pool: -1 is the last one.
        pooling: Module of `vgssl_core.models.poolings`.
        descriptor_dim: Length of the descriptor, D_g.
        pretrained: Start from timm's ImageNet weights.
        weights: Start from this local checkpoint instead (safetensors, or a torch state dict).
        width, height: Network input in pixels; 0 takes the images' aspect with about ``pixels`` in all.
        pixels: Width times height where they are 0.
        precision: Of the backbone in training: fp32, bf16, or auto for bf16 where the hardware has it.
        batch_size: Pairs per step.
        lr: Step size of Adam.
        weight_decay: L2 penalty of Adam.
        schedule: constant, or cosine down to 0 at the end (of the epochs or of the minutes, whichever is nearer).
        warmup_steps: Steps over which the step size rises from 0.
        epochs: Passes over the training queries.
        queries_per_epoch: Queries of one pass; 0 takes all of them.
        val_every: Epochs between validations.
        max_minutes: End cleanly after this time, with a checkpoint and a validation; 0 sets no limit.
        workers: Threads that decode and augment; 0 takes one per core.
        memory_mib: Decoded images are kept in memory up to this size in all, those to train on first.
        recall_radius_m: A retrieved image within this distance of the query is right.
        pairs: How pairs are made.
        augment: How their images are varied.
    """

    method: str = "mocov2"
    data: Path | None = None
    val: Path | None = None
    out: Path | None = None
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    backbone: str = "resnet50"
    stage: int = -1
    pooling: str = "gem"
    descriptor_dim: int = 1024
    pretrained: bool = True
    weights: Path | None = None
    width: int = 640
    height: int = 480
    pixels: int = 8192
    precision: str = "fp32"
    batch_size: int = 64
    lr: float = 1e-5
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    epochs: int = 200
    queries_per_epoch: int = 10000
    val_every: int = 10
    max_minutes: float = 0.0
    workers: int = 0
    memory_mib: int = 2048
    recall_radius_m: float = 25.0
    pairs: PairConfig = field(default_factory=PairConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def network_config(self) -> NetworkConfig:
        """The part that shapes the network."""
        return NetworkConfig(
            self.backbone, self.stage, self.pooling, self.descriptor_dim, self.pretrained, self.weights
        )

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        for name in ("batch_size", "epochs", "val_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give at least 1.")
        for name in ("lr", "pixels", "recall_radius_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give a number above 0.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < _LARGEST:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give 0 or more.")
        if self.batch_size < 2:
            raise ConfigError("--batch_size is 1: batch norm needs at least 2 pairs.")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"--schedule is {self.schedule}: choose one of {', '.join(SCHEDULES)}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"--precision is {self.precision}: choose one of {', '.join(PRECISIONS)}.")
        if (self.width < 1) != (self.height < 1):
            raise ConfigError(f"--width {self.width} --height {self.height}: give both, or 0 for both.")
        self.augment.check()


def with_options(options: type) -> type[TrainConfig]:
    """`TrainConfig` with a method's own settings under ``options``."""
    entry = ("options", options, field(default_factory=options))
    combined = dataclasses.make_dataclass("MethodTrainConfig", [entry], bases=(TrainConfig,), frozen=True)
    combined.__doc__ = f"{TrainConfig.__doc__.rstrip()}\n        options: The method's own settings.\n    "
    return combined


def plain(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain values, for YAML."""

    def simple(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, dict):
            return {key: simple(item) for key, item in value.items()}
        return [simple(item) for item in value] if isinstance(value, (list, tuple)) else value

    return simple(dataclasses.asdict(config))
