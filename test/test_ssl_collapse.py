"""The collapse detectors: their closed forms, what they fire on, and what leaves them silent."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import build_method, make_batch
from torch import nn
from torch.nn.functional import interpolate, normalize

from vgssl_core.ssl.collapse import effective_rank, health, spread
from vgssl_core.ssl.method import PairBatch, SslMethod


def units(count: int, dimension: int, rank: int | None = None) -> torch.Tensor:
    """Random unit vectors, in a random subspace of the given dimension."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, rank or dimension, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))[0]
    return normalize(x) @ basis[: x.shape[1]]


def test_spread_of_unit_vectors_is_what_their_mean_lacks_to_length_1() -> None:
    x = units(20, 6)
    assert float(spread(x)) == pytest.approx(math.sqrt(1 - float(x.mean(dim=0).square().sum())), abs=1e-10)
    assert float(spread(torch.cat([x, -x]))) == pytest.approx(1, abs=1e-10)
    assert float(spread(x[:1].expand(20, 6))) == 0


def test_effective_rank_equals_its_closed_form() -> None:
    # Centred, with singular values in the ratio 3 to 1: exp(-(3/4 log 3/4 + 1/4 log 1/4)).
    x = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]) + 7
    assert float(effective_rank(x)) == pytest.approx((4 / 3) ** 0.75 * 4**0.25, abs=1e-5)


def test_effective_rank_counts_equal_directions_whatever_the_rotation_and_the_mean() -> None:
    equal = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    rotation = torch.linalg.qr(units(5, 5))[0]
    assert float(effective_rank(equal)) == pytest.approx(5, abs=1e-4)
    assert float(effective_rank(3 * equal @ rotation + 1)) == pytest.approx(5, abs=1e-4)


def test_equal_descriptors_have_figures_and_a_problem() -> None:
    figures = health(torch.ones(8, 4))
    assert (figures.spread, figures.effective_rank, figures.largest_rank) == (0, 1, 4)
    assert "one point" in str(figures.problem())


def test_descriptors_that_are_not_finite_are_another_problem() -> None:
    figures = health(torch.full((4, 3), math.nan))
    assert math.isnan(figures.spread) and math.isnan(figures.effective_rank) and figures.problem() is None


@pytest.mark.parametrize(("count", "dimension"), [(8, 8), (32, 256), (64, 16), (4, 512)])
def test_vectors_over_the_whole_sphere_are_healthy(count: int, dimension: int) -> None:
    assert health(units(count, dimension)).problem() is None


def test_vectors_of_a_line_or_a_plane_are_not() -> None:
    for rank in (1, 2):
        assert "few directions" in str(health(units(32, 64, rank)).problem())


def test_a_network_is_healthy_until_its_head_collapses() -> None:
    method = build_method("triplet")
    head, images = method.network.head, make_batch(method, count=16).x

    def problem() -> str | None:
        with torch.no_grad():
            return health(method.network(images)).problem()

    assert problem() is None
    with torch.no_grad():
        head.weight.copy_(torch.outer(head.weight[:, 0], head.weight[0]) * 100)
        assert "few directions" in str(problem())
        head.weight.zero_()
        assert "one point" in str(problem())


def descriptors_after_training(method: SslMethod) -> torch.Tensor:
    """Of the last batch of a short training on noisy views of coarse patterns."""
    optimiser = torch.optim.Adam(method.parameters(), lr=0.02)
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        scene = interpolate(torch.randn(8, 3, 8, 8, generator=generator), (32, 32))
        output = method(PairBatch(*(scene + torch.randn(2, *scene.shape, generator=generator))))
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
    return output.descriptors


def test_simsiam_collapses_to_a_point_when_its_predictor_is_taken_away() -> None:
    whole = build_method("simsiam", projector_layers=0)
    assert health(descriptors_after_training(whole)).problem() is None
    without = build_method("simsiam", projector_layers=0)
    without.predictor = nn.Identity()
    assert "one point" in str(health(descriptors_after_training(without)).problem())
