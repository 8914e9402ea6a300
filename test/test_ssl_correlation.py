"""Off-diagonal squares of a correlation matrix: two forms, one answer."""

from __future__ import annotations

import pytest
import torch
from ssl_support import normal

from vgssl_core.ssl import correlation
from vgssl_core.ssl.correlation import gram, off_diagonal_squares


def value_and_gradients(a: torch.Tensor, b: torch.Tensor, form: str) -> list[torch.Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in (a, b)]
    value = off_diagonal_squares(*inputs, form)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


@pytest.mark.parametrize("shape", [(2, 1), (3, 40), (40, 3), (16, 16), (64, 300)])
def test_both_forms_give_the_same_value_and_gradient(shape: tuple[int, int]) -> None:
    a, b = normal(*shape, seed=1), normal(*shape, seed=2)
    c = a.T @ b
    expected = (c - torch.diag(c.diagonal())).square().sum()
    rows, features = (value_and_gradients(a, b, form) for form in ("rows", "features"))
    for one, other in zip(rows, features, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert float(rows[0]) == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("form", ["rows", "features"])
def test_one_view_with_itself_equals_two_equal_views(form: str) -> None:
    a = normal(5, 9, seed=1).requires_grad_()
    itself = off_diagonal_squares(a, a, form)
    (gradient,) = torch.autograd.grad(itself, a)
    value, first, second = value_and_gradients(a.detach(), a.detach(), form)
    assert float(itself.detach()) == pytest.approx(float(value), rel=1e-12)
    assert torch.allclose(gradient, first + second, rtol=1e-10)


@pytest.mark.parametrize(
    ("rows", "features", "views", "smaller"),
    [(64, 4096, 2, True), (96, 128, 2, True), (97, 128, 2, False), (128, 128, 1, True), (256, 128, 1, False)],
)
def test_the_cheaper_form_multiplies_the_smaller_matrices(
    rows: int, features: int, views: int, smaller: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda p, q: shapes.append((len(p), q.shape[1])) or torch.mm(p, q))
    a = torch.ones(rows, features)
    off_diagonal_squares(a, a if views == 1 else torch.ones(rows, features))
    assert shapes == [(rows, rows)] * views if smaller else [(features, features)]


def test_float32_keeps_its_digits_in_both_forms() -> None:
    a, b = (correlation.centred(normal(64, 2048, seed=seed)) for seed in (1, 2))
    exact = float(off_diagonal_squares(a, b, "features"))
    for form in ("rows", "features"):
        assert float(off_diagonal_squares(a.float(), b.float(), form)) == pytest.approx(exact, rel=1e-5)


def test_products_of_rows_have_the_gradients_of_a_product_with_itself() -> None:
    x = normal(4, 3, seed=1).requires_grad_()
    assert torch.equal(gram(x), x @ x.T)
    assert torch.autograd.gradcheck(gram, x) and torch.autograd.gradgradcheck(gram, x)
