"""What ``run.yaml`` tells of a training, and whether the run can go on with the settings and images at hand."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.config import TrainConfig, plain
from vgssl_core.geopair.pairs import GeoPairs
from vgssl_core.geopair.run_folder import FORMAT, versions
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import DescriptorNet
from vgssl_core.places import PlaceSet

logger = logging.getLogger(__name__)

#: Settings that may differ between a run and its continuation.
_FREE = {
    *("resume", "out", "device", "workers", "memory_mib", "cache_dir", "cache_mib", "profile"),
    *("max_minutes", "max_cpu_minutes", "max_steps", "early_stop"),
}
#: What must be the same of the images; an older run that does not tell it is believed.
_SAME = ("queries", "database", "pairs", "images", "val_images")


def manifest(
    config: TrainConfig, network: DescriptorNet, preprocessing: Preprocessing, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Content of ``run.yaml``; ``data`` is that of `description`."""
    return {
        "format": FORMAT,
        "method": config.method,
        "seed": config.seed,
        "network": network.config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "data": dict(data),
        "versions": versions(),
        "config": plain(dataclasses.replace(config, resume=False, profile=False)),
    }


def description(
    config: TrainConfig, places: PlaceSet, validation: PlaceSet | None, pairs: GeoPairs
) -> dict[str, str | int | None]:
    """The images of a training in plain values: where they lie, how many they are, and hashes of their names."""
    return {
        "train": str(config.data),
        "train_name": places.name,
        "queries": len(places.queries),
        "database": len(places.database),
        "pairs": len(pairs),
        "queries_without_positive": pairs.dropped,
        "images": _names(places),
        "val": None if validation is None else str(validation.root),
        "val_name": None if validation is None else validation.name,
        "val_images": None if validation is None else _names(validation),
    }


def check_settings(run: Path, told: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse to go on with other settings than the run's.

    Args:
        run: Its folder, for the message.
        told: Content of its ``run.yaml``.
        config: To go on with.

    Raises:
        ConfigError: Naming the first setting that differs.
    """
    old, new = told["config"], plain(config)
    changed = [key for key in new if key not in _FREE and old.get(key) != new[key]]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{run} was trained with {key} {old.get(key)}, not {new[key]}: resume with the same settings, or "
            "start another run."
        )


def check_data(run: Path, told: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to go on where the sets have changed: a checkpoint's pairs and descriptors count their images.

    Args:
        run: Its folder, for the message.
        told: Content of its ``run.yaml``.
        data: `description` of the sets as they are now.

    Raises:
        DataError: Naming what differs.
    """
    old = told["data"]
    for key in (key for key in _SAME if key in old and old[key] != data[key]):
        name = data["val_name" if key.startswith("val") else "train_name"]
        what = f"has {data[key]} {key}, not {old[key]}" if isinstance(data[key], int) else "has other images or names"
        raise DataError(
            f"{name} {what} as when {run} was begun: bring the set back as it was, or start another run from these "
            f"weights with --init {run}."
        )


def compare_processes(before: int, now: int, config: TrainConfig) -> None:
    """Warn where other processes go on than trained up to here."""
    if before != now:
        logger.warning(
            "%d processes trained up to here and %d go on: the same batches, but sums are rounded otherwise%s.",
            before,
            now,
            "" if config.sync_batch_norm else ", and batch norm sees parts of another size",
        )


def _names(places: PlaceSet) -> str:
    """Hash of the names of all images, in order; a name tells where an image was taken."""
    found = sha256()
    for part in (places.queries, places.database):
        found.update("\n".join(path.name for path in part.paths).encode(errors="surrogateescape") + b"\0")
    return found.hexdigest()[:16]
