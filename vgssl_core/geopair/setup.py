"""From settings to a trainer that is ready to go; everything that can be refused is refused here, first."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.augment import PairAugmentation
from vgssl_core.geopair.batches import BatchLoader
from vgssl_core.geopair.config import TrainConfig
from vgssl_core.geopair.continuation import check_data, check_settings, description, manifest
from vgssl_core.geopair.decoded_cache import DecodedCache
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.effects import check_effects
from vgssl_core.geopair.images import ImageMemory, ImageStore, limit_opencv_threads
from vgssl_core.geopair.inherited import inherit
from vgssl_core.geopair.overfit import few_pairs
from vgssl_core.geopair.pair_config import PairConfig
from vgssl_core.geopair.pairs import GeoPairs
from vgssl_core.geopair.run_folder import RunFolder
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.geopair.trainer import Trainer
from vgssl_core.geopair.training_set import TrainingSet, network_input
from vgssl_core.geopair.validation import Validation
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import DescriptorNet, NetworkConfig, best_device, build_network
from vgssl_core.models.backbones import input_multiple
from vgssl_core.models.from_data import CLUSTER_IMAGES, initialise_pooling
from vgssl_core.models.initial import initialise
from vgssl_core.models.input_size import input_size
from vgssl_core.places import Places, PlaceSet, read_place_set, splits
from vgssl_core.ssl.method import SslMethod, TrainingScale, method_module

logger = logging.getLogger(__name__)

#: Images at a time on the device while clusters are sought.
_CLUSTER_BATCH = 32


def build_trainer(config: TrainConfig, processes: Processes | None = None) -> Trainer:
    """Check everything and build a trainer; with ``config.resume`` it stands where the run stopped.

    Args:
        config: Made by `with_options` of the method's ``Config``; ``data`` and ``out`` are set.
        processes: That train together; None is this one alone.

    Raises:
        ConfigError: A setting that cannot work, pre-trained weights that cannot be had, or a run folder in use.
        DataError: Sets that cannot be used.
    """
    config.check()
    if config.data is None or config.out is None:
        raise ConfigError("Training needs --data DIR and --out RUN.")
    processes = processes or Processes(best_device(config.device))
    limit_opencv_threads()
    torch.manual_seed(config.seed)
    run = _open_run(config)
    places, validation_places = read_sets(config)
    pairs = GeoPairs(places, config.pairs)
    check_effects(config, method_module(config.method).Method, validation_places is not None, pairs.own_streets)
    told = description(config, places, validation_places, pairs)
    resumes = config.resume and run.has_last
    if resumes:
        check_data(run.path, run.manifest(), told)
    preprocessing = _preprocessing(config, places)
    network = build_network(_network_config(config, preprocessing, resumes))
    network = network.to(processes.device, memory_format=torch.channels_last)
    images = _Images(config, preprocessing, processes, resumes)
    queries, database = images.stores(pairs.queries, pairs.database, config.reduced_decoding)
    if not resumes:
        _prepare(network, config, database, preprocessing)
    method, rows = _method(config, network, places, len(pairs), processes)
    if config.init is not None and not resumes and (taken := inherit(method, config.method, RunFolder(config.init))):
        logger.info("Of the same run: %s.", ", ".join(taken))
    validation = None if validation_places is None else images.validation(validation_places, config.recall_radius_m)
    augmentation = PairAugmentation(config.augment, preprocessing)
    share = (processes.rank, processes.count)
    loader = BatchLoader(queries, database, augmentation, rows, images.threads, method.negative_views, *share)
    data = TrainingSet(
        pairs,
        queries,
        database,
        preprocessing,
        loader,
        rows_per_step=rows * config.accumulate,
        seed=config.seed,
        queries_per_epoch=config.queries_per_epoch,
        by_descriptors=_chosen_by_descriptors(config.pairs, method),
    )
    trainer = Trainer(config, method, data, validation, run, processes)
    processes.wait()  # all have looked at the folder before the first writes to it
    if resumes:
        trainer.resume()
    elif processes.first:
        if config.resume:
            logger.info("%s ended before its first checkpoint: training from the beginning.", config.out)
        run.begin(manifest(config, network, preprocessing, told), (validation_places or places).database.paths)
    return trainer


def _network_config(config: TrainConfig, preprocessing: Preprocessing, resumes: bool) -> NetworkConfig:
    """At the input size; what a checkpoint of the run brings is not sought where the first weights came from."""
    wanted = dataclasses.replace(config.network_config(), width=preprocessing.width, height=preprocessing.height)
    return dataclasses.replace(wanted, pretrained=False, weights=None) if resumes else wanted


class _Images:
    """Stores of images that share memory, cache and threads."""

    def __init__(self, config: TrainConfig, preprocessing: Preprocessing, processes: Processes, resumes: bool) -> None:
        self.threads = config.workers or max(1, (os.cpu_count() or 1) // processes.here)
        self._preprocessing, self._memory = preprocessing, ImageMemory(config.memory_mib // processes.here)
        # A run that goes on looked at them when it began.
        self._part = slice(0) if resumes else slice(processes.rank, None, processes.count)
        self._cache = None if config.cache_dir is None else DecodedCache(config.cache_dir, config.cache_mib)

    def stores(self, queries: Places, database: Places, reduced: bool = False) -> tuple[ImageStore, ImageStore]:
        """Of both parts of a set; of a set without queries it is one store."""
        first = self._store(queries.paths, reduced)
        return first, first if database is queries else self._store(database.paths, reduced)

    def validation(self, places: PlaceSet, radius_m: float) -> Validation:
        """Recall on a set."""
        return Validation(places, *self.stores(places.queries, places.database), self._preprocessing, radius_m)

    def _store(self, paths: Sequence[Path], reduced: bool) -> ImageStore:
        return ImageStore(paths, self._preprocessing, self._memory, self.threads, self._cache, reduced, self._part)


def _prepare(network: DescriptorNet, config: TrainConfig, database: ImageStore, preprocessing: Preprocessing) -> None:
    """Give a network what it starts from besides its random or pre-trained weights."""
    brought = network.loaded
    if config.init is not None:
        started = initialise(network, config.init)
        logger.info("Initial weights: %s.", started)
        brought = started.filled.taken
    if any(name.startswith("pooling.") for name in brought):
        return
    wanted = generator(Stream.CLUSTERS, config.seed).permutation(len(database))[:CLUSTER_IMAGES]
    device = next(network.parameters()).device
    batches = (network_input(pixels, preprocessing, device) for pixels in database.batches(wanted, _CLUSTER_BATCH))
    if initialise_pooling(network, batches, config.seed):
        logger.info("The clusters of --pooling %s were found on %d images.", config.pooling, len(wanted))


def _method(
    config: TrainConfig, network: DescriptorNet, places: PlaceSet, pairs: int, processes: Processes
) -> tuple[SslMethod, int]:
    """The method on its device, and the queries of a batch: fewer than asked for where the set is small."""
    if pairs < 2:
        raise DataError(f"{places.name} offers {pairs} pair: training needs at least 2.")
    scale = TrainingScale(pairs, config.batch_size)
    method = method_module(config.method).Method(network, config.options, scale)  # type: ignore[attr-defined]
    rows = method.queries_per_step(config.batch_size)
    if not rows:
        raise ConfigError(f"--batch_size {config.batch_size} leaves no query beside the hard negatives: raise it.")
    if rows > pairs:
        logger.info("There are only %d pairs: a batch has %d queries instead of %d.", pairs, pairs, rows)
    return method.to(processes.device), min(rows, pairs)


def _chosen_by_descriptors(config: PairConfig, method: SslMethod) -> bool:
    mines = method.negatives_per_query > 0 and config.mining in ("partial", "full")
    return mines or config.positive == "nearest"


def read_sets(config: TrainConfig) -> tuple[PlaceSet, PlaceSet | None]:
    """The training set, and the validation set if there is one."""
    assert config.data is not None
    places = read_place_set(config.data, "train")
    if config.overfit:
        few = few_pairs(places, config.pairs, config.overfit)
        return few, few
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
    return Preprocessing(*input_size(places.database.paths, config.pixels, input_multiple(config.backbone)))


def _open_run(config: TrainConfig) -> RunFolder:
    assert config.out is not None
    run = RunFolder(config.out)
    if not config.resume:
        if run.exists:
            raise ConfigError(f"{config.out} holds a run already: give another --out, or go on with --resume true.")
        return run
    check_settings(run.path, run.manifest(), config)
    return run
