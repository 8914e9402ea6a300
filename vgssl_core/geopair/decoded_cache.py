"""Decoded images on disk, memory-mapped: the second training of a set reads no JPEG.

An entry is a folder with two ``.npy`` files: the pixels of the first images of a set at one size, and for each image
what file it was made from, with a checksum. A row counts only when both agree, so that a killed fill, a changed image
and damage on the disk are all one case: the row is decoded again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.storage import atomic_folder, check_output_folder

logger = logging.getLogger(__name__)

#: Goes up when decoding or resizing changes, so that older entries are no longer found.
_FORMAT = 1
_PIXELS, _ROWS, _LOCK = "pixels.npy", "rows.npy", ".lock"
_ROW = np.dtype([("source", "<u8"), ("checksum", "<u4")])
#: Nothing else in the folder is ever removed.
_ENTRY_NAME = re.compile(r"decoded-[0-9a-f]{32}")
#: Source of a row that holds no image.
_NO_FILE = 0
#: Headers of both files and a margin.
_OVERHEAD_BYTES = 1024


class DecodedCache:
    """A folder of decoded images that stays within a size.

    Where a new set does not fit, the sets that were opened longest ago are removed, but none that this process uses or
    another fills; what still does not fit is not kept.

    Raises:
        ConfigError: The folder cannot be made or written to.
    """

    def __init__(self, folder: Path, mib: int) -> None:
        check_output_folder(folder, "--cache_dir")
        self._folder, self._limit_bytes = folder, mib * 2**20
        self._used: set[Path] = set()

    @contextlib.contextmanager
    def opened(self, paths: Sequence[Path], height: int, width: int, reduced: bool) -> Iterator[CachedImages | None]:
        """The images of a set at one size, to be filled within the block; None where not even one fits.

        Images that were decoded at a fraction of their size are kept apart from those that were decoded whole. One
        process at a time is in such a block of one set, so that several trainings, or the processes of one, decode each
        image once. On a full disk there is a log line, and what does not fit is not kept.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        entry = self._folder / _entry_name(paths, f"{_FORMAT} {height} {width} {reduced}")
        self._used.add(entry)
        with _locked(_lock_of(entry)):
            with _locked(self._folder / _LOCK):
                rows = self._rows_that_fit(entry, len(paths), height * width * 3)
                if rows < len(paths):
                    logger.info("The cache %s has room for %d of %d images.", self._folder, rows, len(paths))
                usable = rows > 0 and _prepared(entry, (rows, height, width, 3))
            yield CachedImages(entry, np.array([_source(path) for path in paths[:rows]], np.uint64)) if usable else None

    def _rows_that_fit(self, entry: Path, count: int, image_bytes: int) -> int:
        """Remove older entries for a new one where that helps; how many of its images fit."""
        row_bytes = image_bytes + _ROW.itemsize
        others = [item for item in self._folder.iterdir() if _ENTRY_NAME.fullmatch(item.name) and item != entry]
        sizes = {item: sum(file.stat().st_size for file in item.iterdir()) for item in others}
        free = self._limit_bytes - sum(sizes.values()) - _OVERHEAD_BYTES
        for item in sorted(set(others) - self._used, key=lambda item: item.stat().st_mtime):
            if free >= count * row_bytes:
                break
            with _locked(_lock_of(item), wait=False) as idle:
                if idle:
                    logger.info("Removing %s from the cache to make room.", item)
                    shutil.rmtree(item)
                    free += sizes[item]
        return max(0, min(count, free // row_bytes))


class CachedImages:
    """The first R images of a set. Rows are read through the memory map, and written with ``write``.

    Writing through the map would end in a bus error on a full disk, where ``write`` gives an error.
    """

    def __init__(self, entry: Path, sources: NDArray[np.uint64]) -> None:
        self._path, self._sources = entry / _PIXELS, sources
        mapped = np.load(self._path, mmap_mode="r", allow_pickle=False)
        self._first_byte, self._pixels = mapped.offset, np.asarray(mapped)
        self._rows = np.load(entry / _ROWS, mmap_mode="r+", allow_pickle=False)
        self._verified = np.zeros(len(self), bool)
        self._is_full = False

    def __len__(self) -> int:
        return len(self._pixels)

    def missing(self) -> NDArray[np.int64]:
        """Indices of images that were never kept, or whose file has changed since."""
        return np.flatnonzero((self._rows["source"] != self._sources) | (self._sources == _NO_FILE))

    def __getitem__(self, index: int) -> Image | None:
        """The image; None where it is missing or damaged. Its checksum is looked at once."""
        if not self._verified[index]:
            row = self._rows[index]
            if row["source"] != self._sources[index] or row["source"] == _NO_FILE:
                return None
            if row["checksum"] != zlib.crc32(self._pixels[index]):
                logger.warning("%s: image %d is damaged and is decoded again.", self._path, index)
                return None
            self._verified[index] = True
        return self._pixels[index]

    def __setitem__(self, index: int, image: Image) -> None:
        """Keep an image; nothing is kept any more once the disk is full."""
        if self._is_full:
            return
        row = self._rows[index : index + 1]
        row["source"] = _NO_FILE
        try:
            with open(self._path, "r+b") as file:
                file.seek(self._first_byte + index * image.nbytes)
                file.write(np.ascontiguousarray(image))
        except OSError as problem:
            self._is_full = True
            logger.warning(
                "%s: %s. Images that it does not hold are decoded whenever they are needed.", self._path, problem
            )
            return
        row["checksum"] = zlib.crc32(np.ascontiguousarray(image))
        row["source"] = self._sources[index]


def _lock_of(entry: Path) -> Path:
    """Its lock is beside it and stays for good: two processes might otherwise hold one of the same name."""
    return entry.with_name(f"{_LOCK}-{entry.name}")


def _entry_name(paths: Sequence[Path], made: str) -> str:
    digest = hashlib.blake2b(made.encode(), digest_size=16)
    for path in paths:
        digest.update(b"\0" + os.fsencode(path.absolute()))
    return f"decoded-{digest.hexdigest()}"


def _source(path: Path) -> int:
    """What stands for a file's content: its size and the time of its last change."""
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _is_whole(entry: Path, shape: tuple[int, ...]) -> bool:
    """Whether both files are there with the right size; their rows may still be empty or damaged."""
    try:
        pixels = np.load(entry / _PIXELS, mmap_mode="r", allow_pickle=False)
        rows = np.load(entry / _ROWS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return (pixels.shape, pixels.dtype) == (shape, np.uint8) and (rows.shape, rows.dtype) == (shape[:1], _ROW)


def _prepared(entry: Path, shape: tuple[int, ...]) -> bool:
    """Whether an entry of this shape is there, made anew if it was not."""
    try:
        if not _is_whole(entry, shape):
            shutil.rmtree(entry, ignore_errors=True)
            _create(entry, shape)
        os.utime(entry)
    except OSError as problem:
        logger.warning("%s: %s. Images are not kept there.", entry, problem)
        return False
    return True


def _create(entry: Path, shape: tuple[int, ...]) -> None:
    """An entry without images; its pixels take room on the disk only when they are written."""
    with atomic_folder(entry) as aside:
        with open(aside / _PIXELS, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)))
        np.save(aside / _ROWS, np.zeros(shape[0], _ROW), allow_pickle=False)


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that the system gives back when the process ends, however it ends.

    Without ``wait`` it is false, and not held, where another holds it.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            logger.info("Waiting for another process that fills the cache %s.", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True
