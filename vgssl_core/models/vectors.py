"""Unit vectors."""

from __future__ import annotations

from torch import Tensor


def l2_normalised(x: Tensor, dim: int = 1) -> Tensor:
    """Unit vectors along ``dim``, written so that the exported graph stays plain."""
    return x / x.norm(dim=dim, keepdim=True).clamp_min(1e-12)
