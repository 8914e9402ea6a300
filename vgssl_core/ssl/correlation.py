"""How much the features of a batch repeat each other, by whichever matrix is smaller.

The off-diagonal squares of C = AᵀB, D x D, are ‖AᵀB‖² − Σ C_ii², and ‖AᵀB‖² = tr(AᵀB BᵀA) = Σ (AAᵀ ∘ BBᵀ), a sum over
two N x N matrices. Both forms are exact; the smaller matrices are much cheaper where a batch has fewer rows than an
embedding has features.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

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
    if form == "rows":
        rows = a @ a.T
        total = (rows * (rows if b is a else b @ b.T)).sum()
    else:
        total = (a.T @ b).square().sum()
    return total - (a * b).sum(dim=0).square().sum()


def _rows_are_cheaper(a: Tensor, b: Tensor) -> bool:
    """By multiplications: N²D for each matrix of rows, ND² for the one of features."""
    matrices = 1 if b is a else 2
    return matrices * a.shape[0] <= a.shape[1]
