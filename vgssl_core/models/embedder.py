"""A torch network behind the interface of every embedder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.inference.bundle import compute_model_id
from vgssl_core.models.network import DescriptorNet


def normalise_images(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`Preprocessing.normalise` on a whole batch, where the batch lies.

    Args:
        images: (..., H, W, 3) uint8 RGB.
        preprocessing: Its mean and standard deviation are used.

    Returns:
        (..., 3, H, W) float32, channels last in memory, which convolutions run faster on.
    """
    width = images.shape[-2]
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (preprocessing.mean, preprocessing.std))
    # In place and a row of pixels at a time: to loop over three channels takes a CPU several times as long.
    scale, offset = torch.stack([1.0 / (255.0 * std), mean / std]).repeat(1, width).to(images.device)
    rows = images.flatten(-2).to(torch.float32).mul_(scale).sub_(offset)
    return rows.unflatten(-1, (width, 3)).movedim(-1, -3)


def model_id(network: DescriptorNet, preprocessing: Preprocessing) -> str:
    """Name of a model: hash of its float32 weights, architecture and preprocessing."""
    weights = {
        key: value.detach().to("cpu", torch.float32).numpy()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    return compute_model_id(weights, network.config.architecture(), preprocessing)


class TorchEmbedder:
    """Embeds images with a torch network in evaluation mode.

    Attributes:
        model_id: Hash of weights, architecture and preprocessing.
        dimension: Length of a descriptor.
        preprocessing: From image to network input.
    """

    def __init__(self, network: DescriptorNet, preprocessing: Preprocessing, batch_size: int = 64) -> None:
        self.network = network.eval()
        self.preprocessing = preprocessing
        self.dimension = network.dimension
        self.model_id = model_id(network, preprocessing)
        self._batch_size = batch_size

    @torch.inference_mode()
    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images of any size to (N, dimension) float32 unit rows."""
        device = next(self.network.parameters()).device
        rows = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(images), self._batch_size):
            batch = [self.preprocessing.resize(image) for image in images[start : start + self._batch_size]]
            pixels = torch.from_numpy(np.stack(batch)).to(device)
            rows.append(self.network(normalise_images(pixels, self.preprocessing)).cpu().numpy())
        return np.concatenate(rows)
