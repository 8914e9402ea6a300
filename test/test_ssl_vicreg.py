"""VICReg: closed form, gradient, both forms of the sum, symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from ssl_support import assert_order_does_not_matter, dot, normal

from vgssl_core.errors import ConfigError
from vgssl_core.models import ProjectorConfig
from vgssl_core.ssl.vicreg import Config, vicreg_terms


def by_hand(x: torch.Tensor, y: torch.Tensor, config: Config) -> dict[str, float]:
    count, dim = x.shape

    def centred(column: list[float]) -> list[float]:
        return [value - sum(column) / count for value in column]

    lacking = repeated = 0.0
    for view in (x, y):
        columns = [centred(column) for column in view.T.tolist()]
        covariance = [[dot(a, b) / (count - 1) for b in columns] for a in columns]
        lacking += sum(max(0.0, 1 - math.sqrt(covariance[i][i] + 1e-4)) for i in range(dim)) / dim / 2
        repeated += sum(covariance[i][j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
    return {
        "invariance": config.invariance_weight * math.dist(x.flatten().tolist(), y.flatten().tolist()) ** 2 / x.numel(),
        "variance": config.variance_weight * lacking,
        "covariance": config.covariance_weight * repeated,
    }


def total(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return sum(vicreg_terms(x, y, Config()).values(), start=x.new_zeros(()))


@pytest.mark.parametrize("shape", [(2, 1), (2, 6), (5, 4), (9, 17)])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 3.0)])
@pytest.mark.parametrize("form", ["rows", "features", "cheaper"])
def test_terms_equal_their_closed_form(shape: tuple[int, int], weights: tuple[float, float, float], form: str) -> None:
    # Deviations about 1, so that some features lack variance and others do not.
    x, y, config = normal(*shape, seed=1) + 2, 0.9 * normal(*shape, seed=2), Config(*weights)
    terms = {name: float(value) for name, value in vicreg_terms(x, y, config, form).items()}
    assert terms == pytest.approx(by_hand(x, y, config), abs=1e-10)


@pytest.mark.parametrize("shape", [(4, 3), (3, 7)])
@pytest.mark.parametrize("form", ["rows", "features"])
def test_gradient_equals_the_numerical_one(shape: tuple[int, int], form: str) -> None:
    inputs = [normal(*shape, seed=seed).requires_grad_() for seed in (1, 2)]
    assert torch.autograd.gradcheck(lambda x, y: tuple(vicreg_terms(x, y, Config(), form).values()), inputs)


def test_views_may_change_places_and_rows_and_features_their_order() -> None:
    assert_order_does_not_matter(total)


def test_embeddings_are_not_normalised() -> None:
    x, y = normal(6, 5, seed=1), normal(6, 5, seed=2)
    terms, doubled = vicreg_terms(x, y, Config()), vicreg_terms(2 * x, 2 * y, Config())
    assert float(doubled["invariance"]) == pytest.approx(4 * float(terms["invariance"]), abs=1e-10)
    assert float(doubled["covariance"]) == pytest.approx(16 * float(terms["covariance"]), abs=1e-10)


def test_a_common_shift_of_both_views_changes_nothing() -> None:
    x, y = normal(6, 5, seed=1), normal(6, 5, seed=2)
    assert float(total(x + 100, y + 100)) == pytest.approx(float(total(x, y)), abs=1e-10)


def test_collapse_costs_variance_alone() -> None:
    terms = vicreg_terms(torch.ones(4, 3), torch.ones(4, 3), Config())
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"invariance": 0, "variance": 25 * (1 - 0.01), "covariance": 0}, abs=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("form", ["rows", "features"])
def test_constant_features_have_a_finite_gradient(value: float, form: str) -> None:
    x, y = (torch.full((4, 3), value, requires_grad=True) for _ in range(2))
    sum(vicreg_terms(x, y, Config(), form).values()).backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


def test_one_row_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        vicreg_terms(normal(1, 3, seed=1), normal(1, 3, seed=2), Config())


def test_the_papers_settings_are_the_defaults() -> None:
    assert Config() == Config(25.0, 25.0, 1.0, projector_layers=3, projector_dim=4096, hard_negatives=True)
    assert Config().projector() == ProjectorConfig(layers=3, dim=4096, batch_norm=True, last_bias=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("invariance_weight", -1.0),
        ("variance_weight", math.inf),
        ("covariance_weight", math.nan),
        ("projector_layers", -1),
        ("projector_dim", 0),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is {value}: give "):
        Config(**{name: value})
