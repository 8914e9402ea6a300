"""BYOL: closed form, gradient, stop-gradient, the order of optimiser and moving average."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import build_method, make_batch

from vgssl_core.errors import ConfigError
from vgssl_core.ssl.byol import Config
from vgssl_core.ssl.prediction import prediction_loss


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_loss_equals_its_closed_form() -> None:
    p, t = random(5, 7, seed=1), random(5, 7, seed=2)
    expected = 0.0
    for row, target in zip(p.tolist(), t.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(row, target, strict=True))
        expected += (2 - 2 * dot / (math.hypot(*row) * math.hypot(*target))) / 5
    assert float(prediction_loss(p, t)) == pytest.approx(expected, abs=1e-10)


def test_loss_is_the_squared_distance_of_unit_vectors_from_0_to_4() -> None:
    p, t = random(5, 7, seed=1), random(5, 7, seed=2)
    distances = torch.nn.functional.normalize(p) - torch.nn.functional.normalize(t)
    assert float(prediction_loss(p, t)) == pytest.approx(float(distances.square().sum(dim=1).mean()), abs=1e-10)
    assert float(prediction_loss(p, 3 * p)) == pytest.approx(0, abs=1e-10)
    assert float(prediction_loss(p, -p)) == pytest.approx(4, abs=1e-10)


def test_loss_agrees_with_lightly() -> None:
    lightly_loss = pytest.importorskip("lightly.loss")
    p, t = random(5, 7, seed=1), random(5, 7, seed=2)
    other = 2 + 2 * lightly_loss.NegativeCosineSimilarity()(p, t)  # lightly leaves out the constant and the 2
    assert float(prediction_loss(p, t)) == pytest.approx(float(other), abs=1e-10)


def test_gradient_equals_the_numerical_one_and_stops_at_the_target() -> None:
    target = random(3, 4, seed=2).requires_grad_()
    prediction = random(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: prediction_loss(p, target), prediction)
    prediction_loss(prediction, target).backward()
    assert target.grad is None


def test_terms_are_those_of_the_paper_in_both_directions() -> None:
    method, twin = build_method("byol"), build_method("byol")
    batch = make_batch(method)
    terms = method(batch).terms
    with torch.no_grad():
        x, y = (twin.predictor(twin.embed(images)[1]) for images in (batch.x, batch.y))
        there, back = prediction_loss(x, twin.target(batch.y)), prediction_loss(y, twin.target(batch.x))
    assert float(terms["prediction"].detach()) == pytest.approx(float(there), abs=1e-5)
    assert float(terms["prediction_reverse"].detach()) == pytest.approx(float(back), abs=1e-5)
    one_way = build_method("byol", symmetric=False)(batch)
    assert one_way.terms.keys() == {"prediction"} and one_way.positive_descriptors is None
    assert float(one_way.total.detach()) == pytest.approx(float(there), abs=1e-5)


def test_two_steps_move_the_target_after_the_optimiser() -> None:
    method = build_method("byol", momentum=0.9)
    optimiser = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    averages = [p.clone() for p in method.target.parameters()]
    for step in range(2):
        output = method(make_batch(method, step))
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
        for own, old in zip(method.target.parameters(), averages, strict=True):
            assert torch.allclose(own, old, atol=1e-6)
        method.after_step()
        trained = [*method.network.parameters(), *method.projector.parameters()]
        averages = [0.9 * old + 0.1 * new.detach() for old, new in zip(averages, trained, strict=True)]
        for own, wanted in zip(method.target.parameters(), averages, strict=True):
            assert torch.allclose(own, wanted, atol=1e-6)


def test_target_begins_as_the_network_takes_no_gradient_and_keeps_its_own_statistics() -> None:
    method = build_method("byol")
    for part in ("network", "projector"):
        copied, trained = getattr(method.target, part).state_dict(), getattr(method, part).state_dict()
        assert all(torch.equal(copied[key], value) for key, value in trained.items())
    method(make_batch(method)).total.backward()
    assert all(p.grad is None for p in method.target.parameters())
    statistics = copy.deepcopy(dict(method.target.named_buffers()))
    method.after_step()
    assert all(torch.equal(value, statistics[name]) for name, value in method.target.named_buffers())


@pytest.mark.parametrize(
    ("option", "value"), [("momentum", 1.0), ("projector_layers", -1), ("projector_dim", 0), ("predictor_dim", 0)]
)
def test_settings_that_cannot_work_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options.{option} is {value}: give"):
        Config(**{option: value})
