"""Products of a batch with itself: similarities of its rows, and how much its features repeat each other.

The off-diagonal squares of C = AᵀB, D x D, are ‖AᵀB‖² − Σ C_ii², and ‖AᵀB‖² = tr(AᵀB BᵀA) = Σ (AAᵀ ∘ BBᵀ), a sum over
two N x N matrices. Both forms are exact; the smaller matrices are much cheaper where a batch has fewer rows than an
embedding has features.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

#: Which products to take: of rows (N x N), of features (D x D), or the ones that cost less.
Form = Literal["rows", "features", "cheaper"]


def centred(x: Tensor) -> Tensor:
    """(N, D) embeddings less their mean over the batch.

    Raises:
        ValueError: Fewer than two rows have no variance.
    """
    if len(x) < 2:
        raise ValueError(f"a loss over the statistics of a batch needs at least 2 rows, not {len(x)}")
    return x - x.mean(dim=0)


def variance(x: Tensor) -> Tensor:
    """(D,) variance over the batch of (N, D) centred embeddings, with N − 1 below."""
    return x.square().sum(dim=0) / (len(x) - 1)


def gram(x: Tensor) -> Tensor:
    """(N, N) products of the rows of (N, D), XXᵀ, whose gradient takes one product instead of two."""
    return _Gram.apply(x)


def off_diagonal_squares(a: Tensor, b: Tensor, form: Form = "cheaper") -> Tensor:
    """Σ_{i≠j} (AᵀB)_ij².

    Args:
        a: (N, D).
        b: (N, D); the same tensor for the features of one view among themselves.
        form: How to compute it.

    Returns:
        Scalar.
    """
    if form == "cheaper":
        form = "rows" if _rows_are_cheaper(a, b) else "features"
    if b is a:
        total = gram(a if form == "rows" else a.T).square().sum()
    elif form == "rows":
        total = (gram(a) * gram(b)).sum()
    else:
        total = (a.T @ b).square().sum()
    return total - (a * b).sum(dim=0).square().sum()


def _rows_are_cheaper(a: Tensor, b: Tensor) -> bool:
    """By the products of matrices, forward and backward: 2 N²D or 2 ND² for one view, 4 N²D or 3 ND² for two."""
    rows, features = a.shape
    return rows <= features if b is a else 4 * rows <= 3 * features


class _Gram(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.T

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient + gradient.T) @ x
