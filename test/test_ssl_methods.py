"""What every method owes the trainer: a new module of `vgssl_core.ssl` is tested by being there."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_methods import build_method, make_batch, train, variant_name, variants

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.config import with_options
from vgssl_core.models import ProjectorConfig
from vgssl_core.ssl.method import PairBatch, SslMethod, method_module, method_names, two_views

every_variant = pytest.mark.parametrize(("name", "options"), variants(), ids=variant_name)
every_method = pytest.mark.parametrize("name", method_names())


def adam(method: SslMethod) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameter for parameter in method.parameters() if parameter.requires_grad)


def test_the_methods_of_the_papers_are_there() -> None:
    papers = {"simclr", "mocov2", "byol", "simsiam", "barlow_twins", "vicreg", "triplet"}
    assert papers <= set(method_names())


@every_variant
def test_two_steps_give_finite_loss_and_gradients_that_reach_every_weight(name: str, options: dict[str, bool]) -> None:
    method = build_method(name, **options)
    losses = train(method, adam(method), range(2))
    assert all(math.isfinite(loss) for loss in losses)
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    assert [key for key, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert sum(float(p.grad.abs().sum()) for p in method.network.backbone.parameters()) > 0


@every_variant
def test_terms_are_named_scalars_and_descriptors_carry_no_gradient(name: str, options: dict[str, bool]) -> None:
    method = build_method(name, **options)
    output = method(make_batch(method))
    assert output.terms and all(term.ndim == 0 and isinstance(key, str) for key, term in output.terms.items())
    assert torch.allclose(output.total, sum(output.terms.values(), start=torch.zeros(())))
    for descriptors in (output.descriptors, output.positive_descriptors):
        if descriptors is not None:
            assert descriptors.shape == (4, 8) and not descriptors.requires_grad
            assert torch.allclose(descriptors.norm(dim=1), torch.ones(4))


@every_variant
def test_state_dict_resumes_exactly(name: str, options: dict[str, bool]) -> None:
    def fresh() -> tuple[SslMethod, torch.optim.Optimizer]:
        method = build_method(name, **options)
        return method, adam(method)

    straight, optimiser = fresh()
    train(straight, optimiser, range(4), positions=True)
    half, half_optimiser = fresh()
    train(half, half_optimiser, range(2), positions=True)
    resumed, resumed_optimiser = fresh()
    resumed.load_state_dict(half.state_dict())
    resumed_optimiser.load_state_dict(half_optimiser.state_dict())
    train(resumed, resumed_optimiser, range(2, 4), positions=True)
    for key, value in straight.state_dict().items():
        assert torch.equal(value.nan_to_num(-1.0), resumed.state_dict()[key].nan_to_num(-1.0)), key


@every_method
def test_state_names_no_tensor_twice(name: str) -> None:
    stored = [value.data_ptr() for value in build_method(name).state_dict().values() if value.numel()]
    assert len(stored) == len(set(stored))


@every_method
def test_projector_of_the_network_replaces_that_of_the_method(name: str) -> None:
    method = build_method(name, projector=ProjectorConfig(2, 6, batch_norm=True)).eval()
    batch = make_batch(method)
    assert list(method.projector.parameters()) == [] and method.embedding_dim == method.network.dimension == 6
    assert torch.allclose(method(batch).descriptors, method.network(batch.x), atol=1e-6)
    train(method.train(), adam(method), range(1))
    assert all(p.grad is not None for p in method.network.projector.parameters())


@every_method
def test_negatives_in_two_views_are_pairs_of_the_batch(name: str) -> None:
    method = build_method(name)
    pairs_per_query = 1 + method.negatives_per_query if method.negative_views == 2 else 1
    assert method.queries_per_step(12) == 12 // pairs_per_query


@every_method
def test_settings_become_options_of_the_training(name: str) -> None:
    config = with_options(method_module(name).Config)(method=name)
    assert config.options == method_module(name).Config()


def test_concatenated_form_puts_negatives_after_queries_in_their_order() -> None:
    def numbered(first: int, *shape: int) -> torch.Tensor:
        return torch.arange(first, first + math.prod(shape)).view(*shape, 1, 1, 1).float()

    batch = PairBatch(
        numbered(0, 2),
        numbered(10, 2),
        numbered(20, 2, 2),
        numbered(30, 2, 2),
        positions_m=torch.zeros(2, 2),
        negative_positions_m=torch.ones(2, 2, 2),
    )
    views = two_views(batch)
    assert views.x.flatten().tolist() == [0, 1, 20, 21, 22, 23]
    assert views.y.flatten().tolist() == [10, 11, 30, 31, 32, 33]
    assert views.positions_m is not None and views.positions_m[:, 0].tolist() == [0, 0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="second view"):
        two_views(dataclasses.replace(batch, negatives_y=None))


def test_unknown_method_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"--method byoll is unknown: choose one of .*mocov2.*triplet"):
        method_module("byoll")
