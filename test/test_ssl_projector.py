"""Projectors and predictor layer by layer, as each method of the papers has them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vgssl_core.models import Predictor, Projector, ProjectorConfig
from vgssl_core.ssl.method import method_module


def layers(module: nn.Module) -> list[str]:
    """The layers in words: ``linear 8→4`` has a bias, ``linear 8→4 no bias`` has none."""
    words = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            words.append(
                f"linear {layer.in_features}→{layer.out_features}" + ("" if layer.bias is not None else " no bias")
            )
        elif isinstance(layer, nn.BatchNorm1d):
            words.append(f"norm {layer.num_features}")
        elif isinstance(layer, nn.ReLU):
            words.append("relu")
    return words


def of_method(name: str, **options: object) -> list[str]:
    return layers(Projector(1024, method_module(name).Config(**options).projector()))


def test_byol_and_simsiam_have_batch_norm_in_the_hidden_layer_and_none_on_the_output() -> None:
    expected = ["linear 1024→4096 no bias", "norm 4096", "relu", "linear 4096→4096"]
    assert of_method("byol") == of_method("simsiam") == expected


@pytest.mark.parametrize("name", ["simclr", "mocov2"])
def test_contrastive_methods_have_no_batch_norm(name: str) -> None:
    assert of_method(name, projector_layers=1, projector_dim=512) == ["linear 1024→512"]
    assert of_method(name, projector_layers=2, projector_dim=512) == ["linear 1024→512", "relu", "linear 512→512"]


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_correlation_methods_end_without_bias(name: str) -> None:
    hidden = ["linear 1024→64 no bias", "norm 64", "relu"]
    assert of_method(name, projector_layers=2, projector_dim=64) == [*hidden, "linear 64→64 no bias"]
    assert of_method(name, projector_layers=1, projector_dim=64) == ["linear 1024→64 no bias"]


def test_defaults_are_the_papers_optimum() -> None:
    assert of_method("simclr") == ["linear 1024→1024"]
    assert of_method("mocov2") == []
    assert [word for word in of_method("barlow_twins") if word.startswith("linear")] == [
        "linear 1024→2048 no bias",
        "linear 2048→2048 no bias",
    ]
    assert len([word for word in of_method("vicreg") if word.startswith("linear")]) == 3


def test_no_layers_are_the_identity() -> None:
    projector, x = Projector(8, ProjectorConfig(0, 4096)), torch.randn(2, 8)
    assert projector(x) is x and projector.output_dim == 8


def test_predictor_narrows_or_widens_once_and_comes_back() -> None:
    predictor = Predictor(32, 4096)
    assert layers(predictor) == ["linear 32→4096", "norm 4096", "relu", "linear 4096→32"]
    assert predictor(torch.randn(3, 32)).shape == (3, 32)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_predictor_is_as_wide_as_in_the_papers(name: str) -> None:
    assert method_module(name).Config().predictor_dim == 4096
