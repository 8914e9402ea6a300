"""Settings of a training, flat, with the method's own under ``options``."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.augment import AugmentConfig
from vgssl_core.geopair.pairs import PairConfig
from vgssl_core.models.config import NetworkConfig

SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_AT_LEAST_ONE = ("batch_size", "accumulate", "epochs", "val_every")
_POSITIVE = ("lr", "pixels", "recall_radius_m")
_NOT_NEGATIVE = (
    *("seed", "overfit", "weight_decay", "warmup_steps", "queries_per_epoch", "early_stop"),
    *("max_steps", "max_minutes", "max_cpu_minutes", "workers", "memory_mib", "cache_mib"),
)
#: Random generators take no larger seed.
_LARGEST = 2**63


@dataclass(frozen=True)
class RunConfig:
    """What is trained on what.

    Attributes:
        method: Module of `vgssl_core.ssl`: simclr, mocov2, byol, simsiam, barlow_twins, vicreg, triplet,
            multi_similarity, or one's own.
        data: Place set or bag to train on (its train split, where it has splits). One without queries, a robot's own
            streets, makes its pairs within its database.
        val: Place set for Recall@N during training (its val split, where it has splits); without it the val split
            of ``data``, and where there is none the last weights are taken.
        out: Run folder to write; default runs/METHOD-TIME.
        resume: Go on with the run in ``out`` where it stopped.
        init: Start from the weights of this run, bundle or checkpoint, with a new optimiser. A run of the same method
            brings its projector and predictor too, where their shapes agree; queues and moving averages begin anew.
        seed: Of weights, order and augmentation.
        device: auto, cpu, cuda, cuda:1, …; under torchrun each process takes its own.
        overfit: Train and validate on this many pairs only: a loss that does not fall on them has a fault; 0 is off.
        profile: Measure some steps with torch's profiler, write the table and the trace to the run folder, and end.
    """

    method: str = "mocov2"
    data: Path | None = None
    val: Path | None = None
    out: Path | None = None
    resume: bool = False
    init: Path | None = None
    seed: int = 0
    device: str = "auto"
    overfit: int = 0
    profile: bool = False


@dataclass(frozen=True)
class OptimiserConfig:
    """How a step is made.

    Attributes:
        precision: Of the backbone in training and mining: fp32, bf16, fp16 (with scaled gradients), or auto for bf16
            where the hardware has it. Validation is always in fp32.
        batch_size: Pairs per batch, over all processes; a hard negative in two views is a pair too.
        accumulate: Batches whose mean gradient makes one step.
        sync_batch_norm: Under torchrun, normalise over the batches of all processes.
        lr: Step size of Adam.
        weight_decay: L2 penalty of Adam.
        schedule: constant, or cosine down to 0 at the end (of the epochs, the steps or the time, whichever is
            nearer).
        warmup_steps: Steps over which the step size rises from 0.
    """

    precision: str = "fp32"
    batch_size: int = 64
    accumulate: int = 1
    sync_batch_norm: bool = True
    lr: float = 1e-5
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0


@dataclass(frozen=True)
class BudgetConfig:
    """How long is trained.

    Attributes:
        epochs: Passes over the training queries.
        queries_per_epoch: Queries of one pass; 0 takes all of them.
        val_every: Epochs between validations.
        early_stop: End after this many validations without a better Recall@5; 0 is off.
        max_steps: End cleanly after so many steps; 0 sets no limit.
        max_minutes: End cleanly after this time, with a checkpoint and a validation; 0 sets no limit.
        max_cpu_minutes: The same in the process's CPU time, which other programs of the machine do not change.
    """

    epochs: int = 200
    queries_per_epoch: int = 10000
    val_every: int = 10
    early_stop: int = 0
    max_steps: int = 0
    max_minutes: float = 0.0
    max_cpu_minutes: float = 0.0


@dataclass(frozen=True)
class TrainConfig(BudgetConfig, OptimiserConfig, NetworkConfig, RunConfig):
    """Train a descriptor network on geotagged images.

    Attributes:
        projected: The embeddings of the method's projector are the descriptors, as in the first paper; otherwise the
            projector is dropped after training.
        projector: Part of the network; ``projected`` sets it.
        width: Of the network's input in pixels; 0, with ``height``, takes the images' aspect.
        height: Of the network's input in pixels, or 0.
        pixels: About width times height, where these are 0.
        workers: Threads that decode and augment; 0 takes one per core.
        reduced_decoding: Decode large JPEGs of the training set at a half, a quarter or an eighth of their size, which
            is faster and gives nearly the same pixels. Validation always decodes in full.
        memory_mib: Keep as many decoded images in memory as fit this size in all, those to train on first. An image
            that neither the memory nor the cache has room for is decoded whenever a batch, mining or validation
            uses it, so several times in an epoch.
        cache_dir: Keep decoded images in this folder, so that a later training reads no JPEG.
        cache_mib: Size that the folder stays within; what it has no room for goes to the memory.
        recall_radius_m: A retrieved image within this distance of the query is right.
        pairs: How pairs are made.
        augment: How their images are varied.
    """

    projected: bool = False
    width: int = 640
    height: int = 480
    pixels: int = 8192
    workers: int = 0
    reduced_decoding: bool = False
    memory_mib: int = 2048
    cache_dir: Path | None = None
    cache_mib: int = 20000
    recall_radius_m: float = 25.0
    pairs: PairConfig = field(default_factory=PairConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def network_config(self) -> NetworkConfig:
        """The part that shapes the network.

        Raises:
            ConfigError: ``projected`` with a method that has no projector.
        """
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(NetworkConfig)}
        if self.init is not None:
            values["pretrained"] = False
        if self.projected:
            values["projector"] = self.options.projector()  # type: ignore[attr-defined]
            if values["projector"] is None or not values["projector"].layers:
                remedy = "" if values["projector"] is None else "give it layers with --options.projector_layers, or "
                raise ConfigError(
                    f"--projected true: method {self.method} has no projector: {remedy}set --projected false."
                )
        return NetworkConfig(**values)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        super().check()
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give at least 1.")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give a number above 0.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < _LARGEST:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give 0 or more.")
        if self.batch_size < 2:
            raise ConfigError("--batch_size is 1: batch norm needs at least 2 pairs.")
        if self.overfit == 1:
            raise ConfigError("--overfit is 1: batch norm needs at least 2 pairs.")
        for name, choices in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"--{name} is {getattr(self, name)}: choose one of {', '.join(choices)}.")
        if self.head == "pca":
            raise ConfigError(
                "--head pca is fitted after a training: train with --head none, then export with --pca LENGTH."
            )
        if self.init is not None and self.weights is not None:
            raise ConfigError(f"--init {self.init} --weights {self.weights}: give one of them.")
        if self.pairs.reuse_steps and self.augment.swap:
            raise ConfigError("pairs.reuse_steps needs --augment.swap 0: queries and positives must not change places.")
        self.pairs.check()
        self.augment.check()


def with_options(options: type) -> type[TrainConfig]:
    """`TrainConfig` with a method's own settings under ``options``."""
    entry = ("options", options, field(default_factory=options))
    combined = dataclasses.make_dataclass("MethodTrainConfig", [entry], bases=(TrainConfig,), frozen=True)
    combined.__doc__ = f"{TrainConfig.__doc__.rstrip()}\n        options: The method's own settings.\n    "
    # The inherited annotations are text, which only the modules that wrote it understand; the parser needs types.
    combined.__init__.__annotations__.update(typing.get_type_hints(combined))
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
