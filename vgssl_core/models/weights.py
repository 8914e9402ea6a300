"""Initial weights: timm's pre-trained ones, or a local checkpoint."""

from __future__ import annotations

import pickle
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.models.filling import Filled, fill

_REACH_TIMEOUT_S = 5.0
#: Under which names checkpoints hold their weights, outermost first.
_STATES = ("network", "method", "state_dict", "model_state_dict", "model")
#: Figures lie beside the weights in many checkpoints; to rebuild an array of numbers runs no code of the file.
_NUMBERS = (np.float32, np.float64, np.int64)
_PLAIN_NUMPY = [
    *((np.zeros(1).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in _NUMBERS)),
]


def pretrained_backbone(name: str, **options: Any) -> nn.Module:
    """A timm model with its published weights, from timm's cache or the network.

    Args:
        name: Of the model.
        options: Of `timm.create_model`.

    Raises:
        ConfigError: timm has no weights for it, or they can be had neither from the cache nor over the network.
    """
    _check_obtainable(name)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as problem:
        raise _unavailable(name, problem) from problem


def load_weights(network: nn.Module, path: Path) -> Filled:
    """Fill a descriptor network from a local checkpoint.

    Accepted are the weights of the whole network, or of its backbone alone under timm's names (a classifier and
    later stages that the network lacks are ignored), as safetensors or as a torch state dict of plain tensors.

    Args:
        network: A network whose ``backbone`` is a timm model or feature extractor.
        path: The checkpoint.

    Raises:
        ConfigError: Unreadable, not plain tensors, or it lacks weights that the network needs.
    """
    return fill(network, read_tensors(path), f"--weights {path}")


def read_tensors(path: Path, flag: str = "--weights") -> dict[str, Tensor]:
    """The weights in a checkpoint file by name; no code in the file is ever run.

    Args:
        path: A safetensors file, or what torch saved: a state dict, or a dict with one among plain values.
        flag: The setting that names the file, for messages.

    Raises:
        ConfigError: Unreadable, not plain tensors, or none in it.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(_PLAIN_NUMPY):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise ConfigError(f"Cannot read {flag} {path}: {problem.strerror or problem}.") from problem
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError) as problem:
        raise ConfigError(
            f"{flag} {path} is no checkpoint of plain tensors: give a safetensors file or a torch state dict."
        ) from problem
    for key in _STATES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ConfigError(f"{flag} {path} holds no weights: give a safetensors file or a torch state dict.")
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    # A method's state holds the network beside momentum encoders, queues and predictors.
    own = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    return own or tensors


def _check_obtainable(name: str) -> None:
    """Fail at once where timm would retry for a minute."""
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise ConfigError(
            f"timm has no pre-trained weights for --backbone {name}: give --weights FILE or --pretrained false."
        )
    files = ("model.safetensors", "pytorch_model.bin")
    hub = published.hf_hub_id
    if hub and any(isinstance(huggingface_hub.try_to_load_from_cache(hub, file), str) for file in files):
        return
    url = huggingface_hub.hf_hub_url(hub, files[0]) if hub else published.url
    if not url or not url.startswith("https://"):
        return
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not hub and cached.is_file():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_TIMEOUT_S).close()
    except OSError as problem:
        raise _unavailable(name, problem) from problem


def _unavailable(name: str, problem: Exception) -> ConfigError:
    reason = getattr(problem, "reason", None) or " ".join(str(problem).split())[:200]
    return ConfigError(
        f"The pre-trained weights of {name} cannot be had ({reason}): give a local checkpoint with --weights FILE, "
        "or train from random weights with --pretrained false."
    )
