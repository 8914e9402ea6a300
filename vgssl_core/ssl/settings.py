"""Refusal of settings that cannot work."""

from __future__ import annotations

from vgssl_core.errors import ConfigError
from vgssl_core.ssl.method import MethodConfig


def require(config: MethodConfig, *demands: tuple[str, bool, str]) -> None:
    """Refuse the first setting that is not right.

    Args:
        config: Of a method.
        demands: Name of a setting, whether its value is right, and what to give instead.

    Raises:
        ConfigError: Naming the setting as the user gives it, its value and the remedy.
    """
    for name, right, wanted in demands:
        if not right:
            raise ConfigError(f"options.{name} is {getattr(config, name)}: give {wanted}.")
