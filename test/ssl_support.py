"""Small networks, batches and numbers for the tests of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.ssl.method import PairBatch, SslMethod, TrainingScale, method_module


def normal(*shape: int, seed: int) -> torch.Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact_method(name: str, **options: Any) -> SslMethod:
    """A method of that name in float64 over a tiny network with 8-dimensional descriptors, weights by a fixed seed."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(backbone="test_resnet", descriptor_dim=8, pretrained=False))
    module = method_module(name)
    return module.Method(network, module.Config(**options), TrainingScale(pairs=100, batch_size=8)).double()


def exact_batch(queries: int = 4, negatives: int = 0, further_positives: int = 0, seed: int = 0) -> PairBatch:
    """Float64 noise images; negatives come in two views."""
    count = queries * (2 + 2 * negatives + further_positives)
    images = normal(count, 3, 32, 32, seed=seed).split(
        [queries, queries, queries * negatives, queries * negatives, queries * further_positives]
    )
    groups = [
        part.unflatten(0, (queries, each)) if each else None
        for part, each in zip(images[2:], (negatives, negatives, further_positives), strict=True)
    ]
    return PairBatch(images[0], images[1], *groups)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Product of two vectors, number by number."""
    return math.fsum(p * q for p, q in zip(a, b, strict=True))
