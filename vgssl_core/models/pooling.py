"""Poolings by name, with their options."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from vgssl_core.errors import ConfigError
from vgssl_core.models import poolings


def build_pooling(name: str, options: Mapping[str, int | float], channels: int, tokens: int) -> nn.Module:
    """A pooling for features of that shape.

    Args:
        name: Module of `vgssl_core.models.poolings`.
        options: Its keyword arguments.
        channels: C of the feature map and of the tokens.
        tokens: T, class tokens that come with the map.

    Raises:
        ConfigError: Unknown pooling, unknown option, or a value of the wrong type or size.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(poolings.__path__))
    if name not in known:
        raise ConfigError(f"--pooling {name} is unknown: choose one of {', '.join(known)}.")
    pooling = importlib.import_module(f"{poolings.__name__}.{name}").Pooling
    numbers = _checked(name, options, pooling)
    return pooling(channels, tokens, **numbers) if takes_tokens(pooling) else pooling(channels, **numbers)


def takes_tokens(pooling: nn.Module | type[nn.Module]) -> bool:
    """Whether a pooling reads the class tokens too."""
    return getattr(pooling, "takes_tokens", False)


def _checked(name: str, options: Mapping[str, Any], pooling: type[nn.Module]) -> dict[str, int | float]:
    parameters = inspect.signature(pooling).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    for key, value in options.items():
        if key not in defaults:
            takes = f"it takes {', '.join(defaults)}" if defaults else "it takes none"
            raise ConfigError(f"--pooling_options {key}: {name} has no such option, {takes}.")
        whole = isinstance(defaults[key], int)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"--pooling_options {key} is {value}: give {kind} above 0.")
    return {key: type(defaults[key])(value) for key, value in options.items()}
