"""Frames that show no place at all: black, noise, sky. Seeded; no two are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from vgssl_core.imaging import Image


def black(random: np.random.Generator, width: int, height: int) -> Image:
    """A covered lens: nearly black, with the read noise of a sensor and a faint colour cast."""
    level = random.uniform(0, 12, 3)
    frame = level + random.normal(0, random.uniform(0, 3), (height, width, 3))
    return _pixels(frame)


def noise(random: np.random.Generator, width: int, height: int) -> Image:
    """Noise of a random grain, from single pixels to blotches of an eighth of the image, grey or coloured."""
    grain = int(2 ** random.uniform(0, np.log2(width / 8)))
    channels = int(random.choice([1, 3]))
    small = random.uniform(0, 255, (max(2, height // grain), max(2, width // grain), channels))
    kind = int(random.choice([cv2.INTER_NEAREST, cv2.INTER_CUBIC]))
    large = cv2.resize(small, (width, height), interpolation=kind).reshape(height, width, channels)
    return _pixels(np.broadcast_to(large, (height, width, 3)))


def sky(random: np.random.Generator, width: int, height: int) -> Image:
    """The camera looks up: a gradient from zenith to horizon, clouds of fractal noise, sometimes the sun."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    zenith = np.array([70, 120, 200]) * random.uniform(0.6, 1.15)
    horizon = np.array([190, 210, 230]) * random.uniform(0.7, 1.1)
    frame = zenith + (horizon - zenith) * (y**1.3)[..., None]
    clouds = np.zeros((height, width))
    for octave in range(1, 6):
        cells = random.random((2**octave + 2, 2 ** (octave + 1) + 2))
        clouds += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    cover = np.clip((clouds - random.uniform(0.35, 0.75)) * random.uniform(1.5, 4), 0, 1)
    frame = frame + (random.uniform(170, 250) - frame) * cover[..., None]
    if random.random() < 0.3:
        sun = (x - random.random()) ** 2 + (y - random.uniform(0, 0.7)) ** 2
        frame = frame + 255 * np.exp(-sun / random.uniform(0.002, 0.02))[..., None]
    return _pixels(frame + random.normal(0, 2, frame.shape))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Image]] = {"black": black, "noise": noise, "sky": sky}


def frames(kind: str, count: int, width: int, height: int) -> Iterator[Image]:
    """``count`` frames of a kind; the same ones at each call."""
    for number in range(count):
        yield KINDS[kind](np.random.default_rng([sum(kind.encode()), number]), width, height)


def _pixels(frame: np.ndarray) -> Image:
    return np.ascontiguousarray(np.clip(frame, 0, 255).astype(np.uint8))
