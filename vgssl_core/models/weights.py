"""Initial weights: timm's pre-trained ones, or a local checkpoint."""

from __future__ import annotations

import pickle
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from vgssl_core.errors import ConfigError

_REACH_TIMEOUT_S = 5.0


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


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a descriptor network from a local checkpoint.

    Accepted are the weights of the whole network, or of its backbone alone under timm's names (a classifier and
    later stages that the network lacks are ignored), as safetensors or as a torch state dict of plain tensors.

    Args:
        network: A network whose ``backbone`` is the timm feature extractor.
        path: The checkpoint.

    Raises:
        ConfigError: Unreadable, not plain tensors, or it lacks weights that the network needs.
    """
    found = _state_dict(path)
    target: nn.Module = network
    candidates = [("", network)]
    if not any(key.startswith("backbone.") for key in found):
        target = network.get_submodule("backbone")
        candidates = [("", target), ("model.", target)]
    wanted = target.state_dict()
    prefix = max((p for p, _ in candidates), key=lambda p: sum(p + key in wanted for key in found))
    fitting = {prefix + key: value for key, value in found.items() if prefix + key in wanted}
    missing = [key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked")]
    wrong = [key for key, value in fitting.items() if value.shape != wanted[key].shape]
    if missing or wrong:
        what = f"lacks {len(missing)} of {len(wanted)} weights, first {missing[0]}" if missing else ""
        what += f"{' and ' if what and wrong else ''}has another shape for {wrong[0]}" if wrong else ""
        raise ConfigError(f"--weights {path} does not fit --backbone and --stage: it {what}.")
    target.load_state_dict(fitting, strict=False)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise ConfigError(f"Cannot read --weights {path}: {problem.strerror or problem}.") from problem
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError) as problem:
        raise ConfigError(
            f"--weights {path} is no checkpoint of plain tensors: give a safetensors file or a torch state dict."
        ) from problem
    for key in ("network", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ConfigError(f"--weights {path} holds no weights: give a safetensors file or a torch state dict.")
    return {key.removeprefix("module."): value for key, value in tensors.items()}


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
