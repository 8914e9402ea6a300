"""Embedding the images of a map in shards, so that a build that was killed goes on where it was."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.builder import WORK_PREFIX
from vgssl_core.geomap.map_images import MapImages
from vgssl_core.geomap.map_rows import DescriptorRows
from vgssl_core.geomap.rows import check_unit_rows
from vgssl_core.geomap.shards import Failure, Shard, read_shard, shard_path, write_shard
from vgssl_core.inference import Embedder, embed_images
from vgssl_core.inference.embedding import OnError, judge_failures

#: A kill costs at most the embedding of this many images.
SHARD_IMAGES = 2000
#: Of the shards' files: another version takes none of them over.
_LAYOUT = 1
_KEY_LETTERS = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedShards:
    """Descriptors of the images that decode, on disk.

    Attributes:
        descriptors: (M, D) float32 unit rows, read as they are asked for.
        kept: (M,) int64, index of each row's image.
        failures: The images that do not decode.
    """

    descriptors: DescriptorRows
    kept: NDArray[np.int64]
    failures: tuple[Failure, ...]


@contextlib.contextmanager
def embedded_in_shards(
    out: str | Path,
    embedder: Embedder,
    images: MapImages,
    batch_size: int = 16,
    on_error: OnError = "raise",
    shard_images: int = SHARD_IMAGES,
) -> Iterator[EmbeddedShards]:
    """Embed the images of a map; the block makes the map of them.

    Finished shards lie in a work folder: in ``out`` where that is a folder, else beside it, so that nothing is at
    ``out`` before there is a map. Killed or stopped by an error, the next build of the same images with the same
    engine takes them over; a build of anything else at this place removes them. They are gone when the block ends
    well. Positions are not part of what is compared: with corrected ones a build goes on too.

    Args:
        out: The map's folder.
        embedder: The engine.
        images: The images.
        batch_size: Images per call of the engine.
        on_error: What to do with images that do not decode, see `embed_images`.
        shard_images: Images per shard.

    Raises:
        DataError: See `embed_images`; or descriptors are not of unit length, or the images are fewer than their
            positions.
        MapError: Files cannot be written (the disk is full), or another process builds the same.
    """
    out, total = Path(out), len(images.positions)
    folder = _work_folder(out, build_key(embedder, images, shard_images))
    shards: dict[int, Shard] = {}
    try:
        with _alone(folder, out), _kept_until_done(folder, shards, total):
            _sweep_others(out, folder)
            _take_over(shards, folder, total, shard_images, embedder.dimension)
            _embed_missing(shards, folder, embedder, images, batch_size, shard_images)
            result = _joined([shards[number] for number in sorted(shards)])
            judge_failures([failure[1:] for failure in result.failures], len(result.kept), on_error)
            yield result
    except OSError as problem:
        raise MapError(f"Cannot write the map {out}: {problem}. Make room, or mend what it names.") from problem


@contextlib.contextmanager
def _kept_until_done(folder: Path, shards: dict[int, Shard], total: int) -> Iterator[None]:
    """Remove the work folder after a block that ends well; else only where it holds nothing to go on from."""
    try:
        yield
    except BaseException:
        if any(len(shard) for shard in shards.values()):
            done = _images_of(shards)
            _log.info("%d of %d images are done and kept in %s: the same command goes on there.", done, total, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def build_key(embedder: Embedder, images: MapImages, shard_images: int) -> str:
    """Hash of all that the descriptors of a build come from: engine, images with their files' sizes and times."""
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(json.dumps(values).encode() + b"\n")

    # The number of threads changes nothing in a descriptor.
    engine = re.sub(r", \d+ threads?", "", getattr(embedder, "name", type(embedder).__name__))
    add(_LAYOUT, embedder.model_id, engine, shard_images)
    for source in images.positions.source:
        add(source)
    for path in images.files:
        try:
            found = os.stat(path)
        except OSError:
            add(str(path), None)
        else:
            add(str(path), found.st_size, found.st_mtime_ns)
    return digest.hexdigest()


