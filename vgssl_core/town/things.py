"""Pictures of the things in the streets: trees, lamps, signs, hedges, vehicles, people."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image

TREE_KINDS = ("round", "column", "cone", "wide")
TREE_SEEDS = 5
PAINTS = [(232, 232, 230), (198, 200, 202), (140, 144, 150), (92, 96, 100), (40, 42, 46), (48, 58, 84), (112, 40, 42)]


def draw_tree(kind: str, seed: int, bare: bool, snow: bool) -> NDArray[np.uint8]:
    """A tree on a transparent ground, (240, 200, 4); the trunk stands in the middle of the lower edge.

    Args:
        kind: One of `TREE_KINDS`; a cone is a conifer and keeps its needles.
        seed: Individual shape.
        bare: Whether broad-leaved trees have lost their leaves.
        snow: Whether snow lies on conifers.
    """
    rng = np.random.default_rng([TREE_KINDS.index(kind), seed, 3])
    height, width = 240, 200
    bark = (74, 62, 52) if kind != "column" else (196, 192, 184)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = bark
    alpha = np.zeros((height, width), np.uint8)
    cv2.line(alpha, (width // 2, height), (width // 2, height // 2), 255, 9 if kind != "column" else 6)
    if bare and kind != "cone":
        _branches(
            alpha, rng, width / 2, height * 0.62, -math.pi / 2, height * 0.2, 6, 0.38 if kind == "column" else 0.6
        )
        return np.dstack([picture, alpha])
    shapes = {"round": (72, 78, 92), "column": (30, 98, 112), "wide": (92, 58, 90), "cone": (62, 104, 118)}
    half_width, half_height, middle = shapes[kind]
    green = np.array([(68, 104, 44), (92, 122, 48), (56, 88, 52), (108, 128, 62)][seed % 4], float)
    if kind == "cone":
        green = np.array([40.0, 70.0, 54.0])
    points = rng.uniform(-1, 1, (420, 2))
    for x, y in points[np.hypot(*points.T) < 1][np.argsort(-points[np.hypot(*points.T) < 1][:, 1])]:
        narrow = (y + 1) / 2 if kind == "cone" else 1.0
        center = (round(width / 2 + x * half_width * narrow), round(middle + y * half_height))
        light = 1.0 - 0.32 * y - 0.18 * x + rng.normal(0, 0.13)
        color = np.clip(green * light, 0, 255)
        if snow and kind == "cone" and rng.random() < 0.5:
            color = np.array([226.0, 230.0, 238.0]) * np.clip(light, 0.7, 1.0)
        radius = int(rng.integers(6, 14))
        cv2.circle(picture, center, radius, tuple(int(c) for c in color), -1)
        cv2.circle(alpha, center, radius, 255, -1)
    return np.dstack([picture, alpha])


def _branches(
    alpha: NDArray[np.uint8],
    rng: np.random.Generator,
    x: float,
    y: float,
    angle: float,
    length: float,
    depth: int,
    spread: float,
) -> None:
    if depth == 0:
        return
    x_end, y_end = x + math.cos(angle) * length, y + math.sin(angle) * length
    cv2.line(alpha, (round(x), round(y)), (round(x_end), round(y_end)), 255, max(depth, 2))
    for sign in (-1, 1):
        turn = angle + sign * spread * rng.uniform(0.4, 1.2)
        _branches(alpha, rng, x_end, y_end, turn, length * rng.uniform(0.68, 0.86), depth - 1, spread)


def draw_lamp(lit: bool) -> NDArray[np.uint8]:
    """A street lamp, (240, 48, 4)."""
    picture = np.zeros((240, 48, 4), np.uint8)
    picture[..., :3] = (62, 68, 66)
    cv2.line(picture, (24, 240), (24, 20), (62, 68, 66, 255), 4)
    head = (255, 226, 160, 255) if lit else (206, 206, 198, 255)
    cv2.ellipse(picture, (24, 20), (16, 9), 0, 0, 360, head, -1)
    cv2.line(picture, (10, 10), (38, 10), (44, 48, 48, 255), 4)
    return picture


def draw_traffic_sign(seed: int) -> NDArray[np.uint8]:
    """A road sign on its pole, (160, 48, 4)."""
    picture = np.zeros((160, 48, 4), np.uint8)
    picture[..., :3] = (150, 150, 150)
    cv2.line(picture, (24, 160), (24, 20), (130, 132, 134, 255), 4)
    red, blue, white, yellow = (190, 24, 30, 255), (22, 72, 150, 255), (240, 240, 240, 255), (240, 190, 40, 255)
    if seed % 4 == 0:
        cv2.circle(picture, (24, 24), 21, red, -1)
        cv2.rectangle(picture, (10, 20), (38, 28), white, -1)
    elif seed % 4 == 1:
        cv2.rectangle(picture, (5, 4), (43, 46), blue, -1)
        cv2.putText(picture, "P", (13, 38), cv2.FONT_HERSHEY_DUPLEX, 1.1, white, 2)
    elif seed % 4 == 2:
        cv2.fillPoly(picture, [np.array([[24, 2], [46, 44], [2, 44]])], red)
        cv2.fillPoly(picture, [np.array([[24, 13], [37, 38], [11, 38]])], white)
    else:
        cv2.fillPoly(picture, [np.array([[24, 2], [46, 24], [24, 46], [2, 24]])], white)
        cv2.fillPoly(picture, [np.array([[24, 8], [40, 24], [24, 40], [8, 24]])], yellow)
    return picture


def draw_person(seed: int) -> NDArray[np.uint8]:
    """A walking person, (180, 64, 4)."""
    rng = np.random.default_rng([seed, 9])
    coat, legs = rng.integers(30, 200, 3), rng.integers(25, 90, 3)
    picture = np.zeros((180, 64, 4), np.uint8)
    picture[..., :3] = coat
    dark, cloth = (*map(int, legs), 255), (*map(int, coat), 255)
    stride = int(rng.integers(4, 14))
    for sign in (-1, 1):
        cv2.line(picture, (32, 100), (32 + sign * stride, 176), dark, 11)
        cv2.line(picture, (32 + sign * 12, 45), (32 + sign * 18, 95), cloth, 8)
    cv2.ellipse(picture, (32, 70), (16, 36), 0, 0, 360, cloth, -1)
    cv2.circle(picture, (32, 22), 12, (206, 164, 136, 255), -1)
    cv2.ellipse(picture, (32, 16), (12, 9), 0, 180, 360, (58, 42, 34, 255), -1)
    return picture


def draw_vehicle_faces(paint: tuple[int, int, int], part: str, snow: bool) -> list[Image]:
    """Front, left side, back, right side and top of one box of a vehicle.

    Args:
        paint: Colour of the body.
        part: ``body``, ``cabin`` or ``van``.
        snow: Whether snow lies on top.
    """
    faces = []
    for side in range(4):
        size = (60, 90, 3) if side % 2 == 0 else (60, 210, 3)
        face = np.empty(size, np.uint8)
        face[:] = np.clip(np.array(paint) * (1.0 if side % 2 else 0.88), 0, 255)
        width = size[1]
        if part == "body":
            _body(face, front=side == 0, lengthways=side % 2 == 1)
        elif part == "cabin":
            cv2.rectangle(face, (7, 6), (width - 7, 56), (46, 54, 62), -1)
            if side % 2:
                cv2.line(face, (width // 2, 6), (width // 2, 56), paint, 7)
        else:
            _van(face, front=side == 0, lengthways=side % 2 == 1)
        faces.append(np.ascontiguousarray(face[:, ::-1]) if side == 1 else face)
    top = np.empty((30, 60, 3), np.uint8)
    top[:] = (232, 236, 242) if snow else paint
    return [*faces, top]


def _body(face: Image, front: bool, lengthways: bool) -> None:
    height, width = face.shape[:2]
    cv2.rectangle(face, (0, height - 8), (width, height), (34, 34, 36), -1)
    if lengthways:
        for x in (40, width - 42):
            cv2.circle(face, (x, height - 8), 21, (22, 22, 24), -1)
            cv2.circle(face, (x, height - 8), 11, (130, 132, 136), -1)
        cv2.line(face, (width // 2, 4), (width // 2, height - 12), (30, 30, 32), 1)
        return
    lamp = (244, 238, 214) if front else (188, 28, 30)
    for x in (3, width - 21):
        cv2.rectangle(face, (x, 10), (x + 18, 24), lamp, -1)
    cv2.rectangle(face, (32, 32), (width - 32, 42), (236, 226, 160), -1)


def _van(face: Image, front: bool, lengthways: bool) -> None:
    height, width = face.shape[:2]
    cv2.rectangle(face, (0, height - 4), (width, height), (34, 34, 36), -1)
    if lengthways:
        cv2.rectangle(face, (width - 46, 12), (width - 10, 30), (46, 54, 62), -1)
        for x in (36, width - 40):
            cv2.circle(face, (x, height - 3), 11, (22, 22, 24), -1)
    elif front:
        cv2.rectangle(face, (6, 10), (width - 6, 30), (46, 54, 62), -1)
    else:
        cv2.line(face, (width // 2, 3), (width // 2, height - 5), (60, 60, 64), 2)
        for x in (2, width - 12):
            cv2.rectangle(face, (x, 34), (x + 10, 46), (188, 28, 30), -1)


def draw_hedge(seed: int, snow: bool) -> Image:
    """A hedge seen from the side, (30, 160, 3)."""
    rng = np.random.default_rng([seed, 12])
    leaves = rng.normal(0, 18, (15, 80, 1)).repeat(2, 0).repeat(2, 1)
    picture = np.clip(np.array([52, 84, 42]) + leaves, 0, 255).astype(np.uint8)
    if snow:
        picture[:7] = (228, 232, 238)
    return picture


def draw_fence(seed: int) -> NDArray[np.uint8]:
    """A picket or iron fence, (40, 160, 4)."""
    picture = np.zeros((40, 160, 4), np.uint8)
    color = [(228, 226, 220, 255), (52, 54, 56, 255), (124, 86, 56, 255)][seed % 3]
    picture[..., :3] = color[:3]
    for y in (8, 30):
        cv2.line(picture, (0, y), (160, y), color, 4)
    for x in range(2, 160, 9):
        cv2.line(picture, (x, 2), (x, 40), color, 4 if seed % 3 != 1 else 2)
    return picture


def draw_billboard(seed: int) -> Image:
    """An advertisement of two colours and a shape, (60, 90, 3)."""
    rng = np.random.default_rng([seed, 15])
    picture = np.empty((60, 90, 3), np.uint8)
    picture[:] = rng.integers(60, 240, 3)
    ink = tuple(int(c) for c in rng.integers(20, 255, 3))
    cv2.circle(picture, (int(rng.integers(20, 70)), 30), int(rng.integers(12, 26)), ink, -1)
    cv2.rectangle(picture, (8, 44), (82, 52), (250, 250, 250), -1)
    cv2.rectangle(picture, (0, 0), (89, 59), (60, 60, 62), 3)
    return picture
