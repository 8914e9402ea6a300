"""Which images are of one place."""

from __future__ import annotations

import math

import torch

from vgssl_core.ssl.false_negatives import same_place


def test_mask_equals_the_distances_taken_one_by_one_at_utm_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    origin = torch.tensor([690_000.0, 9_400_000.0], dtype=torch.float64)
    a, b = (origin + 60 * torch.rand(n, 2, dtype=torch.float64, generator=generator) for n in (40, 30))
    expected = [[math.dist(p, q) <= 25.0 for q in b.tolist()] for p in a.tolist()]
    assert same_place(a, b, 25.0).tolist() == expected
    assert 0.1 < same_place(a, b, 25.0).double().mean() < 0.9


def test_the_radius_itself_is_the_same_place() -> None:
    here, there = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[15.0, 20.0]], dtype=torch.float64)
    assert same_place(here, there, 25.0).item() and not same_place(here, there, 24.999).item()


def test_a_radius_of_zero_leaves_one_spot_with_itself() -> None:
    positions = torch.arange(6, dtype=torch.float64).reshape(3, 2) + 5e6
    assert torch.equal(same_place(positions, positions, 0.0), torch.eye(3, dtype=torch.bool))
