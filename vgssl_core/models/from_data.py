"""What a network must take from data besides its gradient: cluster centres before training, a PCA after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.models.heads import fitted_pca_head
from vgssl_core.models.network import DescriptorNet

#: Images, and local descriptors of each, that cluster centres are found on: 50k descriptors (VG-SSL, 2023).
CLUSTER_IMAGES, _PER_IMAGE = 500, 100


@torch.no_grad()
def initialise_pooling(network: DescriptorNet, batches: Iterable[Tensor], seed: int) -> bool:
    """Set the cluster centres of a pooling that has any (NetVLAD) from images, before a training.

    Args:
        network: On its device, changed in place; its training mode stays as it was.
        batches: (B, 3, H, W) normalised images on the network's device, some `CLUSTER_IMAGES` in all. Not read where
            the pooling needs none.
        seed: Of the choice of local descriptors and of k-means.

    Returns:
        Whether the pooling took anything.

    Raises:
        DataError: The images have fewer local descriptors than there are clusters.
    """
    if not hasattr(network.pooling, "initialise"):
        return False
    generator, was_training = np.random.default_rng(seed), network.training
    network.eval()
    try:
        found = [_some(network.local_descriptors(batch), generator) for batch in batches]
    finally:
        network.train(was_training)
    if not found:
        raise DataError("The clusters of the pooling are found on images, and there are none.")
    network.pooling.initialise(np.concatenate(found), generator)
    return True


def _some(maps: Tensor, generator: np.random.Generator) -> NDArray[np.float32]:
    """(B, C, h, w) to at most `_PER_IMAGE` descriptors of each image: (n, C)."""
    local = maps.flatten(2).transpose(1, 2).cpu().numpy()
    count = min(_PER_IMAGE, local.shape[1])
    return np.concatenate([generator.choice(image, count, replace=False) for image in local])


def fit_pca_head(network: DescriptorNet, descriptors: Tensor, dim: int) -> DescriptorNet:
    """Give a network that was trained without a head a PCA-whitened compact one.

    Args:
        network: With ``head: none`` and no projector; changed in place.
        descriptors: (N, P) its descriptors of training images, at most `heads.PCA_SAMPLES` of them are used.
        dim: Length of the compact descriptor.

    Returns:
        The same network, whose ``config`` now says ``head: pca``.

    Raises:
        ConfigError: The network has a head or projector already.
        DataError: The descriptors do not span that many dimensions.
    """
    if network.config.head != "none" or network.projector is not None:
        raise ConfigError("A PCA compacts the pooled vector of a network with --head none and without a projector.")
    device = next(network.parameters()).device
    network.head = fitted_pca_head(descriptors.to(device), dim).train(network.training)
    network.config = replace(network.config, head="pca", descriptor_dim=dim)
    network.encoded_dim = network.dimension = dim
    return network
