"""Networks of others: whatever maps an image to a vector, brought by ``torch.hub``, behind our interface.

Only plain tensors are read from files; what computes is Python code that the user names and trusts. TorchScript and
torch.export files are not taken: reading them may unpickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.models.vectors import l2_normalised
from vgssl_core.models.weights import read_tensors

#: An image's descriptor must agree at least this well with itself beside other images in a batch.
_MINIMUM_COSINE = 0.9999


@dataclass(frozen=True)
class ForeignConfig:
    """Where a network of others comes from.

    Attributes:
        hub: GitHub repository OWNER/NAME[:REF] or local folder with a ``hubconf.py``.
        model: Function of ``hubconf.py`` that makes the network.
        options: Its keyword arguments.
        checkpoint: Weights to fill it with, as a safetensors file or torch state dict; None keeps what it brings.
    """

    hub: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether the code lies in a folder of this machine."""
        return Path(self.hub).is_dir()

    @property
    def name(self) -> str:
        """Of the code, without where it lies on this machine."""
        return Path(self.hub).resolve().name if self.is_local else self.hub

    def architecture(self) -> dict[str, Any]:
        """What the network is, as far as it can be told from outside."""
        return {"foreign": self.name, "model": self.model, "options": dict(self.options)}


class ForeignNet(nn.Module):
    """A network of others as a descriptor network.

    Attributes:
        config: Where it comes from.
        network: (B, 3, H, W) float32 normalised images to (B, D).
        dimension: D.
    """

    def __init__(self, config: ForeignConfig, network: nn.Module, dimension: int) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.dimension = dimension

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised images to (B, D) float32 unit vectors."""
        return l2_normalised(self.network(images).float())


def foreign_network(config: ForeignConfig, preprocessing: Preprocessing, images: Sequence[Image]) -> ForeignNet:
    """Build a network of others, and check on real images that it gives one vector per image.

    Runs the code of ``config.hub`` with the rights of the user, who must have agreed.

    Args:
        config: Which network.
        preprocessing: From image to network input.
        images: At least one real image.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        ConfigError: The code cannot be had or fails, the checkpoint does not fit, or the network gives no descriptors.
    """
    network = _hub_network(config)
    if config.checkpoint is not None:
        _load(network, config.checkpoint)
    network = network.float().cpu().eval()
    pixels = torch.from_numpy(np.stack([preprocessing(image) for image in images]))
    return ForeignNet(config, network, _checked_dimension(network, pixels, config)).eval()


def _hub_network(config: ForeignConfig) -> nn.Module:
    if not config.is_local and "/" not in config.hub.partition(":")[0]:
        raise ConfigError(f"--hub {config.hub} is no folder and no GitHub repository OWNER/NAME[:REF].")
    source = "local" if config.is_local else "github"
    try:
        network = torch.hub.load(
            config.hub, config.model, source=source, trust_repo=True, verbose=False, **config.options
        )
    except Exception as problem:  # code of others raises whatever it likes
        raise ConfigError(
            f"--hub {config.hub} --model {config.model} failed ({_reason(problem)}): check its name, its options "
            "(--hub_options), the packages that it needs, and the network connection."
        ) from problem
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ConfigError(f"--hub {config.hub} --model {config.model} gives a {kind}, not a torch network.")
    return network


def _load(network: nn.Module, path: Path) -> None:
    """Fill the whole network; what it needs must be there, what the file holds beyond it is left out."""
    tensors = read_tensors(path, "--checkpoint")
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or wrong:
        what = f"lacks {missing[0]}" if missing else f"has another shape for {wrong[0]}"
        raise ConfigError(
            f"--checkpoint {path} does not fit the network of --hub: it {what} ({len(missing)} of {len(wanted)} "
            f"weights are missing, {len(wrong)} have another shape)."
        )
    network.load_state_dict({key: value for key, value in tensors.items() if key in wanted}, strict=False)


@torch.inference_mode()
def _checked_dimension(network: nn.Module, pixels: Tensor, config: ForeignConfig) -> int:
    """D, if the network gives one finite vector per image, whatever stands beside it in the batch.

    Args:
        network: In evaluation mode.
        pixels: (N, 3, H, W) normalised images.
        config: For messages.
    """
    what = f"--hub {config.hub} --model {config.model}"
    try:
        together = network(pixels)
        alone = [network(pixels[i : i + 1]) for i in range(len(pixels))]
    except Exception as problem:  # code of others raises whatever it likes
        size = f"--width {pixels.shape[3]} --height {pixels.shape[2]}"
        raise ConfigError(
            f"{what} does not take images of {size} ({_reason(problem)}): give another size."
        ) from problem
    if not isinstance(together, Tensor) or together.ndim != 2 or len(together) != len(pixels):
        given = tuple(together.shape) if isinstance(together, Tensor) else f"a {type(together).__name__}"
        raise ConfigError(f"{what} gives {given} for {len(pixels)} images: one vector per image is needed, (B, D).")
    single = torch.cat(alone)
    if not together.isfinite().all() or not single.isfinite().all():
        raise ConfigError(f"{what} gives numbers that are not finite: its weights may be damaged.")
    if not (together.norm(dim=1) > 0).all():
        raise ConfigError(f"{what} gives zeros for an image, which is no descriptor.")
    lowest = float(torch.nn.functional.cosine_similarity(together.float(), single.float()).min())
    if not lowest >= _MINIMUM_COSINE:
        raise ConfigError(
            f"{what} gives an image another vector beside other images than alone (cosine {lowest:.4f}): a descriptor "
            "must depend on its image only."
        )
    return together.shape[1]


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
