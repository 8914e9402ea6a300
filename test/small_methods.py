"""Every method with narrow layers, and batches of all the views that it asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from vgssl_core.models import NetworkConfig, ProjectorConfig, build_network
from vgssl_core.ssl.method import MethodConfig, PairBatch, SslMethod, TrainingScale, method_module, method_names

#: Widths of the papers, cut down.
_SMALL = {"projector_dim": 12, "predictor_dim": 16, "queue_size": 64, "negatives": 2}


def variants() -> list[tuple[str, dict[str, bool]]]:
    """Every method by its defaults, and with each of the switches that several methods have."""
    found: list[tuple[str, dict[str, bool]]] = []
    for name in method_names():
        fields = {field.name: field.default for field in dataclasses.fields(method_module(name).Config)}
        switches = [key for key in ("hard_negatives", "symmetric", "batch_negatives") if key in fields]
        found += [(name, {}), *((name, {key: not fields[key]}) for key in switches)]
    return found


def variant_name(value: object) -> str:
    """Of a parametrised test."""
    return "-".join(f"{key}={on}" for key, on in value.items()) if isinstance(value, dict) else str(value)


def small_config(name: str, **options: Any) -> MethodConfig:
    """A method's own defaults, with narrow layers."""
    config = method_module(name).Config
    known = {field.name for field in dataclasses.fields(config)}
    return config(**{key: value for key, value in _SMALL.items() if key in known} | options)


def build_method(name: str, projector: ProjectorConfig | None = None, **options: Any) -> SslMethod:
    """A method over a tiny network with 8-dimensional descriptors, always the same weights.

    Args:
        name: Of the method.
        projector: Of the network, as in the first paper.
        options: Of the method.
    """
    torch.manual_seed(0)
    network = build_network(
        NetworkConfig(backbone="test_resnet", descriptor_dim=8, pretrained=False, projector=projector)
    )
    return method_module(name).Method(network, small_config(name, **options), TrainingScale(pairs=80, batch_size=8))


def make_batch(
    method: SslMethod, seed: int = 0, count: int = 4, positions: bool = False, dtype: torch.dtype = torch.float32
) -> PairBatch:
    """Random images in all the views that a method asks for; with positions, 10 m are one place."""
    generator = torch.Generator().manual_seed(seed)

    def images(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, 3, 32, 32, generator=generator, dtype=dtype)

    def places(*shape: int) -> torch.Tensor:
        return 40 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)

    negatives, further = method.negatives_per_query, method.positives_per_query - 1
    return PairBatch(
        images(count),
        images(count),
        images(count, negatives) if negatives else None,
        images(count, negatives) if negatives and method.negative_views == 2 else None,
        images(count, further) if further else None,
        places(count) if positions else None,
        places(count, negatives) if positions and negatives else None,
        same_place_m=10.0 if positions else 0.0,
    )


def train(method: SslMethod, optimiser: torch.optim.Optimizer, steps: range, **batch: Any) -> list[float]:
    """Steps as the trainer takes them; returns their losses."""
    losses = []
    for step in steps:
        output = method(make_batch(method, step, **batch))
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
        method.after_step()
        losses.append(float(output.total.detach()))
    return losses
