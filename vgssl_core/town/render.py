"""Draws textured planar quads with exact perspective, a depth buffer and mip-maps (numpy + OpenCV).

A quad is a corner ``O`` and two edges ``U`` (texture left to right) and ``V`` (texture top to bottom). With the
camera matrix K and everything in the camera's frame, ``H = K [U V O]`` takes texture coordinates (s, t, 1) to
``depth * pixel``. So ``inv(H)`` takes a pixel to ``(s, t, 1) / depth``: its last row is the inverse depth, a linear
function of the pixel, which serves the depth buffer without any division.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.town.camera import Camera, Pose

Floats = NDArray[np.float64]
NEAR_M = 0.25
FAR_M = 2000.0


@dataclass(frozen=True)
class Texture:
    """A picture with its mip-maps.

    Attributes:
        levels: Full size first, then halved each time; (h, w, 3) uint8, or (h, w, 4) with a cut-out alpha.
        pixels_per_m: Resolution of the first level.
    """

    levels: tuple[NDArray[np.uint8], ...]
    pixels_per_m: float

    @classmethod
    def of(cls, picture: NDArray[np.uint8], pixels_per_m: float) -> Texture:
        """Build the mip-maps of a picture."""
        levels = [picture]
        while min(levels[-1].shape[:2]) >= 4 and len(levels) < 6:
            height, width = levels[-1].shape[:2]
            levels.append(
                cv2.resize(levels[-1], (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
            )
        return cls(tuple(levels), pixels_per_m)

    def level(self, footprint_m: float) -> NDArray[np.uint8]:
        """The mip level whose texels are about as large as a pixel that covers ``footprint_m``."""
        ratio = self.pixels_per_m * footprint_m
        return self.levels[min(max(math.floor(math.log2(ratio) + 0.4), 0), len(self.levels) - 1)]


@dataclass(frozen=True)
class Quads:
    """N textured quads in ENU.

    Attributes:
        origin_m, right_m, down_m: (N, 3) corner O and edges U, V.
        textures: N textures.
        shade: (N,) float64 brightness factors.
    """

    origin_m: Floats
    right_m: Floats
    down_m: Floats
    textures: Sequence[Texture]
    shade: Floats

    def __add__(self, other: Quads) -> Quads:
        return Quads(
            np.concatenate([self.origin_m, other.origin_m]),
            np.concatenate([self.right_m, other.right_m]),
            np.concatenate([self.down_m, other.down_m]),
            [*self.textures, *other.textures],
            np.concatenate([self.shade, other.shade]),
        )


@dataclass
class Canvas:
    """What has been drawn so far.

    Attributes:
        image: (height, width, 3) uint8 RGB.
        inverse_depth: (height, width) float32, 1 / metres along the optical axis.
    """

    image: Image
    inverse_depth: NDArray[np.float32]

    @classmethod
    def blank(cls, camera: Camera) -> Canvas:
        """A black picture of things that are infinitely far."""
        shape = (camera.height, camera.width)
        return cls(np.zeros((*shape, 3), np.uint8), np.full(shape, 1 / FAR_M, np.float32))


def draw(canvas: Canvas, camera: Camera, pose: Pose, quads: Quads) -> None:
    """Draw the quads that face the camera, nearest first, skipping what is hidden already."""
    rotation, center = pose.rotation, pose.position_m
    origin = (quads.origin_m - center) @ rotation.T
    right, down = quads.right_m @ rotation.T, quads.down_m @ rotation.T
    facing = np.einsum("ni,ni->n", np.cross(down, right), origin) < -1e-6
    ahead = np.maximum.reduce([origin, origin + right, origin + down, origin + right + down])[:, 2] > NEAR_M
    chosen = np.flatnonzero(facing & ahead)
    origin, right, down = origin[chosen], right[chosen], down[chosen]
    corners = np.stack([origin, origin + right, origin + right + down, origin + down], axis=1)
    pixels, low, high, nearest = _bounds(corners, camera)
    size = high - low
    large = np.flatnonzero((size.min(axis=1) > 0.6) & (size.max(axis=1) > 2.0))
    order = large[np.argsort(nearest[large], kind="stable")]
    inverses = np.linalg.inv(camera.matrix @ np.stack([right[order], down[order], origin[order]], axis=-1))
    middle = np.maximum(corners[order, :, 2].mean(axis=1), nearest[order])
    footprint_m = (nearest[order] + middle) / 2 / camera.focal_px
    boxes = np.concatenate([np.floor(low), np.ceil(high)], axis=1)[order].astype(int).tolist()
    clipped = (corners[..., 2].min(axis=1) <= NEAR_M)[order]
    depth = canvas.inverse_depth
    for k, index in enumerate(order):
        left, top, end, bottom = boxes[k]
        if depth[top:bottom, left:end].min() >= 1 / nearest[index]:
            continue
        polygon = _clipped_polygon(corners[index], camera) if clipped[k] else pixels[index]
        fixed = np.clip((polygon - (left, top)) * 16 + 0.5, -(2**24), 2**24).astype(np.int32)
        mask = np.zeros((bottom - top, end - left), np.uint8)
        cv2.fillConvexPoly(mask, fixed, 255, shift=4)
        number = chosen[index]
        picture = quads.textures[number].level(footprint_m[k])
        _warp_into(canvas, inverses[k], (left, end, top, bottom), picture, mask, quads.shade[number])


def draw_ground(canvas: Canvas, camera: Camera, pose: Pose, origin_m: Floats, size_m: float, ground: Texture) -> None:
    """Draw the plane at height 0 from a top view, in bands of rows of equal mip level.

    Args:
        canvas: Where to draw.
        camera: The camera.
        pose: Its pose.
        origin_m: (2,) north-west corner of the top view.
        size_m: Side of the square top view.
        ground: The top view, north up.
    """
    rotation = pose.rotation
    edges = np.array([[size_m, 0, 0], [0, -size_m, 0], [*origin_m, 0] - pose.position_m]) @ rotation.T
    inverse = np.linalg.inv(camera.matrix @ edges.T)
    forward = np.array([np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)])
    reach = (9.0, 16.0, 28.0, 400.0)
    points = np.array([[pose.x_m + forward[0] * r, pose.y_m + forward[1] * r, 0.0] for r in reach])
    rows = np.clip(np.round(camera.project(pose, points)[0][:, 1]).astype(int), 0, camera.height)
    bottom = camera.height
    for level, top in enumerate(rows):
        if top < bottom:
            picture = ground.levels[min(level, len(ground.levels) - 1)]
            _warp_into(canvas, inverse, (0, camera.width, top, bottom), picture, None, 1.0)
        bottom = min(bottom, top)


def _bounds(corners: Floats, camera: Camera) -> tuple[Floats, Floats, Floats, Floats]:
    """Where quads lie in the image.

    Returns:
        Pixels of the corners (N, 4, 2), which mean nothing behind the camera; low (N, 2) and high (N, 2) corners of
        the boxes of what lies beyond the near plane, cut to the image; nearest depths (N,).
    """
    following = np.roll(corners, -1, axis=1)
    z, z_following = corners[..., 2], following[..., 2]
    gap = np.where(z_following == z, 1.0, z_following - z)
    cut = corners + ((NEAR_M - z) / gap)[..., None] * (following - corners)
    points = np.concatenate([corners, cut], axis=1)
    valid = np.concatenate([z > NEAR_M, (z > NEAR_M) != (z_following > NEAR_M)], axis=1)
    depth = np.where(valid, np.maximum(points[..., 2], NEAR_M), np.inf)
    pixels = points[..., :2] / np.where(valid, depth, 1.0)[..., None] * camera.focal_px
    pixels += (camera.center_x, camera.center_y)
    limit = (camera.width, camera.height)
    low = np.clip(np.where(valid[..., None], pixels, np.inf).min(axis=1), 0, limit)
    high = np.clip(np.where(valid[..., None], pixels, -np.inf).max(axis=1) + 1, 0, limit)
    return pixels[:, :4], low, high, depth.min(axis=1)


def _clipped_polygon(corners: Floats, camera: Camera) -> Floats:
    """Pixels (3 to 5, 2) of a quad that crosses the near plane."""
    kept = []
    for here, there in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if here[2] > NEAR_M:
            kept.append(here)
        if (here[2] > NEAR_M) != (there[2] > NEAR_M):
            kept.append(here + (NEAR_M - here[2]) / (there[2] - here[2]) * (there - here))
    points = np.array(kept)
    return points[:, :2] / points[:, 2:] * camera.focal_px + (camera.center_x, camera.center_y)


def _warp_into(
    canvas: Canvas,
    inverse: Floats,
    box: tuple[int, int, int, int],
    picture: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    shade: float,
) -> None:
    """Warp a picture into a box of the canvas wherever it is nearer than what is there."""
    x_low, x_high, y_low, y_high = box
    columns = np.arange(x_low, x_high, dtype=np.float64)
    rows = np.arange(y_low, y_high, dtype=np.float64)
    depth = (inverse[2, 0] * columns + (inverse[2, 1] * rows + inverse[2, 2])[:, None]).astype(np.float32)
    there = canvas.inverse_depth[y_low:y_high, x_low:x_high]
    nearer = cv2.compare(depth, there, cv2.CMP_GT)
    if mask is not None:
        nearer = cv2.bitwise_and(nearer, mask)
    if not cv2.countNonZero(nearer):
        return
    height, width = picture.shape[:2]
    shifted = inverse.copy()
    shifted[:, 2] += inverse[:, 0] * x_low + inverse[:, 1] * y_low
    to_texels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1.0]])
    warped = cv2.warpPerspective(
        picture,
        to_texels @ shifted,
        (x_high - x_low, y_high - y_low),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if picture.shape[2] == 4:
        nearer = cv2.bitwise_and(nearer, cv2.compare(cv2.extractChannel(warped, 3), 127, cv2.CMP_GT))
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    if shade != 1.0:
        warped = cv2.convertScaleAbs(warped, alpha=float(shade))
    cv2.copyTo(warped, nearer, canvas.image[y_low:y_high, x_low:x_high])
    cv2.copyTo(depth, nearer, there)
