"""Networks that can be written as a bundle, with what is known of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image, Preprocessing, read_image
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.embedder import TorchEmbedder
from vgssl_core.models.foreign import ForeignConfig, ForeignNet, foreign_network
from vgssl_core.models.from_data import fit_pca_head
from vgssl_core.models.heads import PCA_SAMPLES
from vgssl_core.models.initial import of_reference, start
from vgssl_core.models.network import DescriptorNet, best_device, build_network
from vgssl_core.models.weights import read_tensors

logger = logging.getLogger(__name__)

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_IMAGES = 8
#: Images in memory at a time while a PCA's are embedded.
_PCA_BATCH = 64
#: Input of the reference implementation's networks, width and height.
_REFERENCE_SIZE = (640, 480)


@dataclass(frozen=True)
class Exportable:
    """A network and what its bundle tells.

    Attributes:
        network: In evaluation mode, on the CPU.
        preprocessing: From image to network input.
        method: How it was trained.
        training: Where its weights come from, plain values.
        images: Real images that the export is checked on.
        recall: On validation, by N, where it was measured.
        image_paths: Files of its training images, where they are known.
    """

    network: DescriptorNet | ForeignNet
    preprocessing: Preprocessing
    method: str
    training: dict[str, Any]
    images: Sequence[Image]
    recall: dict[str, float] = field(default_factory=dict)
    image_paths: Sequence[Path] = ()


def foreign(config: ForeignConfig, preprocessing: Preprocessing, folder: Path) -> Exportable:
    """A network of others, checked on real images; see `foreign_network`.

    Raises:
        ConfigError, DataError: The network or the images cannot be used.
    """
    images = some_images(folder)
    checkpoint = config.checkpoint.name if config.checkpoint else None
    training = {"hub": config.name, "model": config.model, "checkpoint": checkpoint}
    return Exportable(foreign_network(config, preprocessing, images), preprocessing, "foreign", training, images)


def reference(path: Path, width: int, height: int, folder: Path) -> Exportable:
    """The query encoder of a checkpoint of the reference implementation.

    Args:
        path: Checkpoint.
        width: Of the network's input, in pixels; 0 takes 640 x 480, or what a transformer was built for.
        height: See ``width``.
        folder: Real images.

    Raises:
        ConfigError, DataError: The checkpoint or the images cannot be used.
    """
    images = some_images(folder)
    initial = of_reference(read_tensors(path, "--reference"), path)
    assert initial.architecture is not None
    config = NetworkConfig.from_architecture(initial.architecture)
    if config.width and width:  # a transformer at another size
        config = dataclasses.replace(config, width=width, height=height)
    network = build_network(config)
    unused = start(network, initial, f"--reference {path}").unused
    if unused:
        logger.warning("%s holds weights that are not known and not used: %s.", path, ", ".join(unused))
    size = (width, height) if width else (config.width, config.height) if config.width else _REFERENCE_SIZE
    training = {"reference": path.name}
    return Exportable(network.eval(), Preprocessing(*size), "reference", training, images)


def compact(network: DescriptorNet, preprocessing: Preprocessing, paths: Sequence[Path], dim: int) -> None:
    """Give a network without a head a PCA-whitened one, fitted on images of its training.

    Args:
        network: In evaluation mode; changed in place.
        preprocessing: From image to network input.
        paths: Training images; of many an even share is embedded.
        dim: Length of the compact descriptor.

    Raises:
        ConfigError: The network has a head or a projector, or is of another kind.
        DataError: An image does not decode, or there are too few for that many dimensions.
    """
    if network.config.head != "none" or network.projector is not None:
        raise ConfigError("--pca compacts pooled vectors: train with --head none and without a projector for it.")
    chosen = spread(paths, PCA_SAMPLES)
    logger.info("PCA to %d dimensions on %d training images.", dim, len(chosen))
    embedder = TorchEmbedder(network.to(best_device()), preprocessing)
    parts = [chosen[first : first + _PCA_BATCH] for first in range(0, len(chosen), _PCA_BATCH)]
    rows = [embedder.embed([read_image(path) for path in part]) for part in parts]
    fit_pca_head(network, torch.from_numpy(np.concatenate(rows)), dim).cpu()


def some_images(folder: Path) -> list[Image]:
    """A few images from everywhere below a folder.

    Raises:
        ConfigError: There are none.
        DataError: One does not decode.
    """
    return [read_image(path) for path in spread(image_paths(folder, "--images"), _IMAGES)]


def image_paths(folder: Path, option: str) -> list[Path]:
    """The image files below a folder in the order of their names.

    Args:
        folder: Where to look.
        option: That named it, for the message.

    Raises:
        ConfigError: There are none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{option} {folder} is no folder.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise ConfigError(f"{option} {folder} holds no images ({', '.join(_IMAGE_SUFFIXES)}).")
    return paths


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of some paths, evenly spaced."""
    return [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
