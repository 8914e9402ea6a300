"""Settings that would change nothing: refused, or told where files of settings may come together so."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.config import TrainConfig
from vgssl_core.models import NetworkConfig
from vgssl_core.ssl.method import SslMethod

logger = logging.getLogger(__name__)


def check_effects(config: TrainConfig, method: type[SslMethod], validated: bool, own_streets: bool) -> None:
    """Say which settings have no effect, and which one would.

    Args:
        config: With the method's options.
        method: Its class.
        validated: There is a validation set.
        own_streets: The database alone is trained on.

    Raises:
        ConfigError: Patience without validation, or a mask of false negatives for a method that has no negatives.
    """
    if config.early_stop and not validated:
        raise ConfigError(
            f"--early_stop {config.early_stop} counts validations, and there is no validation set: give one with "
            "--val DIR, or --early_stop 0."
        )
    masks = config.pairs.mask_false_negatives
    if masks and not method.compares_places:
        raise ConfigError(
            f"--pairs.mask_false_negatives true has no effect: in method {config.method} the places of a batch are not "
            "each other's negatives. Set it to false."
        )
    if own_streets and method.compares_places and not masks:
        logger.info(
            "On one's own streets a batch often holds a place twice, which %s takes for two places: consider "
            "--pairs.mask_false_negatives true.",
            config.method,
        )
    _warn_of_lengths(config)


def _warn_of_lengths(config: TrainConfig) -> None:
    """Axes of the papers' ablations go over any method and network, also where there is no such axis."""
    if config.head == "none" and config.descriptor_dim != _default(NetworkConfig, "descriptor_dim"):
        logger.warning("--descriptor_dim %d has no effect: --head none keeps the pooling's.", config.descriptor_dim)
    options = config.options  # type: ignore[attr-defined]
    projector = options.projector()
    if projector is not None and not projector.layers and projector.dim != _default(type(options), "projector_dim"):
        logger.warning(
            "--options.projector_dim %d has no effect: there is no projector. Give it layers with "
            "--options.projector_layers.",
            projector.dim,
        )


def _default(settings: type, name: str) -> Any:
    return next((item.default for item in dataclasses.fields(settings) if item.name == name), None)
