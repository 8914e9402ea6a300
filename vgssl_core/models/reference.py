"""Checkpoints of the reference implementation of VG-SSL (https://github.com/arplaboratory/VG-SSL), by key mapping.

Its training of the SSL methods saves ``state_dict``: ``backbone.*`` and ``aggregation.*`` are the query encoder of
every method, and ``ssl_model.*`` holds them once more (as ``net``, ``online_encoder``) beside the momentum encoder,
predictor and queue. Its triplet and re-ranking training saves ``model_state_dict`` with ``module.backbone.*``. A ResNet
lies there as a sequence without names, and pooling, head and projector are nested sequences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vgssl_core.errors import ConfigError
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.projector import ProjectorConfig

#: Where the query encoder may lie, with the names of its two parts; the first that is there is taken.
_ENCODERS = (
    ("backbone.", "aggregation."),
    ("ssl_model.online_encoder.net.", "ssl_model.online_encoder.aggregation."),
    ("online_encoder.net.", "online_encoder.aggregation."),
    ("ssl_model.net.", "ssl_model.aggregation."),
    ("net.", "aggregation."),
)
#: Parts of a checkpoint that no descriptor needs: what training alone used, copies, and the re-ranker.
_TRAINING_ONLY = ("ssl_model.", "online_encoder.", "target_encoder.", "online_predictor.", "queue", "local_head.")
_RERANKER = "Reranker."
#: Number of a ResNet's part in the reference's sequence, and its name.
_RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_RESNETS = {(2, False): "resnet18", (6, True): "resnet50", (23, True): "resnet101"}
_DEITS = {
    192: "deit_tiny_distilled_patch16_224",
    384: "deit_small_distilled_patch16_224",
    768: "deit_base_distilled_patch16_384",
}
_PATCH, _DEIT_TOKENS = 16, 2
_IMAGENET_CLASSES = 1000
#: Rows and columns of patches at the reference's input of 480 x 640.
_DEFAULT_GRID = (30, 40)


@dataclass(frozen=True)
class Reference:
    """The query encoder of a reference checkpoint.

    Attributes:
        tensors: By the names of a `DescriptorNet`.
        architecture: Of that network.
        dropped: Names in the checkpoint that only training or re-ranking needs, the copies of the encoder too.
        unknown: Names in the checkpoint that are none of the reference implementation's.
    """

    tensors: dict[str, Tensor]
    architecture: dict[str, Any]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def is_reference(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these names are the reference implementation's and not ours or timm's."""
    return _encoder(_named(tensors)) is not None


def translate(tensors: Mapping[str, Tensor], path: Path) -> Reference:
    """Take the query encoder out of a checkpoint of any of its methods.

    The projector is dropped, as in the second paper, but for NetVLAD without a linear head: there the projected
    embedding is the descriptor, as in the first paper.

    Args:
        tensors: By the reference's names, without ``module.``.
        path: Where they are from, for messages.

    Raises:
        ConfigError: No such checkpoint, or of a backbone or aggregation that has no counterpart here.
    """
    tensors = _named(tensors)
    encoder = _encoder(tensors)
    if encoder is None:
        raise ConfigError(
            f"{path} is no checkpoint of the reference implementation: it has neither backbone.0.weight (a ResNet) nor "
            "backbone.dist_token (a DeiT)."
        )
    backbone = {key.removeprefix(encoder[0]): value for key, value in tensors.items() if key.startswith(encoder[0])}
    aggregation = {key.removeprefix(encoder[1]): value for key, value in tensors.items() if key.startswith(encoder[1])}
    translated = _deit if "dist_token" in backbone else _resnet
    found, config, used = translated(backbone, aggregation, path)
    sources = {f"{encoder[0]}{key}" for key in backbone} | {f"{encoder[1]}{key}" for key in used}
    rest = [key for key in tensors if key not in sources]
    projector = re.compile(rf"{re.escape(encoder[1])}1\.\d+\.")
    dropped = [key for key in rest if key.startswith((*_TRAINING_ONLY, _RERANKER)) or projector.match(key)]
    unknown = tuple(key for key in rest if key not in set(dropped))
    return Reference(found, config.architecture(), tuple(dropped), unknown)


