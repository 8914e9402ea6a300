"""Put tensors from a checkpoint into a descriptor network, and say what was taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vgssl_core.errors import ConfigError

#: Counters that a network does not need.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Filled:
    """What became of a checkpoint's tensors.

    Attributes:
        taken: Names of the network's weights that came from the checkpoint.
        kept: Names of the network's weights that stay as they were.
        unused: Names in the checkpoint that have no place in the network.
        resampled: Names of the position embeddings that were brought to another grid of patches; part of ``taken``.
    """

    taken: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    resampled: tuple[str, ...] = ()


@torch.no_grad()
def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: str, grid: tuple[int, int] | None = None) -> Filled:
    """Copy weights into a network: all of them, or those of its backbone alone.

    Args:
        network: A network whose ``backbone`` is a timm model or feature extractor.
        tensors: By the names of the whole network, or by timm's names for the backbone alone: then pooling and head
            stay as they are, and a classifier and later stages that the network lacks are left out.
        source: What the tensors are, for messages, for example ``--weights FILE``.
        grid: Rows and columns of patches that a vision transformer's position embedding was made for; None: as many
            rows as columns.

    Raises:
        ConfigError: A weight that the network needs is missing or has another shape; nothing was changed then.
    """
    wanted = network.state_dict()
    names = _places(tensors, wanted)
    if not any(key.startswith("backbone.") for key in tensors):
        wanted = {key: value for key, value in wanted.items() if key.startswith("backbone.")}
    fitting = {names[key]: value for key, value in tensors.items() if key in names}
    resampled = {
        key: _resampled(network, key, value, wanted[key], grid)
        for key, value in fitting.items()
        if key.endswith("pos_embed") and value.shape != wanted[key].shape
    }
    fitting.update({key: value for key, value in resampled.items() if value is not None})
    missing = [key for key in wanted if key not in fitting and not key.endswith(_COUNTER)]
    wrong = [key for key, value in fitting.items() if value.shape != wanted[key].shape]
    if missing or wrong:
        what = f"lacks {len(missing)} of {len(wanted)} weights, first {missing[0]}" if missing else ""
        what += " and " if what and wrong else ""
        if wrong:
            shapes = f"{tuple(fitting[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}"
            what += f"has another shape for {wrong[0]} ({shapes})"
        raise ConfigError(f"{source} does not fit --backbone and --stage: it {what}.")
    network.load_state_dict(fitting, strict=False)
    kept = tuple(key for key in network.state_dict() if key not in fitting and not key.endswith(_COUNTER))
    unused = tuple(key for key in tensors if key not in names and not key.endswith(_COUNTER))
    return Filled(tuple(fitting), kept, unused, tuple(key for key, value in resampled.items() if value is not None))


def _places(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in a checkpoint to name in the network, by the prefix under which most names are known."""
    by_flat = {flat(name): name for name in wanted}

    def known(prefix: tuple[str, str]) -> dict[str, str]:
        old, new = prefix
        renamed = {key: new + key.removeprefix(old) for key in tensors if key.startswith(old)}
        others = {key: key for key in tensors if old and not key.startswith(old)}
        found = {key: by_flat.get(flat(name)) for key, name in {**others, **renamed}.items()}
        return {key: name for key, name in found.items() if name is not None}

    # A transformer lies in the backbone as ``model``, and so do timm's wrapped feature extractors.
    whole = any(key.startswith("backbone.") for key in tensors)
    old = "backbone." if whole else ""
    prefixes = [(old, "backbone."), (old, "backbone.model."), ("backbone.model.", "backbone.")]
    return max((known(prefix) for prefix in prefixes), key=len)


def flat(name: str) -> str:
    """A name of a module or weight without dots: timm writes stages.0 as stages_0 where it flattens a network."""
    return name.replace(".", "_")


def _resampled(
    network: nn.Module, key: str, value: Tensor, wanted: Tensor, grid: tuple[int, int] | None
) -> Tensor | None:
    """A position embedding (1, T, C) on the network's grid of patches; None where it cannot be brought there."""
    patches = getattr(network.get_submodule(key.rpartition(".")[0]), "patch_embed", None)
    new = getattr(patches, "grid_size", None)
    if new is None or value.ndim != 3 or value.shape[-1] != wanted.shape[-1]:
        return None
    prefix = wanted.shape[1] - math.prod(new)
    count = value.shape[1] - prefix
    old = grid or (math.isqrt(max(count, 0)),) * 2
    if prefix < 0 or math.prod(old) != count:
        return None
    return resample_abs_pos_embed(value.float(), list(new), list(old), num_prefix_tokens=prefix)
