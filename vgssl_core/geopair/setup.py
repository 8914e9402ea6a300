"""From settings to a trainer that is ready to go; everything that can be refused is refused here, first."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import torch

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.augment import PairAugmentation
from vgssl_core.geopair.batches import BatchLoader
from vgssl_core.geopair.config import TrainConfig, plain
from vgssl_core.geopair.images import ImageMemory, ImageStore, limit_opencv_threads
from vgssl_core.geopair.pairs import GeoPairs
from vgssl_core.geopair.run_folder import FORMAT, RunFolder, versions
from vgssl_core.geopair.trainer import Trainer
from vgssl_core.geopair.validation import Validation
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import best_device, build_network, computes_bfloat16
from vgssl_core.models.input_size import input_size
from vgssl_core.places import PlaceSet, read_place_set, splits
from vgssl_core.ssl.method import TrainingScale, method_module

logger = logging.getLogger(__name__)

#: Settings that may differ between a run and its continuation.
_FREE = {
    *("resume", "out", "device", "workers", "memory_mib", "profile"),
    *("max_minutes", "max_cpu_minutes", "max_steps", "early_stop"),
}


def build_trainer(config: TrainConfig) -> Trainer:
    """Check everything and build a trainer; with ``config.resume`` it stands where the run stopped.

    Args:
        config: Made by `with_options` of the method's ``Config``; ``data`` and ``out`` are set.

    Raises:
        ConfigError: A setting that cannot work, pre-trained weights that cannot be had, or a run folder in use.
        DataError: Sets that cannot be used.
    """
    config.check()
    if config.data is None or config.out is None:
        raise ConfigError("Training needs --data DIR and --out RUN.")
    limit_opencv_threads()
    torch.manual_seed(config.seed)
    module, device = method_module(config.method), best_device(config.device)
    run = _open_run(config)
    network = build_network(config.network_config()).to(memory_format=torch.channels_last)
    network.mixed_precision = config.precision == "bf16" or (config.precision == "auto" and computes_bfloat16(device))
    places, validation_places = read_sets(config)
    pairs = GeoPairs(places, config.pairs)
    batch_size = min(config.batch_size, len(pairs))
    if batch_size < 2:
        raise DataError(f"{places.name} offers {len(pairs)} pair: training needs at least 2.")
    if batch_size < config.batch_size:
        logger.info("There are only %d pairs: the batch size is %d.", len(pairs), batch_size)
    options = config.options  # type: ignore[attr-defined]
    method = module.Method(network, options, TrainingScale(len(pairs), batch_size)).to(device)
    preprocessing = _preprocessing(config, places)
    threads, memory = config.workers or os.cpu_count() or 1, ImageMemory(config.memory_mib)
    queries, database = (
        ImageStore(part.paths, preprocessing, memory, threads) for part in (pairs.queries, pairs.database)
    )
    validation = None
    if validation_places is not None:
        validation = Validation(validation_places, preprocessing, config.recall_radius_m, memory, threads)
    augmentation = PairAugmentation(config.augment, preprocessing)
    loader = BatchLoader(queries, database, augmentation, batch_size, threads, method.negative_views)
    trainer = Trainer(config, method, preprocessing, pairs, queries, database, loader, validation, run, batch_size)
    if config.resume and run.has_last:
        trainer.resume()
    else:
        if config.resume:
            logger.info("%s ended before its first checkpoint: training from the beginning.", config.out)
        shown = validation_places or places
        run.begin(_manifest(config, preprocessing, places, validation_places, pairs), shown.database.paths)
    return trainer


def read_sets(config: TrainConfig) -> tuple[PlaceSet, PlaceSet | None]:
    """The training set, and the validation set if there is one."""
    assert config.data is not None
    places = read_place_set(config.data, "train")
    if config.val is not None:
        return places, _with_queries(read_place_set(config.val, "val"))
    if "val" in splits(config.data):
        logger.info("Validation: the val split of %s.", config.data)
        return places, _with_queries(read_place_set(config.data, "val"))
    logger.warning(
        "No validation set: the last weights are kept as the best. Give one with --val DIR to keep those with the "
        "best Recall@5."
    )
    return places, None


def _with_queries(places: PlaceSet) -> PlaceSet:
    if not len(places.queries):
        raise DataError(f"The validation set {places.name} has no queries: give another --val.")
    return places


def _preprocessing(config: TrainConfig, places: PlaceSet) -> Preprocessing:
    if config.width:
        return Preprocessing(config.width, config.height)
    return Preprocessing(*input_size(places.database.paths, config.pixels))


def _open_run(config: TrainConfig) -> RunFolder:
    assert config.out is not None
    run = RunFolder(config.out)
    if not config.resume:
        if run.exists:
            raise ConfigError(f"{config.out} holds a run already: give another --out, or go on with --resume true.")
        return run
    old, new = run.manifest()["config"], plain(config)
    changed = [key for key in new if key not in _FREE and old.get(key) != new[key]]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{config.out} was trained with {key} {old.get(key)}, not {new[key]}: resume with the same settings, or "
            "start another run."
        )
    return run


def _manifest(
    config: TrainConfig, preprocessing: Preprocessing, places: PlaceSet, validation: PlaceSet | None, pairs: GeoPairs
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "method": config.method,
        "seed": config.seed,
        "network": config.network_config().to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "data": {
            "train": str(config.data),
            "train_name": places.name,
            "queries": len(places.queries),
            "database": len(places.database),
            "pairs": len(pairs),
            "queries_without_positive": pairs.dropped,
            "val": None if validation is None else str(validation.root),
            "val_name": None if validation is None else validation.name,
        },
        "versions": versions(),
        "config": plain(dataclasses.replace(config, resume=False)),
    }
