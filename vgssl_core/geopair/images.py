"""Images of a place set at the training size, decoded once as far as memory and the cache on disk allow."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError
from vgssl_core.geopair.decoded_cache import CachedImages, DecodedCache
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

    def take(self, images: int, image_bytes: int) -> int:
        """Take room for as many of the images as are left to fit; how many that is."""
        taken = min(images, self.free_bytes // image_bytes)
        self.free_bytes -= taken * image_bytes
        return taken


class _KeptImages:
    """Images in memory, by index; None for one that was not put there, nothing is kept beyond its length."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self._pixels, self._is_kept = np.empty((count, height, width, 3), np.uint8), np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Image | None:
        return self._pixels[index] if index < len(self) and self._is_kept[index] else None

    def __setitem__(self, index: int, image: Image) -> None:
        if index < len(self):
            self._pixels[index] = image
            self._is_kept[index] = True  # last: other threads read


class ImageStore:
    """N images by index, resized to the network's input.

    Images are kept in the cache on disk as far as it has room, and of those behind them as many in memory as fit what
    is left of it; what is not kept is decoded whenever it is asked for. To look at every image in advance finds all
    damaged files before a training starts; processes of one training share that, and one that goes on has done it.

    Args:
        paths: The files.
        preprocessing: Gives the input size.
        memory: That the stores of one training share.
        threads: That decode in advance.
        cache: On disk.
        reduced: Decode large JPEGs at a fraction of their size (see `decode_image`).
        part: Which of the images that the cache has no room for are looked at in advance.

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
        part: slice = slice(None),
    ) -> None:
        self.paths = tuple(paths)
        self._preprocessing = preprocessing
        self._least_size = (preprocessing.width, preprocessing.height) if reduced else None
        self._threads = max(1, threads)
        count, size = len(self.paths), (preprocessing.height, preprocessing.width)
        self._cached: CachedImages | _KeptImages = _KeptImages(0, *size)
        failures: list[str] = []
        with contextlib.nullcontext() if cache is None else cache.opened(self.paths, *size, reduced) as cached:
            if cached is not None:
                self._cached = cached
                failures += self._looked_at(cached.missing())
        behind = range(len(self._cached), count)
        self._memory = _KeptImages(memory.take(len(behind), math.prod(size) * 3), *size)
        kept = len(self._cached) + len(self._memory)
        if kept < count:
            logger.info(
                "%d of %d images stay decoded, the others are decoded at each use: raise --memory_mib, or give a "
                "--cache_dir and the --cache_mib for all.",
                *(kept, count),
            )
        failures += self._looked_at(behind[part])
        if failures:
            rest = f" … and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
            raise DataError(f"{len(failures)} of {count} images cannot be used: {' '.join(failures[:_NAMED])}{rest}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The image, (height, width, 3) uint8 RGB at the input size, not to be written to.

        Raises:
            DataError: It does not decode.
        """
        keeper, place = self._place(index)
        image = keeper[place]
        return self._prepare(index) if image is None else image

    def batches(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """Images in order, (``size``, height, width, 3) at a time and fewer at the end; threads prepare them ahead.

        Raises:
            DataError: One does not decode.
        """
        images = _prepared_ahead(self.__getitem__, indices.tolist(), self._threads, size)
        while batch := list(itertools.islice(images, size)):
            yield np.stack(batch)

    def _place(self, index: int) -> tuple[CachedImages | _KeptImages, int]:
        """Where an image is kept if it is, and its index there."""
        cached = len(self._cached)
        return (self._cached, index) if index < cached else (self._memory, index - cached)

    def _prepare(self, index: int) -> Image:
        """Decode an image, and keep it if it has a place."""
        image = self._preprocessing.resize(read_image(self.paths[index], self._least_size))
        keeper, place = self._place(index)
        keeper[place] = image
        return image

    def _looked_at(self, indices: Sequence[int]) -> list[str]:
        """Prepare images in threads; what is wrong with those that fail."""

        def attempt(index: int) -> str | None:
            try:
                self._prepare(index)
            except DataError as problem:
                return str(problem)
            return None

        with ThreadPoolExecutor(self._threads) as pool:
            made = pool.map(attempt, indices)
            bar = tqdm(made, total=len(indices), desc="decoding images", unit="image", leave=False, disable=None)
            return [message for message in bar if message]


def _prepared_ahead(work: Callable[[int], Image], indices: Sequence[int], threads: int, ahead: int) -> Iterator[Image]:
    """``work`` on every index, in order, by threads; so many results at most wait to be taken."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Image]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(work, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def limit_opencv_threads() -> None:
    """Images are prepared in our own threads; OpenCV's would fight with torch's for the cores."""
    cv2.setNumThreads(1)