def _named(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A DeiT of the triplet training lies there without a prefix, and is told from timm's by its number of outputs."""
    bare = "dist_token" in tensors and len(tensors.get("head_dist.weight", ())) not in (0, _IMAGENET_CLASSES)
    return {f"backbone.{key}": value for key, value in tensors.items()} if bare else tensors


def _encoder(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Prefixes of the query encoder's backbone and aggregation."""
    return next(
        (pair for pair in _ENCODERS if f"{pair[0]}0.weight" in tensors or f"{pair[0]}dist_token" in tensors), None
    )


Translated = tuple[dict[str, Tensor], NetworkConfig, list[str]]


def _resnet(backbone: Mapping[str, Tensor], aggregation: Mapping[str, Tensor], path: Path) -> Translated:
    """Weights by our names, the network, and which of the aggregation's names were used."""
    found = {}
    for key, value in backbone.items():
        part, _, rest = key.partition(".")
        if part not in _RESNET_PARTS:
            raise ConfigError(f"{path} holds backbone.{key}, which is no ResNet's: only ResNets and DeiTs are known.")
        found[f"backbone.{_RESNET_PARTS[part]}.{rest}"] = value
    layer3 = {key.split(".")[1] for key in backbone if key.startswith("6.")}
    name = _RESNETS.get((len(layer3), "6.0.conv3.weight" in backbone))
    if name is None:
        raise ConfigError(f"{path} holds a ResNet with {len(layer3)} blocks in conv4: only 18, 50 and 101 are known.")
    stage = -1 if "7.0.conv1.weight" in backbone else -2
    pooling, settings, used = _pooling(aggregation, path)
    head, head_settings = _head(aggregation, settings["pooling"])
    config = NetworkConfig(name, stage, pretrained=False, **settings, **head_settings)
    tensors = {**found, **pooling, **{key: aggregation[source] for key, source in head.items()}}
    return tensors, config, [*used, *head.values()]


def _pooling(aggregation: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """GeM behind an L2 norm, or NetVLAD; the deeper, the more lies around it (head, projector)."""
    for key in aggregation:
        if re.fullmatch(r"(0\.){0,2}1\.p", key):
            return {"pooling.p": aggregation[key]}, {"pooling": "gem"}, [key]
        if re.fullmatch(r"(0\.){0,2}centroids", key):
            assignment = f"{key.removesuffix('centroids')}conv.weight"
            centroids = aggregation[key]
            tensors = {"pooling.centres": centroids, "pooling.assignment.weight": aggregation[assignment]}
            options = {"pooling": "netvlad", "pooling_options": {"clusters": len(centroids)}}
            return tensors, options, [key, assignment]
    raise ConfigError(
        f"{path} has no aggregation that is known (GeM of L2-normalised features, or NetVLAD), only "
        f"{', '.join(sorted(aggregation)[:4]) or 'none'}."
    )


def _head(aggregation: Mapping[str, Tensor], pooling: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Our names to the aggregation's of the linear head, or of the projector where it gives the descriptor."""
    linear = next((key for key in ("1.weight", "0.1.weight") if key in aggregation), None)
    if linear is not None:
        names = {"head.weight": linear, "head.bias": linear.replace("weight", "bias")}
        return names, {"descriptor_dim": len(aggregation[linear])}
    projector = [key for key in aggregation if re.match(r"1\.\d+\.", key)]
    if pooling != "netvlad" or not projector:
        return {}, {"head": "none"}
    layers = sorted((int(key.split(".")[1]), key) for key in projector if aggregation[key].ndim == 2)
    config = ProjectorConfig(
        layers=len(layers),
        dim=len(aggregation[layers[-1][1]]),
        batch_norm=any(key.endswith("running_mean") for key in projector),
        last_bias=layers[-1][1].replace("weight", "bias") in aggregation,
    )
    return {f"projector.{key.removeprefix('1.')}": key for key in projector}, {"head": "none", "projector": config}


def _deit(backbone: Mapping[str, Tensor], aggregation: Mapping[str, Tensor], path: Path) -> Translated:
    """As `_resnet`: the two heads lie in the backbone there; an aggregation is a projector alone."""
    name = _DEITS.get(backbone["dist_token"].shape[-1])
    if name is None or "head.weight" not in backbone or "pos_embed" not in backbone:
        raise ConfigError(f"{path} holds a transformer that is no distilled DeiT with two heads: only those are known.")
    rows, columns = _grid(backbone["pos_embed"].shape[1] - _DEIT_TOKENS, path)
    heads = ("head.", "head_dist.")
    tensors = {
        f"{'head' if key.startswith(heads) else 'backbone.model'}.{key}": value for key, value in backbone.items()
    }
    config = NetworkConfig(
        name,
        width=columns * _PATCH,
        height=rows * _PATCH,
        pooling="cls",
        descriptor_dim=len(backbone["head.weight"]),
        pretrained=False,
    )
    return tensors, config, []


def _grid(patches: int, path: Path) -> tuple[int, int]:
    side = math.isqrt(patches)
    if patches == math.prod(_DEFAULT_GRID):
        return _DEFAULT_GRID
    if side * side == patches:
        return side, side
    raise ConfigError(f"{path} has {patches} patches: only inputs of 480 x 640 and square ones are known.")
