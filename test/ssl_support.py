"""Exact numbers for the tests of losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch


def normal(*shape: int, seed: int) -> torch.Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_order_does_not_matter(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Neither of the views nor of the rows nor of the features."""
    x, y = normal(6, 5, seed=1), normal(6, 5, seed=2)
    rows, features = torch.randperm(6), torch.randperm(5)
    expected = pytest.approx(float(loss(x, y)), abs=1e-10)
    assert float(loss(y, x)) == expected
    assert float(loss(x[rows], y[rows])) == expected
    assert float(loss(x[:, features], y[:, features])) == expected


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Product of two vectors, number by number."""
    return math.fsum(p * q for p, q in zip(a, b, strict=True))
