"""Batch-norm statistics of a network that was not trained, and the untrained baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from vgssl_core.errors import DataError
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.embedder import normalise_images
from vgssl_core.models.from_data import initialise_pooling
from vgssl_core.models.network import DescriptorNet, build_network


@torch.no_grad()
def estimate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every batch norm that is not frozen to the average over the given batches.

    Args:
        network: Changed in place; its training mode stays as it was.
        batches: (B, 3, H, W) normalised images each, B > 1.

    Raises:
        DataError: No batch was given.
    """
    was_training = network.training
    norms = [m for m in network.train().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [norm for norm in norms if norm.track_running_stats and norm.training]  # frozen ones are not
    if not layers:
        network.train(was_training)
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
    count = 0
    try:
        for batch in batches:
            network(batch)
            count += 1
    finally:
        network.train(was_training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not count:
        raise DataError("Batch-norm statistics need images, and there are none: give a set that is not empty.")


def untrained_network(
    config: NetworkConfig, images: Sequence[Image], preprocessing: Preprocessing, seed: int = 0, batch_size: int = 32
) -> DescriptorNet:
    """The baseline that training has to beat: random weights of a fixed seed, batch norm fitted to real images.

    Args:
        config: Architecture; pre-trained weights are ignored.
        images: Training images of any size, at least two (some hundred suffice).
        preprocessing: From image to network input.
        seed: Of the random weights.
        batch_size: Images per batch of the estimate.

    Returns:
        The network in evaluation mode; torch's own random state is left as it was.

    Raises:
        DataError: Fewer than two images.
    """
    if len(images) < 2:
        raise DataError(f"The untrained baseline needs at least two images, not {len(images)}.")
    starts = range(0, len(images), batch_size)
    chunks = [images[start : start + batch_size] for start in starts if len(images) - start > 1 or start == 0]

    def batches() -> Iterator[Tensor]:
        for chunk in chunks:
            pixels = np.stack([preprocessing.resize(image) for image in chunk])
            yield normalise_images(torch.from_numpy(pixels), preprocessing)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(replace(config, pretrained=False, weights=None, freeze=0))
        estimate_batch_norm(network, batches())
    initialise_pooling(network, batches(), seed)
    return network.eval()
