"""Barlow Twins: closed form, gradient, both forms of the sum, symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from ssl_support import assert_order_does_not_matter, dot, normal

from vgssl_core.errors import ConfigError
from vgssl_core.models import ProjectorConfig
from vgssl_core.ssl.barlow_twins import Config, barlow_twins_terms


def by_hand(x: torch.Tensor, y: torch.Tensor, redundancy_weight: float) -> dict[str, float]:
    count, dim = x.shape

    def standardised(column: list[float]) -> list[float]:
        mean = sum(column) / count
        variance = sum((value - mean) ** 2 for value in column) / (count - 1)
        return [(value - mean) / math.sqrt(variance + 1e-4) for value in column]

    a, b = ([standardised(column) for column in view.T.tolist()] for view in (x, y))
    c = [[dot(a[i], b[j]) / count for j in range(dim)] for i in range(dim)]
    apart = sum(c[i][j] ** 2 for i in range(dim) for j in range(dim) if i != j)
    return {
        "invariance": sum((c[i][i] - 1) ** 2 for i in range(dim)),
        "redundancy": redundancy_weight * apart,
    }


def total(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return sum(barlow_twins_terms(x, y, 0.0051).values(), start=x.new_zeros(()))


@pytest.mark.parametrize("shape", [(2, 1), (2, 6), (5, 4), (9, 17)])
@pytest.mark.parametrize("redundancy_weight", [0.0, 0.0051, 1.0])
@pytest.mark.parametrize("form", ["rows", "features", "cheaper"])
def test_terms_equal_their_closed_form(shape: tuple[int, int], redundancy_weight: float, form: str) -> None:
    x, y = 3 * normal(*shape, seed=1) + 2, normal(*shape, seed=2)
    terms = barlow_twins_terms(x, y, redundancy_weight, form)
    expected = by_hand(x, y, redundancy_weight)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(4, 3), (3, 7)])
@pytest.mark.parametrize("form", ["rows", "features"])
def test_gradient_equals_the_numerical_one(shape: tuple[int, int], form: str) -> None:
    inputs = [normal(*shape, seed=seed).requires_grad_() for seed in (1, 2)]
    assert torch.autograd.gradcheck(lambda x, y: tuple(barlow_twins_terms(x, y, 0.3, form).values()), inputs)


def test_views_may_change_places_and_rows_and_features_their_order() -> None:
    assert_order_does_not_matter(total)


def test_embeddings_are_not_normalised_by_row() -> None:
    x, y = normal(6, 5, seed=1), normal(6, 5, seed=2)
    scale = torch.arange(1, 7, dtype=torch.float64)[:, None]
    assert abs(float(total(scale * x, y)) - float(total(x, y))) > 1e-3


def test_equal_views_of_independent_features_cost_nearly_nothing() -> None:
    # A 64 x 8 part of a Hadamard matrix: centred, uncorrelated features.
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    x = hadamard[:, 1:9]
    assert float(total(x, x)) == pytest.approx(8 * (1 - 63 / 64) ** 2, rel=0.02)
    assert float(barlow_twins_terms(x, x, 1.0)["redundancy"]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("form", ["rows", "features"])
def test_constant_features_have_a_finite_gradient(value: float, form: str) -> None:
    x, y = (torch.full((4, 3), value, requires_grad=True) for _ in range(2))
    loss = sum(barlow_twins_terms(x, y, 0.0051, form).values())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(3, abs=1e-6)
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


def test_one_row_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        barlow_twins_terms(normal(1, 3, seed=1), normal(1, 3, seed=2), 0.0051)


def test_the_papers_settings_are_the_defaults() -> None:
    assert Config() == Config(redundancy_weight=0.0051, projector_layers=2, projector_dim=2048, hard_negatives=True)
    assert Config().projector() == ProjectorConfig(layers=2, dim=2048, batch_norm=True, last_bias=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("redundancy_weight", -0.1), ("redundancy_weight", math.inf), ("projector_layers", -1), ("projector_dim", 0)],
)
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is {value}: give "):
        Config(**{name: value})
