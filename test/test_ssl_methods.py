"""What every method owes the trainer: a new module of `vgssl_core.ssl` is tested by being there."""

from __future__ import annotations

import pytest
import torch

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.config import with_options
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.ssl.method import PairBatch, SslMethod, TrainingScale, method_module, method_names


def build(name: str) -> SslMethod:
    torch.manual_seed(0)
    module = method_module(name)
    network = build_network(NetworkConfig(backbone="test_resnet", descriptor_dim=8, pretrained=False))
    return module.Method(network, module.Config(), TrainingScale(pairs=40, batch_size=4))


def batch(method: SslMethod, seed: int) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(4, 3, 32, 32, generator=generator) for _ in range(2))
    count = method.negatives_per_query
    return PairBatch(x, y, torch.randn(4, count, 3, 32, 32, generator=generator) if count else None)


def train(method: SslMethod, optimiser: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        output = method(batch(method, step))
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
        method.after_step()
        losses.append(float(output.total.detach()))
    return losses


@pytest.fixture(params=method_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_methods_of_the_papers_are_there() -> None:
    assert {"mocov2", "triplet"} <= set(method_names())


def test_two_steps_give_finite_loss_and_gradients_that_reach_the_backbone(name: str) -> None:
    method = build(name)
    losses = train(method, torch.optim.Adam(p for p in method.parameters() if p.requires_grad), range(2))
    assert all(torch.isfinite(torch.tensor(losses)))
    gradients = [p.grad for p in method.network.backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_terms_are_named_scalars_and_descriptors_carry_no_gradient(name: str) -> None:
    method = build(name)
    output = method(batch(method, 0))
    assert output.terms and all(term.ndim == 0 and isinstance(key, str) for key, term in output.terms.items())
    assert torch.allclose(output.total, sum(output.terms.values(), start=torch.zeros(())))
    assert output.descriptors.shape == (4, 8) and not output.descriptors.requires_grad


def test_state_dict_resumes_exactly(name: str) -> None:
    def fresh() -> tuple[SslMethod, torch.optim.Optimizer]:
        method = build(name)
        return method, torch.optim.Adam(p for p in method.parameters() if p.requires_grad)

    straight, optimiser = fresh()
    train(straight, optimiser, range(4))
    half, half_optimiser = fresh()
    train(half, half_optimiser, range(2))
    resumed, resumed_optimiser = fresh()
    resumed.load_state_dict(half.state_dict())
    resumed_optimiser.load_state_dict(half_optimiser.state_dict())
    train(resumed, resumed_optimiser, range(2, 4))
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_settings_become_options_of_the_training(name: str) -> None:
    config = with_options(method_module(name).Config)(method=name)
    assert config.options == method_module(name).Config()


def test_unknown_method_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"--method byoll is unknown: choose one of .*mocov2.*triplet"):
        method_module("byoll")
