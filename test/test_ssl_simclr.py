"""SimCLR: closed form, gradient, symmetries, false negatives."""

from __future__ import annotations

import math

import pytest
import torch
from ssl_support import dot, normal

from vgssl_core.errors import ConfigError
from vgssl_core.models import ProjectorConfig
from vgssl_core.ssl.simclr import Config, nt_xent


def by_hand(
    x: torch.Tensor, y: torch.Tensor, temperature: float, one_place: torch.Tensor | None = None
) -> tuple[float, float]:
    """NT-Xent by loops: the sum over queries and over their partners, each by 2N."""
    count = len(x)
    z = [(row / row.norm()).tolist() for row in torch.cat([x, y])]

    def row(i: int) -> float:
        partner = (i + count) % (2 * count)
        values = {j: math.exp(dot(z[i], z[j]) / temperature) for j in range(2 * count) if j != i}
        if one_place is not None:
            values = {j: v for j, v in values.items() if j == partner or not one_place[i % count, j % count]}
        return -math.log(values[partner] / sum(values.values())) / (2 * count)

    return sum(map(row, range(count))), sum(map(row, range(count, 2 * count)))


def places(*labels: int) -> torch.Tensor:
    place = torch.tensor(labels)
    return place[:, None] == place


@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (7, 4), (12, 33)])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_loss_equals_its_closed_form(shape: tuple[int, int], temperature: float) -> None:
    x, y = 3 * normal(*shape, seed=1), normal(*shape, seed=2)
    assert float(nt_xent(x, y, temperature)) == pytest.approx(sum(by_hand(x, y, temperature)), abs=1e-10)


def test_closed_form_without_false_negatives() -> None:
    x, y, mask = normal(6, 5, seed=1), normal(6, 5, seed=2), places(0, 1, 0, 2, 1, 0)
    assert float(nt_xent(x, y, 0.3, mask)) == pytest.approx(sum(by_hand(x, y, 0.3, mask)), abs=1e-10)
    assert float(nt_xent(x, y, 0.3, mask)) < float(nt_xent(x, y, 0.3))


@pytest.mark.parametrize("mask", [None, places(0, 1, 0)])
def test_gradient_equals_the_numerical_one(mask: torch.Tensor | None) -> None:
    inputs = [normal(3, 4, seed=seed).requires_grad_() for seed in (1, 2)]
    assert torch.autograd.gradcheck(lambda x, y: nt_xent(x, y, 0.2, mask), inputs)


def test_views_may_change_places_and_rows_their_order() -> None:
    x, y, mask, order = normal(6, 5, seed=1), normal(6, 5, seed=2), places(0, 1, 0, 2, 3, 4), torch.randperm(6)
    loss = float(nt_xent(x, y, 0.07, mask))
    assert float(nt_xent(y, x, 0.07, mask)) == pytest.approx(loss, abs=1e-10)
    shuffled = nt_xent(x[order], y[order], 0.07, mask[order][:, order])
    assert float(shuffled) == pytest.approx(loss, abs=1e-10)


def test_length_of_an_embedding_does_not_matter() -> None:
    x, y = normal(4, 5, seed=1), normal(4, 5, seed=2)
    assert float(nt_xent(7 * x, y / 3, 0.07)) == pytest.approx(float(nt_xent(x, y, 0.07)), abs=1e-10)


def test_pairs_of_one_place_pull_and_push_each_other_not_at_all() -> None:
    # Rows 0 and 1 are one place, and their partners lie along axes of their own: only the pairs 0-1 could mix axes.
    x, y = torch.eye(8, dtype=torch.float64)[:4], torch.eye(8, dtype=torch.float64)[4:]
    y.requires_grad_()
    nt_xent(x, y, 0.07, places(0, 0, 1, 2)).backward()
    assert y.grad is not None
    assert y.grad[0, 1] == 0 == y.grad[1, 0] and y.grad[0, 5] == 0 == y.grad[1, 4]
    assert y.grad[0, 0] < 0 < y.grad[0, 2]  # still drawn to its partner, still pushed from another place


def test_a_batch_of_one_place_alone_has_nothing_to_tell_apart() -> None:
    x, y = (normal(3, 4, seed=seed).requires_grad_() for seed in (1, 2))
    loss = nt_xent(x, y, 0.07, places(0, 0, 0))
    loss.backward()
    assert float(loss.detach()) == 0 and not x.grad.any() and not y.grad.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_or_zero_rows_have_a_finite_gradient(value: float) -> None:
    x, y = (torch.full((4, 3), value, requires_grad=True) for _ in range(2))
    loss = nt_xent(x, y, 0.07)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(7), abs=1e-6)
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


def test_the_papers_settings_are_the_defaults() -> None:
    assert Config() == Config(temperature=0.07, projector_layers=1, projector_dim=1024, hard_negatives=True)
    assert Config().projector() == ProjectorConfig(layers=1, dim=1024, batch_norm=False, last_bias=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", math.nan), ("projector_layers", -1), ("projector_dim", 0)],
)
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is {value}: give "):
        Config(**{name: value})
