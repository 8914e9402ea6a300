"""Images of a place set at the training size, decoded once where memory allows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError
from vgssl_core.geopair.decoded_cache import CachedImages, DecodedCache
from vgssl_core.imaging import Image, Preprocessing, read_image

#: How many unreadable files a message names.
_NAMED = 5


class ImageMemory:
    """Memory that the stores of one training share.

    Attributes:
        free_bytes: What is left of it.
    """

    def __init__(self, mib: int) -> None:
        self.free_bytes = mib * 2**20

    def take(self, size_bytes: int) -> bool:
        """Take so much of it; false, and nothing is taken, where less is left."""
        fits = size_bytes <= self.free_bytes
        self.free_bytes -= size_bytes if fits else 0
        return fits


class ImageStore:
    """N images by index, resized to the network's input.

    Every image is looked at in advance, which finds all damaged files before the training starts. Images are kept in
    the cache on disk as far as it has room, else in memory when all fit what is left of it; what is not kept is
    decoded whenever it is asked for.

    Args:
        paths: The files.
        preprocessing: Gives the input size.
        memory: That the stores of one training share.
        threads: That decode in advance.
        cache: On disk.
        reduced: Decode large JPEGs at a fraction of their size (see `decode_image`).

    Raises:
        DataError: Images that do not decode: how many, and the first of them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        memory: ImageMemory,
        threads: int,
        cache: DecodedCache | None = None,
        reduced: bool = False,
    ) -> None:
        self.paths = tuple(paths)
        self._preprocessing = preprocessing
        self._least_size = (preprocessing.width, preprocessing.height) if reduced else None
        count, size = len(self.paths), (preprocessing.height, preprocessing.width)
        with contextlib.nullcontext() if cache is None else cache.opened(self.paths, *size, reduced) as cached:
            if cached is not None:
                self._kept: CachedImages | NDArray[np.uint8] = cached
                wanted = [*cached.missing(), *range(len(cached), count)]
            else:
                kept = count if memory.take(count * math.prod(size) * 3) else 0
                self._kept, wanted = np.empty((kept, *size, 3), np.uint8), list(range(count))
            _for_each(self._prepare, wanted, threads, "decoding images" if len(self._kept) else "checking images")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The image, (height, width, 3) uint8 RGB at the input size, not to be written to.

        Raises:
            DataError: It does not decode.
        """
        image = self._kept[index] if index < len(self._kept) else None
        return self._prepare(index) if image is None else image

    def _prepare(self, index: int) -> Image:
        """Decode an image, and keep it if it has a place."""
        image = self._preprocessing.resize(read_image(self.paths[index], self._least_size))
        if index < len(self._kept):
            self._kept[index] = image
        return image


def _for_each(work: Callable[[int], object], indices: Sequence[int], threads: int, title: str) -> None:
    """Call ``work`` on every index in threads; gather the files that fail in one error."""

    def attempt(index: int) -> str | None:
        try:
            work(index)
        except DataError as problem:
            return str(problem)
        return None

    with ThreadPoolExecutor(max(1, threads)) as pool:
        bar = tqdm(pool.map(attempt, indices), total=len(indices), desc=title, unit="image", leave=False, disable=None)
        failures = [message for message in bar if message]
    if failures:
        rest = f" … and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        raise DataError(f"{len(failures)} of {len(indices)} images cannot be used: {' '.join(failures[:_NAMED])}{rest}")


def limit_opencv_threads() -> None:
    """Images are prepared in our own threads; OpenCV's would fight with torch's for the cores."""
    cv2.setNumThreads(1)
