"""Frames that show nothing: black, noise, empty sky. No list of matches tells them from a place for every network."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image

#: Size that an image is reduced to, so that pixel noise averages out; before that, only this many times as many pixels
#: are looked at.
_WIDTH, _HEIGHT, _SAMPLES = 16, 12, 8
#: Grey levels (of 256) of structure that an image must have. Of 3,300 pictures of towns by night and in fog, streets,
#: railways, parks and squares none had less than 7.
LEAST_STRUCTURE = 4.0
#: The same over the differences of neighbouring pixels: noise of 64x32 pixels or more had 0.22 at most, those pictures
#: 0.58 at least.
LEAST_SMOOTHNESS = 0.4


def is_blank(image: Image) -> bool:
    """Whether an RGB image of any size shows too little to be of any place."""
    structure, differences = structure_of(image)
    return structure < max(LEAST_STRUCTURE, LEAST_SMOOTHNESS * differences)


def structure_of(image: Image) -> tuple[float, float]:
    """Coarse structure and fine differences of an image, in grey levels.

    Structure is the standard deviation of the much reduced green channel around its best quadratic surface, which takes
    away even areas and the gradient of a sky.

    Args:
        image: RGB of any size.

    Returns:
        Structure, and the standard deviation of the difference of neighbouring pixels.
    """
    step = max(1, min(image.shape[0] // (_HEIGHT * _SAMPLES), image.shape[1] // (_WIDTH * _SAMPLES)))
    green = np.ascontiguousarray(image[::step, ::step, 1])
    values = cv2.resize(green, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    surfaces = _quadratic_surfaces()
    left = image[::step, :-1:step, 1].astype(np.float32)
    return (
        float(np.sqrt(np.mean((values - surfaces @ (surfaces.T @ values)) ** 2))),
        float(np.std(left - image[::step, 1::step, 1][:, : left.shape[1]])),
    )


@functools.cache
def _quadratic_surfaces() -> NDArray[np.float64]:
    """(pixels, 6) orthonormal basis of the quadratic surfaces over the reduced image."""
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : _HEIGHT * 1j, -1 : 1 : _WIDTH * 1j])
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))[0]
