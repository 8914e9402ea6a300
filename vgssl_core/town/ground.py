"""The top view of a neighbourhood: road, markings, kerbs, pavement and lawns, as one square picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.town.layout import PAVEMENT_M, Street

Floats = NDArray[np.float64]
PIXELS_PER_M = 6.0
_LAWN, _KERB, _PAINT = (96, 112, 68, 0), (186, 184, 178, 0), (214, 214, 208, 255)
#: Dark and light asphalt, red clinker, brown setts, grey concrete.
_ROADS = ((84, 84, 88), (112, 112, 112), (142, 90, 78), (118, 104, 88), (142, 140, 132))
#: Grey slabs, red brick, sandstone, dark slate.
_PAVEMENTS = ((154, 150, 144), (166, 116, 98), (190, 170, 132), (110, 114, 122))


def draw_top_view(streets: Sequence[Street], origin_m: Floats, size_m: float, seed: int) -> Image:
    """Draw the ground.

    Args:
        streets: Streets that may reach into the square.
        origin_m: (2,) north-west corner.
        size_m: Side of the square.
        seed: For the grain, the patches and the markings.

    Returns:
        (n, n, 4) picture, north up, `PIXELS_PER_M` resolution; the fourth channel is 255 on roads, else 0.
    """
    rng = np.random.default_rng([seed, 30])
    pixels = round(size_m * PIXELS_PER_M)
    picture = np.empty((pixels, pixels, 4), np.uint8)
    picture[:] = _LAWN
    streets = [street for street in streets if _near(street, origin_m, size_m)]

    def place(points_m: Floats) -> NDArray[np.int32]:
        offset = (np.atleast_2d(points_m) - origin_m) * (1, -1) * PIXELS_PER_M
        return np.round(offset * 16).astype(np.int32)

    def band(street: Street, from_m: float, to_m: float, left_m: float, right_m: float, color: tuple[int, ...]) -> None:
        corners = [street.point(from_m, left_m), street.point(to_m, left_m)]
        corners += [street.point(to_m, right_m), street.point(from_m, right_m)]
        cv2.fillConvexPoly(picture, place(np.array(corners)), color, shift=4)

    for extra, layer in ((PAVEMENT_M, "pavement"), (0.18, "kerb"), (0.0, "road")):
        for street in streets:
            pavement, road = _PAVEMENTS[street.surface % 4], _ROADS[street.surface // 4]
            color = {"pavement": (*pavement, 0), "kerb": _KERB, "road": (*road, 255)}[layer]
            half = street.half_width_m + extra
            band(street, -half, street.length_m + half, half, -half, color)
    for street in streets:
        _mark(street, band, rng)
    coarse = cv2.resize(rng.normal(0, 9, (13, 13)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 6, (512, 512)).astype(np.float32) + coarse
    repeats = pixels // 512 + 1
    noise = np.tile(np.round(grain).astype(np.int16), (repeats, repeats))[:pixels, :pixels]
    return cv2.add(picture, cv2.merge([noise, noise, noise, np.zeros_like(noise)]), dtype=cv2.CV_8U)


def _near(street: Street, origin_m: Floats, size_m: float) -> bool:
    """Whether a street reaches into the square."""
    ends = np.array([street.start_m, street.end_m])
    low, high = ends.min(axis=0) - 10, ends.max(axis=0) + 10
    square_low = origin_m - (0, size_m)
    return bool((high > square_low).all() and (low < square_low + size_m).all())


def _mark(street: Street, band: object, rng: np.random.Generator) -> None:
    """Middle line, zebra crossings at both ends, and patches of newer asphalt."""
    assert callable(band)
    start, end = 9.0, street.length_m - 9.0
    for _ in range(3):
        at, side = rng.uniform(start, end), rng.uniform(-street.half_width_m, street.half_width_m - 1.5)
        tone = rng.uniform(0.8, 1.1)
        color = (*(int(c * tone) for c in _ROADS[street.surface // 4]), 255)
        band(street, at, at + rng.uniform(2, 7), side + rng.uniform(0.8, 1.5), side, color)
    for at in np.arange(start + 3, end - 3, 6.0):
        band(street, at, at + 3, 0.07, -0.07, _PAINT)
    for at in (start - 1.6, end - 1.4):
        for left in np.arange(-street.half_width_m + 0.3, street.half_width_m - 0.5, 1.0):
            band(street, at, at + 3.0, left + 0.5, left, _PAINT)


def dress_top_view(top_view: NDArray[np.uint8], snow: float, wet: float) -> Image:
    """Lay snow on the ground, thinner on roads, or make it wet: (n, n, 4) in, (n, n, 3) out."""
    picture = cv2.cvtColor(top_view, cv2.COLOR_RGBA2RGB)
    if snow > 0:
        rng = np.random.default_rng(31)
        size = picture.shape[0]
        patches = cv2.resize(rng.normal(0, 1, (size // 16, size // 16)).astype(np.float32), (size, size))
        road = cv2.extractChannel(top_view, 3)
        cover = np.clip((0.85 - road * np.float32(0.65 / 255) + patches * 0.2) * snow, 0, 1)
        picture = cv2.blendLinear(np.full_like(picture, (226, 230, 238)), picture, cover, 1 - cover)
    if wet > 0:
        picture = cv2.convertScaleAbs(picture, alpha=1 - 0.3 * wet)
    return picture
