"""Walls and roofs without openings, at `SCALE` pixels per metre."""

from __future__ import annotations

import cv2
import numpy as np

from vgssl_core.imaging import Image

SCALE = 20.0
Color = tuple[int, int, int]
WALLS = {
    "brick": [(168, 64, 46), (104, 50, 48), (200, 112, 60), (206, 162, 108), (88, 72, 80), (140, 92, 52)],
    "plaster": [(238, 232, 216), (236, 184, 70), (226, 132, 108), (112, 168, 210), (134, 190, 120), (200, 70, 60)],
    "timber": [(242, 236, 222), (232, 198, 120), (214, 142, 108), (156, 190, 180), (150, 160, 210)],
    "panel": [(196, 194, 188), (138, 156, 182), (214, 190, 130), (144, 184, 146), (204, 150, 150), (120, 120, 124)],
    "stone": [(206, 186, 142), (150, 148, 148), (220, 214, 200), (180, 136, 98), (170, 180, 150)],
    "glass": [(70, 106, 140), (112, 112, 104), (50, 58, 70), (70, 128, 106), (140, 88, 64)],
}


def wall_colors(material: str) -> list[Color]:
    """Colours that a material comes in."""
    return WALLS[material]


def tone(color: Color, factor: float) -> Color:
    """A colour made lighter or darker."""
    red, green, blue = (int(np.clip(channel * factor, 0, 255)) for channel in color)
    return red, green, blue


def draw_wall(material: str, wall: Color, width: int, height: int, seed: int) -> Image:
    """A wall without openings."""
    rng = np.random.default_rng([seed, 1])
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = wall
    coarse = rng.normal(0, 7, (max(height // 30, 2), max(width // 30, 2))).astype(np.float32)
    canvas += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    if material in ("brick", "stone"):
        course, brick = (5, 11) if material == "brick" else (10, 22)
        bricks = rng.normal(0, 9, (height // course + 1, width // brick + 2)).astype(np.float32)
        pattern = bricks.repeat(course, 0)[:height].repeat(brick, 1)
        canvas += pattern[:, :width, None]
        canvas[::course] *= 0.85 if material == "brick" else 0.8
    canvas += rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if material == "timber":
        _timber(picture, rng)
    if material == "panel":
        for x in range(0, width, 50):
            cv2.line(picture, (x, 0), (x, height), tone(wall, 0.72), 1)
        for y in range(height, 0, -58):
            cv2.line(picture, (0, y), (width, y), tone(wall, 0.72), 1)
    return picture


def draw_roof(color: Color, width: int, height: int, dormers: int) -> Image:
    """Tiles, with some windows in them."""
    rng = np.random.default_rng([*color, width])
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = color
    canvas += rng.normal(0, 8, (height // 6 + 1, width // 5 + 1)).repeat(6, 0).repeat(5, 1)[:height, :width, None]
    canvas[::6] *= 0.78
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    for k in range(dormers):
        x, y = round((k + 0.5) * width / dormers), height // 2
        cv2.rectangle(picture, (x - 11, y - 14), (x + 11, y + 14), (224, 222, 214), -1)
        cv2.rectangle(picture, (x - 8, y - 11), (x + 8, y + 11), (70, 84, 98), -1)
    return picture


def _timber(picture: Image, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    beam = (74, 50, 38)
    for y in range(height, 0, -60):
        cv2.line(picture, (0, y), (width, y), beam, 5)
        for x in range(0, width + 1, 28):
            cv2.line(picture, (x, y), (x, y - 60), beam, 4)
            if rng.random() < 0.3:
                cv2.line(picture, (x, y), (x + 28, y - 60), beam, 4)
