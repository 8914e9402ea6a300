"""Triplet loss: closed form and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from vgssl_core.ssl.triplet import triplet_loss


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_loss_equals_its_closed_form() -> None:
    q, p, n = random(3, 4, seed=1), random(3, 4, seed=2), random(3, 5, 4, seed=3)
    expected = 0.0
    for i in range(3):
        near = math.dist(q[i].tolist(), p[i].tolist())
        expected += sum(max(0.0, near - math.dist(q[i].tolist(), n[i, j].tolist()) + 0.1) for j in range(5)) / 15
    assert float(triplet_loss(q, p, n, 0.1)) == pytest.approx(expected, abs=1e-10)


def test_gradient_equals_the_numerical_one() -> None:
    inputs = [random(2, 3, seed=1), random(2, 3, seed=2), random(2, 2, 3, seed=3)]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, p, n: triplet_loss(q, p, n, 5.0), inputs)


def test_far_negatives_cost_nothing() -> None:
    q = torch.zeros(1, 2)
    assert float(triplet_loss(q, q, torch.ones(1, 1, 2), 0.1)) == 0.0


def test_gradient_is_finite_where_query_and_positive_coincide() -> None:
    q = torch.zeros(1, 2, requires_grad=True)
    triplet_loss(q, torch.zeros(1, 2), torch.zeros(1, 1, 2), 0.1).backward()
    assert torch.isfinite(q.grad).all()
