"""Synchronised batch norm in one process is plain batch norm; `test_ssl_two_processes.py` has two processes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.models.sync_batch_norm import synchronised

LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "2d": (lambda: nn.BatchNorm2d(5), (3, 5, 4, 2)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (3, 5, 4, 2)),
    "not affine": (lambda: nn.BatchNorm1d(5, affine=False), (7, 5)),
    "without statistics": (lambda: nn.BatchNorm1d(5, track_running_stats=False), (7, 5)),
    "with activation": (lambda: BatchNormAct2d(5), (3, 5, 4, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_values_gradients_and_statistics_equal_those_of_plain_batch_norm(kind: str, one_process: None) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    plain = make().double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    together = synchronised(copy.deepcopy(plain))
    assert type(together) is not type(plain)
    for _ in range(2):
        x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
        twin, weights = x.detach().clone().requires_grad_(), torch.randn(shape, dtype=torch.float64)
        seen, expected = together(x), plain(twin)
        assert torch.allclose(seen, expected, atol=1e-10)
        (seen * weights).sum().backward()
        (expected * weights).sum().backward()
        assert torch.allclose(x.grad, twin.grad, atol=1e-10)
    for own, other in zip(together.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, atol=1e-10)
    assert_same_state(together, plain)
    assert torch.allclose(together.eval()(x), plain.eval()(x), atol=1e-10)


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    assert all(torch.allclose(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_a_network_keeps_its_parameters_and_the_names_of_its_state(backbone: str) -> None:
    network = timm.create_model(backbone, num_classes=0)
    parameters, state, x = list(network.parameters()), copy.deepcopy(network.state_dict()), torch.randn(2, 3, 32, 32)
    expected = network.eval()(x)
    together = synchronised(network)
    assert together is network and all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    network.load_state_dict(state)
    assert torch.equal(network(x), expected)
    assert not any(type(m) in (nn.BatchNorm2d, BatchNormAct2d) for m in network.modules())


@pytest.mark.parametrize("convert", [synchronised, convert_sync_batchnorm], ids=["cpu", "cuda"])
@pytest.mark.parametrize("copied", [False, True], ids=["network", "momentum encoder"])
def test_frozen_batch_norm_stays_frozen(convert: Callable[[nn.Module], nn.Module], copied: bool) -> None:
    network = build_network(NetworkConfig(backbone="test_resnet", pretrained=False, freeze=1))

    def frozen() -> set[str]:
        return {name for name, module in network.named_modules() if not module.training}

    expected = frozen()
    assert any(isinstance(network.get_submodule(name), nn.BatchNorm2d) for name in expected)
    network = convert(copy.deepcopy(network) if copied else network)
    network.train()
    assert frozen() >= expected


def test_half_precision_is_summed_in_float32(one_process: None) -> None:
    together = synchronised(nn.BatchNorm2d(3))
    x = 1000 + torch.randn(8, 3, 16, 16).bfloat16()
    seen = together(x)
    assert seen.dtype == torch.bfloat16
    assert torch.allclose(together.running_mean, 0.1 * x.float().mean((0, 2, 3)), atol=1e-3)


def test_what_batch_norm_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="not 1 dimensions"):
        synchronised(nn.BatchNorm1d(3))(torch.zeros(3))
