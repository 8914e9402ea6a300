"""How a place may look at another time: colour, blur, night, weather, things in the way.

Each effect is a function of a (height, width, 3) uint8 RGB image, a strength from 0 (the image itself) to 1, and the
source of its draws; it returns an image of the same shape and never writes to the one that it got. Sizes are relative
to the image's height, so that a strength means the same at every resolution. These effects go beyond the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image

#: Shares of red, green and blue in brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
#: Matrices on RGB that leave all as it is, and that leave only brightness.
_SAME, _GREY = np.eye(3), np.tile(_LUMA, (3, 1))


@dataclass(frozen=True)
class Effect:
    """How much and how often an effect is used.

    Attributes:
        strength: From 0 (off) to 1; an image gets a random part of it.
        probability: Share of the images that get it.
    """

    strength: float = 0.0
    probability: float = 0.5


#: An effect that is not used.
OFF = Effect()


def with_effects(image: Image, effects: Mapping[str, Effect], rng: np.random.Generator) -> Image:
    """The image after those of its possible effects that the draws choose; effects that are off draw nothing."""
    for name, apply in EFFECTS.items():
        effect = effects[name]
        if effect.strength > 0 and rng.random() < effect.probability:
            image = apply(image, effect.strength, rng)
    return image


def jittered(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast and colour saturation each changed by up to ``strength`` of their value."""
    return recoloured(image, *(1 + rng.uniform(-strength, strength, 3)), hue_turns=0.0)


