"""The untrained baseline as an embedder, for evaluation."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Preprocessing, read_image
from vgssl_core.inference.bundle import load_bundle
from vgssl_core.models.backbones import input_multiple
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.embedder import TorchEmbedder
from vgssl_core.models.input_size import input_size
from vgssl_core.models.statistics import untrained_network
from vgssl_core.places import read_place_set, splits
from vgssl_core.resources import config_file
from vgssl_core.storage import read_yaml

logger = logging.getLogger(__name__)

#: Images that batch-norm statistics are estimated on.
_IMAGES = 256


def untrained_embedder(bundle: Path | None, data: Path, split: str, seed: int = 0) -> TorchEmbedder:
    """What a network of that shape gives without training.

    Args:
        bundle: Names architecture and input size; None takes those of the small configuration.
        data: Place set; batch norm is estimated on its train split, on ``split`` where it has none, and on all of a
            set without splits.
        split: See ``data``.
        seed: Of the random weights.

    Raises:
        BundleError, DataError: Bundle or images that cannot be used.
        ConfigError: The bundle's architecture is none that can be built.
    """
    places = read_place_set(data, "train" if "train" in splits(data) else split)
    paths = [*places.database.paths, *places.queries.paths]
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(_IMAGES, len(paths))).astype(int))
    config, preprocessing = _shape(bundle, places.database.paths)
    logger.info("Untrained %s, batch norm estimated on %d images of %s.", config.backbone, len(chosen), places.name)
    images = [read_image(paths[index]) for index in chosen]
    return TorchEmbedder(untrained_network(config, images, preprocessing, seed), preprocessing)


def _shape(bundle: Path | None, paths: tuple[Path, ...]) -> tuple[NetworkConfig, Preprocessing]:
    if bundle is not None:
        loaded = load_bundle(bundle)
        try:
            return NetworkConfig.from_architecture(loaded.architecture), loaded.preprocessing
        except (TypeError, ConfigError) as problem:
            raise ConfigError(
                f"The bundle {bundle} does not tell an architecture that torch can build: {problem}"
            ) from problem
    small: dict[str, Any] = read_yaml(config_file("train/small/mocov2.yaml"), ConfigError, "a training configuration")
    names = {item.name for item in fields(NetworkConfig)}
    config = NetworkConfig.from_architecture({name: value for name, value in small.items() if name in names})
    width, height = input_size(paths, int(small["pixels"]), input_multiple(config.backbone))
    return replace(config, width=width, height=height), Preprocessing(width, height)
