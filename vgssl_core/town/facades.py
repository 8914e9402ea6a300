"""Procedural facades: a small catalogue of designs per town, drawn at 20 pixels per metre."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.town.walls import SCALE, WALLS, draw_wall, tone, wall_colors

CATALOGUE_SIZE = 18
_ROOFS = [(150, 76, 58), (120, 62, 52), (78, 80, 88), (96, 88, 82), (70, 72, 74)]
_SYLLABLES = (
    "ba",
    "ko",
    "mi",
    "ra",
    "to",
    "ne",
    "su",
    "la",
    "vi",
    "do",
    "pe",
    "ka",
    "ri",
    "mo",
    "te",
    "sa",
    "lu",
    "no",
)
_SIGNS = [(168, 32, 40), (24, 84, 152), (28, 120, 72), (226, 178, 40), (48, 48, 52), (206, 98, 32), (236, 232, 224)]


@dataclass(frozen=True)
class FacadeDesign:
    """One entry of the catalogue; houses of one design and colour look alike.

    Attributes:
        material: Key of the wall materials.
        bays, floors: Number of window columns and of storeys.
        bay_m, floor_m: Their sizes.
        window_width, window_height: Shares of bay and storey that a window takes.
        window: ``plain``, ``cross``, ``arch``, ``french`` (with a balcony), ``shutters`` or ``band``.
        roof: ``side`` (ridge along the street), ``front`` (gable to the street), ``flat`` or ``mansard``.
        door_bay: Bay of the house door.
        roof_color, frame_color: RGB.
        seed: For everything else.
    """

    material: str
    bays: int
    floors: int
    bay_m: float
    floor_m: float
    window_width: float
    window_height: float
    window: str
    roof: str
    door_bay: int
    roof_color: tuple[int, int, int]
    frame_color: tuple[int, int, int]
    seed: int

    @property
    def width_m(self) -> float:
        """Width of the front."""
        return self.bays * self.bay_m

    @property
    def height_m(self) -> float:
        """Height of the eaves."""
        return self.floors * self.floor_m + 0.7

    @property
    def roof_m(self) -> float:
        """Height of the roof above the eaves."""
        if self.roof == "front":
            return min(0.42 * self.width_m, 4.5)
        return {"side": 3.4, "mansard": 2.6, "flat": 0.0}[self.roof]


def make_catalogue(seed: int) -> list[FacadeDesign]:
    """The designs that a town repeats along and across its streets."""
    rng = np.random.default_rng([seed, 20])
    materials = list(WALLS)
    designs = []
    for index in range(CATALOGUE_SIZE):
        material = materials[index % len(materials)]
        modern = material in ("panel", "glass")
        bays = int(rng.integers(2, 6))
        roofs = ["flat", "flat", "mansard"] if modern else ["side", "side", "front", "mansard", "flat"]
        windows = ["band", "plain", "french"] if modern else ["cross", "arch", "french", "shutters", "plain"]
        designs.append(
            FacadeDesign(
                material,
                bays,
                int(rng.integers(2, 6 if modern else 5)),
                float(rng.uniform(2.0, 3.1)),
                float(rng.uniform(2.8, 3.5)),
                float(rng.uniform(0.36, 0.62)),
                float(rng.uniform(0.42, 0.64)),
                str(rng.choice(windows)),
                str(rng.choice(roofs)),
                int(rng.integers(bays)),
                _ROOFS[rng.integers(len(_ROOFS))],
                [(240, 240, 236), (92, 60, 42), (50, 54, 58), (60, 92, 76)][rng.integers(4)],
                int(rng.integers(2**31)),
            )
        )
    return designs


def draw_facade(design: FacadeDesign, color: int, shop: int) -> tuple[NDArray[np.uint8], Image]:
    """Draw a front.

    Args:
        design: What to draw.
        color: Index into the material's colours.
        shop: Seed of a shop in the ground floor, or -1 for a door.

    Returns:
        (h, w, 4) picture whose alpha cuts out a front gable, and the (h, w, 3) light of its windows at night.
    """
    rng = np.random.default_rng([design.seed, color, shop + 1])
    height = round((design.height_m + (design.roof_m if design.roof == "front" else 0)) * SCALE)
    width = round(design.width_m * SCALE)
    wall = WALLS[design.material][color % len(WALLS[design.material])]
    picture = draw_wall(design.material, wall, width, height, design.seed)
    glow = np.zeros_like(picture)
    eaves = height - round(design.height_m * SCALE)
    for floor in range(design.floors):
        bottom = height - round(floor * design.floor_m * SCALE)
        top = bottom - round(design.floor_m * SCALE)
        if floor == 0:
            _ground_floor(picture, glow, design, top, bottom, shop, rng)
        else:
            _storey(picture, glow, design, top, bottom, rng)
        if design.seed % 3 == 0:
            cv2.rectangle(picture, (0, top), (width, top + 4), tone(wall, 1.15 if design.seed % 2 else 0.75), -1)
    cv2.rectangle(picture, (0, eaves), (width, eaves + 9), tone(design.frame_color, 0.9), -1)
    cv2.line(picture, (0, eaves + 10), (width, eaves + 10), tone(wall, 0.5), 2)
    alpha = np.full((height, width), 255, np.uint8)
    if design.roof == "front":
        _front_gable(picture, glow, alpha, design, eaves)
    cv2.line(picture, (1, eaves), (1, height), tone(wall, 0.6), 3)
    return np.dstack([picture, alpha]), glow


def draw_end_wall(design: FacadeDesign, color: int, depth_m: float) -> Image:
    """The end wall of a house below the eaves: bare, or with a column of windows."""
    walls = wall_colors(design.material)
    size = round(depth_m * SCALE), round(design.height_m * SCALE)
    picture = draw_wall(design.material, walls[color % len(walls)], *size, design.seed)
    glow = np.zeros_like(picture)
    if design.seed % 2:
        rng = np.random.default_rng([design.seed, 6])
        for floor in range(design.floors):
            middle = size[1] - round((floor + 0.5) * design.floor_m * SCALE)
            box = (size[0] // 3 - 10, middle - 14, size[0] // 3 + 10, middle + 14)
            _window(picture, glow, box, design, rng)
    return picture


def _storey(picture: Image, glow: Image, design: FacadeDesign, top: int, bottom: int, rng: np.random.Generator) -> None:
    bay = design.bay_m * SCALE
    middle = (top + bottom) // 2 + 2
    half_height = round(design.window_height * (bottom - top) / 2)
    if design.window == "band":
        box = (4, middle - half_height, picture.shape[1] - 4, middle + half_height)
        _pane(picture, glow, box, rng)
        for bay_index in range(design.bays * 2):
            x = round(bay_index * bay / 2)
            cv2.line(picture, (x, box[1]), (x, box[3]), design.frame_color, 3)
        return
    for bay_index in range(design.bays):
        center, half = round((bay_index + 0.5) * bay), round(design.window_width * bay / 2)
        box = (center - half, middle - half_height, center + half, middle + half_height)
        if design.window == "french":
            box = (box[0], box[1], box[2], bottom - 4)
        _window(picture, glow, box, design, rng)


def _window(
    picture: Image,
    glow: Image,
    box: tuple[int, int, int, int],
    design: FacadeDesign,
    rng: np.random.Generator,
) -> None:
    left, top, right, bottom = box
    middle = (left + right) // 2
    frame = design.frame_color
    cv2.rectangle(picture, (left - 4, top - 5), (right + 4, bottom + 3), tone(frame, 0.88), -1)
    if design.window == "arch":
        cv2.ellipse(picture, (middle, top), (middle - left + 4, 13), 0, 180, 360, tone(frame, 0.88), -1)
        cv2.ellipse(picture, (middle, top), (middle - left, 9), 0, 180, 360, (62, 72, 84), -1)
    _pane(picture, glow, box, rng)
    cv2.line(picture, (middle, top), (middle, bottom), frame, 2)
    if design.window in ("cross", "arch"):
        cv2.line(picture, (left, top + (bottom - top) // 3), (right, top + (bottom - top) // 3), frame, 2)
    if design.window == "shutters":
        shutter = [(64, 96, 72), (120, 52, 46), (66, 88, 120)][design.seed % 3]
        for x in (left - 14, right + 4):
            cv2.rectangle(picture, (x, top - 2), (x + 10, bottom + 2), shutter, -1)
            for y in range(top, bottom, 4):
                cv2.line(picture, (x, y), (x + 10, y), tone(shutter, 0.75), 1)
    if design.window == "french":
        cv2.rectangle(picture, (left - 12, bottom), (right + 12, bottom + 5), (168, 164, 158), -1)
        for x in range(left - 12, right + 13, 5):
            cv2.line(picture, (x, bottom - 20), (x, bottom), (44, 44, 48), 1)
        cv2.line(picture, (left - 12, bottom - 20), (right + 12, bottom - 20), (44, 44, 48), 2)
    else:
        cv2.rectangle(picture, (left - 6, bottom + 2), (right + 6, bottom + 5), tone(frame, 0.75), -1)


def _pane(
    picture: Image,
    glow: Image,
    box: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> None:
    """Glass that mirrors the sky, curtains behind some of it, and light behind a part of it at night."""
    left, top, right, bottom = box
    if bottom <= top or right <= left:
        return
    ramp = np.linspace(1.25, 0.75, bottom - top)[:, None, None] * rng.uniform(0.8, 1.25)
    picture[top:bottom, left:right] = np.clip(np.array([64, 78, 92]) * ramp, 0, 255)
    if rng.random() < 0.35:
        picture[top:bottom, left : left + (right - left) // 4] = (198, 194, 184)
    if rng.random() < 0.3:
        picture[top : top + (bottom - top) // 3, left:right] = (186, 182, 170)
    if rng.random() < 0.4:
        warm = np.array([[236, 190, 112], [226, 206, 158], [180, 190, 196]])[rng.integers(3)] * rng.uniform(0.6, 1.0)
        glow[top:bottom, left:right] = warm


def _ground_floor(
    picture: Image,
    glow: Image,
    design: FacadeDesign,
    top: int,
    bottom: int,
    shop: int,
    rng: np.random.Generator,
) -> None:
    width, bay = picture.shape[1], design.bay_m * SCALE
    picture[top + 2 : bottom] = (picture[top + 2 : bottom] * (0.84 if design.seed % 2 else 1.0)).astype(np.uint8)
    if shop >= 0:
        _shop(picture, glow, top, bottom, shop)
        return
    _storey(picture, glow, design, top, bottom - 6, rng)
    center, half = round((design.door_bay + 0.5) * bay), round(min(0.38 * bay, 14))
    door = [(88, 52, 40), (38, 62, 88), (42, 74, 58), (132, 40, 40), (60, 60, 64)][design.seed % 5]
    cv2.rectangle(picture, (center - half - 12, top + 10), (center + half + 12, bottom), (150, 145, 138), -1)
    cv2.rectangle(picture, (center - half - 4, top + 12), (center + half + 4, bottom), design.frame_color, -1)
    cv2.rectangle(picture, (center - half, top + 24), (center + half, bottom), door, -1)
    cv2.rectangle(picture, (center - half, top + 15), (center + half, top + 22), (84, 98, 112), -1)
    cv2.rectangle(picture, (0, bottom - 8), (width, bottom), (112, 108, 104), -1)


def _shop(picture: Image, glow: Image, top: int, bottom: int, shop: int) -> None:
    rng = np.random.default_rng([shop, 77])
    width = picture.shape[1]
    sign = _SIGNS[rng.integers(len(_SIGNS))]
    text = "".join(rng.choice(_SYLLABLES, rng.integers(2, 4))).upper()
    picture[top + 4 : bottom] = tone(sign, 0.7)
    picture[top + 6 : top + 24] = sign
    ink = (250, 248, 240) if sum(sign) < 480 else (32, 32, 36)
    size = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 0.6, 1)[0][0]
    cv2.putText(picture, text, (max((width - size) // 2, 2), top + 21), cv2.FONT_HERSHEY_DUPLEX, 0.6, ink, 1)
    glow[top + 6 : top + 24] = (np.array(sign) * 0.8).astype(np.uint8)
    panes = int(rng.integers(2, 4))
    for k in range(panes):
        left, right = round(k * width / panes) + 5, round((k + 1) * width / panes) - 5
        picture[top + 28 : bottom - 10, left:right] = rng.integers(60, 120, 3)
        glow[top + 28 : bottom - 10, left:right] = (214, 196, 150)
        for _ in range(8):
            x, y = int(rng.integers(left, right)), int(rng.integers(top + 36, bottom - 12))
            goods = tuple(int(c) for c in rng.integers(60, 230, 3))
            cv2.rectangle(picture, (x, y), (min(x + 8, right), bottom - 11), goods, -1)
    if rng.random() < 0.5:
        stripe = np.where(np.arange(width)[:, None] // 8 % 2, np.array(sign), np.array([236, 232, 224]))
        picture[top + 24 : top + 34] = stripe


def _front_gable(picture: Image, glow: Image, alpha: NDArray[np.uint8], design: FacadeDesign, eaves: int) -> None:
    width = picture.shape[1]
    alpha[:eaves] = 0
    outline = np.array([[0, eaves], [width // 2, 0], [width, eaves]])
    cv2.fillPoly(alpha, [outline], 255)
    cv2.polylines(picture, [outline], False, design.frame_color, 8)
    if eaves > 44:
        box = (width // 2 - 10, eaves - 36, width // 2 + 10, eaves - 10)
        _window(picture, glow, box, design, np.random.default_rng([design.seed, 5]))
