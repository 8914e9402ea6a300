"""Losses outside of autocast."""

from __future__ import annotations

import pytest
import torch
from ssl_support import normal

from vgssl_core.ssl import barlow_twins, multi_similarity, simclr, vicreg
from vgssl_core.ssl.precision import at_least_float32


def losses(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    similarity = multi_similarity.multi_similarity_terms(
        torch.cat([x, y]), multi_similarity.all_pairs(2, len(x)), multi_similarity.Config()
    )
    return [
        simclr.nt_xent(x, y, 0.07),
        *barlow_twins.barlow_twins_terms(x, y, 0.0051).values(),
        *vicreg.vicreg_terms(x, y, vicreg.Config()).values(),
        *similarity.values(),
    ]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_embeddings_are_those_of_the_same_numbers_in_float32(kind: torch.dtype) -> None:
    x, y = (normal(6, 5, seed=seed).to(kind) for seed in (1, 2))
    with torch.autocast("cpu", kind):
        under_autocast = losses(x, y)
    both = zip(under_autocast, losses(x.float(), y.float()), strict=True)
    assert all(one.dtype == torch.float32 and torch.equal(one, two) for one, two in both)


def test_float64_stays_float64() -> None:
    x, y = normal(6, 5, seed=1), normal(6, 5, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(value.dtype == torch.float64 for value in losses(x, y))


def test_gradient_comes_back_in_the_embeddings_own_precision() -> None:
    x = normal(6, 5, seed=1).bfloat16().requires_grad_()
    sum(losses(x, x.detach())).backward()
    assert x.grad.dtype == torch.bfloat16 and torch.isfinite(x.grad).all()


def test_large_embeddings_do_not_overflow_as_they_would_in_half_precision() -> None:
    x, y = (300 * normal(64, 8, seed=seed).half() for seed in (1, 2))
    assert all(torch.isfinite(value) for value in losses(x, y))


def test_arguments_by_name_and_results_pass_through() -> None:
    @at_least_float32
    def described(x: torch.Tensor, factor: float, *, word: str) -> tuple[torch.dtype, float, str]:
        """Its own."""
        return x.dtype, factor, word

    assert described(torch.ones(1).half(), 2.0, word="yes") == (torch.float32, 2.0, "yes")
    assert described.__doc__ == "Its own."
