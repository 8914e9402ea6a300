"""From images straight into the memory that an engine reads."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError
from vgssl_core.imaging import Image, Preprocessing

_CHANNELS = 3
_LEVELS = 256


class InputBuffer:
    """Writes what `Preprocessing` defines, bit for bit, without making any array on the way.

    An 8-bit value has 256 levels, so that normalising is one look-up per pixel and channel; the table is what
    `Preprocessing.normalise` makes of them. Not to be used by two threads at once.

    Attributes:
        one: (1, 3, height, width) float32, the input of a single image; always the same memory.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        height, width = preprocessing.height, preprocessing.width
        levels = np.repeat(np.arange(_LEVELS, dtype=np.uint8)[None, :, None], _CHANNELS, axis=2)
        self._tables = preprocessing.normalise(levels)[:, 0]
        self._preprocessing = preprocessing
        self._resized = np.empty((height, width, _CHANNELS), np.uint8)
        self._planes = [np.empty((height, width), np.uint8) for _ in range(_CHANNELS)]
        self.one = np.empty((1, _CHANNELS, height, width), np.float32)

    def fill(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, 3, height, width) input of N images: `one` for a single image, which the next call writes over.

        Raises:
            DataError: What is given is no RGB image.
        """
        batch = self.one if len(images) == 1 else np.empty((len(images), *self.one.shape[1:]), np.float32)
        for row, image in zip(batch, images, strict=True):
            self.write(image, row)
        return batch

    def write(self, image: Image, out: NDArray[np.float32]) -> None:
        """Resize and normalise one image.

        Args:
            image: (height, width, 3) uint8 RGB of any size and memory layout.
            out: (3, self.height, self.width) float32, C-contiguous.

        Raises:
            DataError: What is given is no RGB image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != _CHANNELS or not image.size:
            raise DataError(f"An image is {image.dtype} {image.shape} instead of uint8 (height, width, 3) RGB.")
        planes = cv2.split(self._preprocessing.resize(image, self._resized), self._planes)
        for plane, table, target in zip(planes, self._tables, out, strict=True):
            cv2.LUT(plane, table, dst=target)