def _work_folders(out: Path, key: str) -> tuple[Path, Path]:
    """What the work folder of a build is called in the map's folder, and beside it."""
    out = Path(os.path.realpath(out))
    return out / f"{WORK_PREFIX}{key}", out.parent / f"{WORK_PREFIX}{out.name}-{key}"


def _work_folder(out: Path, key: str) -> Path:
    inside, beside = _work_folders(out, key[:_KEY_LETTERS])
    # A first build that was killed while it wrote the map has left the folder of the map and its own beside it.
    there = [folder for folder in (inside, beside) if folder.is_dir()]
    return there[0] if there else inside if inside.parent.is_dir() else beside


@contextlib.contextmanager
def _alone(folder: Path, out: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(descriptor):
            raise MapError(f"Another process builds the map {out} of the same images: wait until it has ended.")
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep_others(out: Path, folder: Path) -> None:
    """Remove what builds of other images left at this place, unless they are at work."""
    for prefix in _work_folders(out, ""):
        key = re.compile(re.escape(prefix.name) + rf"[0-9a-f]{{{_KEY_LETTERS}}}")
        items = prefix.parent.iterdir() if prefix.parent.is_dir() else ()
        for item in [item for item in items if key.fullmatch(item.name) and item != folder]:
            descriptor = os.open(item, os.O_RDONLY)
            try:
                if _locked(descriptor):
                    shutil.rmtree(item, ignore_errors=True)
            finally:
                os.close(descriptor)


def _images_of(shards: dict[int, Shard]) -> int:
    return sum(shard.end - shard.begin for shard in shards.values())


def _ranges(total: int, shard_images: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + shard_images, total)) for begin in range(0, total, shard_images)]


def _take_over(shards: dict[int, Shard], folder: Path, total: int, shard_images: int, dimension: int) -> None:
    """Fill in the shards of an earlier build."""
    ranges = _ranges(total, shard_images)
    for number, (begin, end) in enumerate(ranges):
        shard = read_shard(shard_path(folder, number), begin, end, dimension)
        if shard is not None:
            shards[number] = shard
    if shards:
        _log.info(
            "Goes on with %d of %d shards (%d of %d images) of a build that was interrupted.",
            *(len(shards), len(ranges), _images_of(shards), total),
        )


def _embed_missing(
    shards: dict[int, Shard], folder: Path, embedder: Embedder, images: MapImages, batch_size: int, shard_images: int
) -> None:
    """Embed the images of the shards that are not there yet, and write those."""
    total = len(images.positions)
    ranges = _ranges(total, shard_images)
    missing = [number for number in range(len(ranges)) if number not in shards]
    items = iter(images.items)
    with tqdm(total=total, initial=_images_of(shards), desc="build map", unit="image") as bar:
        for number, (begin, end) in enumerate(ranges[: missing[-1] + 1] if missing else []):
            part = itertools.islice(items, end - begin)
            if number in shards:
                collections.deque(part, maxlen=0)  # A bag can only be read from its beginning; nothing is decoded.
                continue
            embedded = embed_images(embedder, part, batch_size, on_error="keep", bar=bar)
            if len(embedded.kept) + len(embedded.failures) != end - begin:
                raise DataError(f"{images.description} has changed while it was read: run the build again.")
            check_unit_rows(embedded.descriptors, [images.positions.source[begin + index] for index in embedded.kept])
            failed = np.setdiff1d(np.arange(begin, end), begin + embedded.kept).tolist()
            failures = [Failure(index, *told) for index, told in zip(failed, embedded.failures, strict=True)]
            shards[number] = write_shard(shard_path(folder, number), begin, end, embedded.descriptors, failures)


def _joined(shards: list[Shard]) -> EmbeddedShards:
    return EmbeddedShards(
        DescriptorRows(shards),
        np.concatenate([np.empty(0, np.int64), *(shard.kept for shard in shards)]).astype(np.int64),
        tuple(failure for shard in shards for failure in shard.failures),
    )
