"""Images of a place set at the training size, decoded once where memory allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError
from vgssl_core.imaging import Image, Preprocessing, read_image

logger = logging.getLogger(__name__)

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

    All are decoded in advance, which finds every damaged file before the training starts. They are kept when they fit
    what is left of the memory; otherwise each is decoded again when it is asked for.

    Raises:
        DataError: Images that do not decode: how many, and the first of them.
    """

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing, memory: ImageMemory, threads: int) -> None:
        self.paths = tuple(paths)
        self._preprocessing = preprocessing
        self._cache: NDArray[np.uint8] | None = None
        shape = (len(self.paths), preprocessing.height, preprocessing.width, 3)
        if memory.take(math.prod(shape)):
            self._cache = np.empty(shape, np.uint8)
            _for_each(self._fill, range(len(self)), threads, "decoding images")
        else:
            _for_each(self._check, range(len(self)), threads, "checking images")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The image, (height, width, 3) uint8 RGB at the input size.

        Raises:
            DataError: It does not decode.
        """
        if self._cache is not None:
            return self._cache[index]
        return self._preprocessing.resize(read_image(self.paths[index]))

    def _fill(self, index: int) -> None:
        assert self._cache is not None
        self._cache[index] = self._preprocessing.resize(read_image(self.paths[index]))

    def _check(self, index: int) -> None:
        read_image(self.paths[index])


def _for_each(work: Callable[[int], None], indices: Iterable[int], threads: int, title: str) -> None:
    """Call ``work`` on every index in threads; gather the files that fail in one error."""

    def attempt(index: int) -> str | None:
        try:
            work(index)
        except DataError as problem:
            return str(problem)
        return None

    chosen = list(indices)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        bar = tqdm(pool.map(attempt, chosen), total=len(chosen), desc=title, unit="image", leave=False, disable=None)
        failures = [message for message in bar if message]
    if failures:
        rest = f" … and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        raise DataError(f"{len(failures)} of {len(chosen)} images cannot be used: {' '.join(failures[:_NAMED])}{rest}")


def limit_opencv_threads() -> None:
    """Images are prepared in our own threads; OpenCV's would fight with torch's for the cores."""
    cv2.setNumThreads(1)