def colour(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Like `jittered`, and the hue turned by up to a quarter of ``strength`` of the colour circle."""
    factors = 1 + rng.uniform(-strength, strength, 3)
    return recoloured(image, *factors, hue_turns=rng.uniform(-strength, strength) / 4)


def recoloured(image: Image, brightness: float, contrast: float, saturation: float, hue_turns: float) -> Image:
    """All four changes as one affine map of RGB; contrast counts from the image's mean brightness."""
    affine = np.empty((3, 4), np.float32)
    matrix = brightness * contrast * (saturation * _SAME + (1 - saturation) * _GREY)
    if hue_turns:
        matrix = matrix @ cv2.Rodrigues(np.full(3, 2 * math.pi * hue_turns / math.sqrt(3)))[0]  # about the grey axis
    affine[:, :3], affine[:, 3] = matrix, brightness * (1 - contrast) * float(_LUMA @ cv2.mean(image)[:3])
    return cv2.transform(image, affine)


def blur(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Out of focus: Gaussian, with a standard deviation of up to 1 % of the height."""
    sigma = strength * rng.uniform(0.25, 1) * image.shape[0] / 100
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.05 else image


def motion_blur(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Camera moved during the exposure: a line of up to 2 % of the height, in any direction."""
    reach = strength * rng.uniform(0.25, 1) * image.shape[0] / 100
    angle = rng.uniform(0, math.pi)
    size = 2 * math.ceil(reach) + 1
    # The line is drawn large and shrunk, which gives it fractional ends.
    middle, step = np.full(2, 8 * size), 16 * reach * np.array([math.cos(angle), math.sin(angle)])
    line = np.zeros((16 * size, 16 * size), np.uint8)
    ends = np.rint([middle - step, middle + step]).astype(int).tolist()
    cv2.line(line, ends[0], ends[1], 255, 16)
    kernel = cv2.resize(line.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def night(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Darkened by gain and gamma, with the noise of a dark image, and daylight left around a few lamps."""
    amount = strength * rng.uniform(0.5, 1)
    levels = 255 * (1 - 0.75 * amount) * np.linspace(0, 1, 256) ** (1 + amount)
    dark = cv2.LUT(image, np.rint(levels).astype(np.uint8))
    dark = _mixed(dark, image, _lamp_light(image.shape[0], image.shape[1], rng) * (0.8 * amount))
    noise = rng.integers(0, 256, image.shape, np.uint8)
    share = 0.1 * amount
    return cv2.addWeighted(dark, 1, noise, share, -127.5 * share)


def fog(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Veiled by light grey, more so above, where the view is long."""
    far = strength * rng.uniform(0.5, 1) * 0.9
    near = far * rng.uniform(0.3, 0.7)
    rows = np.linspace(far, near, image.shape[0], dtype=np.float32)[:, None]
    return _mixed(image, _filled(image, rng.uniform(180, 235)), np.repeat(rows, image.shape[1], axis=1))


def rain(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Streaks in one direction under a thin veil."""
    height, width = image.shape[:2]
    amount = strength * rng.uniform(0.5, 1)
    length, thickness = max(2.0, height / 15), max(1, height // 400)
    count = round(0.06 * amount * height * width / (length * thickness))
    heads = rng.uniform((0, 0), (width, height), (count, 2))
    slope = rng.uniform(-0.3, 0.3)
    tails = heads + length * rng.uniform(0.5, 1, (count, 1)) * (math.sin(slope), math.cos(slope))
    share = np.full((height, width), 0.2 * amount, np.float32)
    cv2.polylines(share, list(np.rint(np.stack([heads, tails], axis=1)).astype(np.int32)), False, 0.6, thickness)
    return _mixed(image, _filled(image, rng.uniform(150, 210)), share)


def snow(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """The ground whitened, and flakes in the air."""
    height, width = image.shape[:2]
    amount = strength * rng.uniform(0.5, 1)
    horizon = rng.uniform(0.4, 0.6)
    rows = np.clip((np.linspace(0, 1, height, dtype=np.float32) - horizon) / (1 - horizon), 0, 1)[:, None]
    size = max(1, height // 160)
    flakes = np.zeros((height, width), np.float32)
    count = round(0.01 * amount * height * width / size**2)
    flakes[rng.integers(0, height, count), rng.integers(0, width, count)] = 0.9
    share = np.maximum(np.sqrt(rows) * (0.8 * amount), cv2.dilate(flakes, np.ones((size, size), np.uint8)))
    return _mixed(image, _filled(image, 245), share)


def erase(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """A rectangle of up to ``strength`` of the area replaced by the mean colour (Zhong et al., 2020)."""
    height, width = image.shape[:2]
    area, ratio = strength * rng.uniform() * height * width, math.exp(rng.uniform(-1, 1))
    h, w = min(height, round(math.sqrt(area / ratio))), min(width, round(math.sqrt(area * ratio)))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    result = image.copy()
    result[top : top + h, left : left + w] = np.rint(cv2.mean(image)[:3])
    return result


#: Every effect by its name, in the order of use: what happens in the world, then in the camera.
EFFECTS: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "snow": snow,
    "fog": fog,
    "rain": rain,
    "night": night,
    "blur": blur,
    "motion_blur": motion_blur,
    "colour": colour,
    "erase": erase,
}


def _mixed(image: Image, other: Image, share: NDArray[np.float32]) -> Image:
    """``image`` with a (height, width) share of ``other``, in 8 bits, which is what makes it cheap."""
    weight = cv2.merge([np.rint(share * 255).astype(np.uint8)] * 3)
    return cv2.add(cv2.multiply(image, 255 - weight, scale=1 / 255), cv2.multiply(other, weight, scale=1 / 255))


def _filled(image: Image, grey: float) -> Image:
    return np.full_like(image, round(grey))


def _lamp_light(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(height, width) from 0 to 1: light around one to five lamps, computed on a coarse grid."""
    y, x = np.mgrid[0 : height / width : 24j, 0:1:32j]
    light = np.zeros_like(x)
    for _ in range(rng.integers(1, 6)):
        radius = rng.uniform(0.03, 0.12)
        distance2 = (x - rng.uniform()) ** 2 + (y - 0.7 * height / width * rng.uniform()) ** 2
        light = np.maximum(light, np.exp(-distance2 / (2 * radius**2)))
    return cv2.resize(light.astype(np.float32), (width, height))
