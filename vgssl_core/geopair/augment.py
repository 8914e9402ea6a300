"""Augmentation of a pair, on uint8 images, with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image, Preprocessing


@dataclass(frozen=True)
class AugmentConfig:
    """How the two images of a pair are varied; the defaults are the papers'.

    Attributes:
        crop_area: Least and largest share of the query's area that a random crop keeps.
        crop_ratio: Least and largest width / height of the crop.
        crop_keeps_aspect: ``crop_ratio`` counts relative to the image's own width / height, as wide images need.
        crop_positive: Crop the positive too, with its own draw.
        flip: Probability of a horizontal flip, one draw for the pair, so that its geometry agrees.
        swap: Probability that the two images of a pair change places as views. At 0.5 both encoders, and their batch
            norm, see queries and database alike, which matters where the two were taken in another season.
        jitter: Largest relative change of brightness, contrast and colour, drawn for each image; 0 is off.
    """

    crop_area: tuple[float, float] = (0.75, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_keeps_aspect: bool = False
    crop_positive: bool = False
    flip: float = 0.5
    swap: float = 0.0
    jitter: float = 0.0

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
        for name in ("flip", "swap", "jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}: give a number from 0 to 1.")


class PairAugmentation:
    """Turns stored images into the two views of a pair, at the network's input size."""

    def __init__(self, config: AugmentConfig, preprocessing: Preprocessing) -> None:
        self.config = config
        self._preprocessing = preprocessing

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a view in pixels."""
        return self._preprocessing.height, self._preprocessing.width

    def query_and_positives(
        self, query: Image, positives: Sequence[Image], rng: np.random.Generator
    ) -> tuple[Image, Image, list[Image]]:
        """Views of a query, of its first positive and of its further ones, with one flip for all."""
        flip, crop = rng.random() < self.config.flip, self.config.crop_positive
        x, y = self._vary(query, rng, True, flip), self._vary(positives[0], rng, crop, flip)
        if rng.random() < self.config.swap:
            x, y = y, x
        return x, y, [self._vary(positive, rng, crop, flip) for positive in positives[1:]]

    def two_views(self, image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Two views of one image, each with its own crop and its own flip."""
        first, second = (self._vary(image, rng, True, rng.random() < self.config.flip) for _ in range(2))
        return first, second

    def plain(self, image: Image) -> Image:
        """An image that is only resized, as at evaluation."""
        return self._preprocessing.resize(image)

    def _vary(self, image: Image, rng: np.random.Generator, crop: bool, flip: bool) -> Image:
        if crop:
            top, left, height, width = random_crop(image.shape[0], image.shape[1], self.config, rng)
            image = image[top : top + height, left : left + width]
        image = self._preprocessing.resize(image)
        if flip:
            image = np.ascontiguousarray(image[:, ::-1])
        return jittered(image, self.config.jitter, rng) if self.config.jitter > 0 else image


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


def jittered(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast and colour saturation each changed by up to ``strength`` of their value."""
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    offset = float(grey.mean()) * brightness * (1 - contrast)
    return cv2.convertScaleAbs(np.maximum(mixed * (brightness * contrast) + offset, 0))
