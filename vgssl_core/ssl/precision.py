"""Losses keep their precision where the network computes in fewer bits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def at_least_float32(loss: Callable[..., Result]) -> Callable[..., Result]:
    """Compute a function outside of autocast, its float16 and bfloat16 arguments as float32.

    Sums of squares over thousands of features overflow float16 and lose all digits in bfloat16. The gradient comes
    back in the arguments' own precision; float64 stays float64.

    Args:
        loss: Takes at least one tensor by position.
    """

    @functools.wraps(loss)
    def precise(*args: Any, **kwargs: Any) -> Result:
        device = next(value.device.type for value in args if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*(_widened(value) for value in args), **kwargs)

    return precise


def _widened(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
