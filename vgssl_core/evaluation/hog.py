"""The hand-made baseline: histograms of oriented gradients (Dalal and Triggs, CVPR 2005) of the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image, Preprocessing

_CELL_PX = 8
_BINS = 9
_CLIP = 0.2


class HogEmbedder:
    """Grey image at 64x32, 8x8-pixel cells, 9 unsigned orientations, 2x2-cell blocks with L2-Hys; unit length.

    The parameters are the paper's; the small size makes the descriptor tolerant to shifts. It has the interface of an
    embedder.
    """

    model_id = "hog-64x32"
    preprocessing = Preprocessing(width=64, height=32)
    dimension = (preprocessing.width // _CELL_PX - 1) * (preprocessing.height // _CELL_PX - 1) * 4 * _BINS

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, dimension) unit descriptors of N RGB images."""
        return np.stack([self._describe(image) for image in images])

    def _describe(self, image: Image) -> NDArray[np.float32]:
        grey = cv2.cvtColor(self.preprocessing.resize(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
        blocks = _blocks(_cell_histograms(grey))
        blocks = np.minimum(_unit_rows(blocks), _CLIP)
        whole = _unit_rows(blocks).reshape(1, -1)
        # An image without any gradient, a black one say, has no direction of its own.
        return _unit_rows(whole if whole.any() else np.ones_like(whole))[0]


def _cell_histograms(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, columns, bins) gradient magnitude by orientation, shared linearly between neighbouring bins."""
    gradient_x, gradient_y = np.zeros_like(grey), np.zeros_like(grey)
    gradient_x[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    gradient_y[1:-1] = grey[2:] - grey[:-2]
    magnitude = np.hypot(gradient_x, gradient_y)
    position = (np.arctan2(gradient_y, gradient_x) % np.pi) / np.pi * _BINS - 0.5
    lower = np.floor(position).astype(np.int64)
    upper_share = position - lower
    rows, columns = grey.shape[0] // _CELL_PX, grey.shape[1] // _CELL_PX
    cell = np.arange(grey.shape[0])[:, None] // _CELL_PX * columns + np.arange(grey.shape[1])[None] // _CELL_PX
    histogram = np.zeros(rows * columns * _BINS, np.float32)
    np.add.at(histogram, cell * _BINS + lower % _BINS, magnitude * (1 - upper_share))
    np.add.at(histogram, cell * _BINS + (lower + 1) % _BINS, magnitude * upper_share)
    return histogram.reshape(rows, columns, _BINS)


def _blocks(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """(blocks, 4 * bins): every 2x2 neighbourhood of cells."""
    corners = (cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:])
    return np.concatenate(corners, axis=-1).reshape(-1, 4 * cells.shape[-1])


def _unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True) + 1e-10)
