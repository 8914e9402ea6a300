"""Augmentation of a pair, on uint8 images, with OpenCV: first its geometry in one step, then its appearance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.appearance import EFFECTS, OFF, Effect, jittered, with_effects
from vgssl_core.imaging import Image, Preprocessing

#: Corners of an image as shares of width and height, clockwise from the upper left.
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
#: An image that is so much larger than the input is shrunk before it is warped.
_SHRINKS = 1.5


@dataclass(frozen=True)
class AugmentConfig:
    """How the two images of a pair are varied; the defaults are the papers'.

    Attributes:
        crop_area: Least and largest share of the query's area that a random crop keeps.
        crop_ratio: Least and largest width / height of the crop.
        crop_keeps_aspect: ``crop_ratio`` counts relative to the image's own width / height, as wide images need.
        crop_positive: Crop the positive too, with its own draw, and negatives that come in one view.
        flip: Probability of a horizontal flip, one draw for the pair, so that its geometry agrees.
        swap: Probability that the two images of a pair change places as views. At 0.5 both encoders, and their batch
            norm, see queries and database alike, which matters where the two were taken in another season.
        jitter: Largest relative change of brightness, contrast and colour, drawn for each image; 0 is off.
        perspective: Corners of a cropped image moved inwards, each by up to ``strength`` of a quarter of the sides.
        snow: Ground whitened, flakes in the air.
        fog: Veiled by light grey.
        rain: Streaks under a thin veil.
        night: Darkened, noisy, lit around lamps.
        blur: Out of focus by up to 1 % of the height.
        motion_blur: The camera moved by up to 2 % of the height.
        colour: Like ``jitter``, and the hue turned by up to a quarter of ``strength`` of the colour circle.
        erase: A rectangle of up to ``strength`` of the area in the mean colour.
    """

    crop_area: tuple[float, float] = (0.75, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_keeps_aspect: bool = False
    crop_positive: bool = False
    flip: float = 0.5
    swap: float = 0.0
    jitter: float = 0.0
    perspective: Effect = OFF
    snow: Effect = OFF
    fog: Effect = OFF
    rain: Effect = OFF
    night: Effect = OFF
    blur: Effect = OFF
    motion_blur: Effect = OFF
    colour: Effect = OFF
    erase: Effect = OFF

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(
                f"augment.crop_area is {self.crop_area}: give two shares above 0, up to 1, the least first."
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1] < math.inf:
            raise ConfigError(f"augment.crop_ratio is {self.crop_ratio}: give two numbers above 0, the least first.")
        shares = {name: getattr(self, name) for name in ("flip", "swap", "jitter")}
        for name in ("perspective", *EFFECTS):
            effect: Effect = getattr(self, name)
            shares |= {f"{name}.strength": effect.strength, f"{name}.probability": effect.probability}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.{name} is {value}: give a number from 0 to 1.")


class PairAugmentation:
    """Turns stored images into the two views of a pair, at the network's input size."""

    def __init__(self, config: AugmentConfig, preprocessing: Preprocessing) -> None:
        self.config = config
        self._preprocessing = preprocessing
        self._effects = {name: getattr(config, name) for name in EFFECTS}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a view in pixels."""
        return self._preprocessing.height, self._preprocessing.width

    def query_and_others(
        self, query: Image, positive: Image, others: Sequence[Image], rng: np.random.Generator
    ) -> tuple[Image, Image, list[Image]]:
        """Views of a query, of a positive, and of further positives and of negatives, with one flip for all.

        A negative is varied as positives are: else a network could tell them apart without looking at the place.
        """
        flip, crop = rng.random() < self.config.flip, self.config.crop_positive
        x, y = self._vary(query, rng, True, flip), self._vary(positive, rng, crop, flip)
        if rng.random() < self.config.swap:
            x, y = y, x
        return x, y, [self._vary(other, rng, crop, flip) for other in others]

    def two_views(self, image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Two views of one image, each with its own crop and its own flip."""
        first, second = (self._vary(image, rng, True, rng.random() < self.config.flip) for _ in range(2))
        return first, second

    def _vary(self, image: Image, rng: np.random.Generator, crop: bool, flip: bool) -> Image:
        image = self._placed(image, rng, crop, flip)
        if self.config.jitter > 0:
            image = jittered(image, self.config.jitter, rng)
        return with_effects(image, self._effects, rng)

    def _placed(self, image: Image, rng: np.random.Generator, crop: bool, flip: bool) -> Image:
        """The image or its crop at the input size, perhaps in perspective and flipped."""
        if crop:
            top, left, height, width = random_crop(image.shape[0], image.shape[1], self.config, rng)
            image = image[top : top + height, left : left + width]
            tilt = self.config.perspective
            if tilt.strength > 0 and rng.random() < tilt.probability:
                return warped(image, tilted_corners(tilt.strength, rng), self._preprocessing, flip)
        # A crop is a view, so that nothing is left to fuse: this takes a quarter of a warp's time.
        image = self._preprocessing.resize(image)
        return cv2.flip(image, 1) if flip else image


def random_crop(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Window of a random resized crop (Szegedy et al., 2015): ten tries, then the largest central one.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        config: Range of area and of width / height.
        rng: Source of the draw.

    Returns:
        Top, left, height, width in pixels, inside the image.
    """
    unit = width / height if config.crop_keeps_aspect else 1.0
    low, high = config.crop_ratio[0] * unit, config.crop_ratio[1] * unit
    for _ in range(10):
        area = height * width * rng.uniform(*config.crop_area)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = max(1, min(width, round(height * high)))
    h = max(1, min(height, round(width / low)))
    return (height - h) // 2, (width - w) // 2, h, w


def tilted_corners(strength: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners of an image that is looked at from aside.

    Args:
        strength: From 0 to 1; below 1 the four corners always stay convex.
        rng: Source of the draw.

    Returns:
        (4, 2) shares of width and height, clockwise from the upper left; each is moved inwards by up to ``strength``
        of a quarter, so that the view holds nothing from outside.
    """
    return _CORNERS + rng.uniform(0, strength / 4, (4, 2)) * (1 - 2 * _CORNERS)


def warped(image: Image, corners: NDArray[np.float64], preprocessing: Preprocessing, flip: bool) -> Image:
    """The part of an image between four corners, at the input size: one interpolation for all.

    Args:
        image: (height, width, 3) uint8.
        corners: (4, 2) shares of width and height, clockwise from the upper left.
        preprocessing: Gives the input size.
        flip: Mirror it.
    """
    width, height = preprocessing.width, preprocessing.height
    if image.shape[1] > _SHRINKS * width or image.shape[0] > _SHRINKS * height:
        image = preprocessing.resize(image)  # averages, where a warp would alias
    targets = _CORNERS[[1, 0, 3, 2]] if flip else _CORNERS
    # Pixels have their centre at whole numbers here, and the image begins half a pixel before.
    source, target = corners * (image.shape[1], image.shape[0]) - 0.5, targets * (width, height) - 0.5
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
