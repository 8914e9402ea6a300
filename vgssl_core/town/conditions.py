"""Day, dusk, rain and winter: light on surfaces, sky, haze, wetness, and what the camera makes of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.town.camera import Camera, Pose
from vgssl_core.town.render import Canvas

Color = tuple[float, float, float]
#: What is drawn with a smaller inverse depth is sky.
SKY = 1 / 1900.0


@dataclass(frozen=True)
class Condition:
    """A kind of light and weather.

    Attributes:
        name: Written into the file names' note.
        ambient: RGB factors on every surface.
        glow: How much of the windows' and signs' own light is seen.
        sun: Strength of the difference between sunny and shady walls.
        snow, wet: Cover of the ground, 0 to 1.
        bare: Whether trees have lost their leaves.
        haze_m: Distance at which haze hides 63 %.
        haze, zenith: RGB of the horizon and of the sky above.
        contrast: Factor on the difference from the mean.
        saturation: Factor on colour.
        noise: Standard deviation of the sensor's noise, grey values.
    """

    name: str
    ambient: Color = (1.0, 1.0, 1.0)
    glow: float = 0.0
    sun: float = 0.3
    snow: float = 0.0
    wet: float = 0.0
    bare: bool = False
    haze_m: float = 900.0
    haze: Color = (206, 218, 230)
    zenith: Color = (112, 158, 214)
    contrast: float = 1.0
    saturation: float = 1.0
    noise: float = 2.0

    def lit(self, picture: NDArray[np.uint8], glow: Image | None = None) -> NDArray[np.uint8]:
        """A surface's picture under this light; an alpha channel stays."""
        table = np.clip(np.arange(256)[:, None] * np.array(self.ambient) + 0.5, 0, 255).astype(np.uint8)
        result = cv2.LUT(np.ascontiguousarray(picture[..., :3]), table.reshape(256, 1, 3))
        if glow is not None and self.glow > 0:
            shining = cv2.compare(cv2.cvtColor(glow, cv2.COLOR_RGB2GRAY), 0, cv2.CMP_GT)
            cv2.copyTo(cv2.addWeighted(result, 1 - self.glow, glow, self.glow, 0), shining, result)
        return result if picture.shape[2] == 3 else np.dstack([result, picture[..., 3]])


DAY = Condition("day")
CONDITIONS = {
    "day": DAY,
    "dusk": Condition(
        "dusk", (0.58, 0.55, 0.64), 0.95, 0.08, haze_m=500, haze=(150, 112, 110), zenith=(44, 54, 96), noise=5.0
    ),
    "rain": Condition(
        "rain",
        (0.80, 0.81, 0.84),
        0.25,
        0.0,
        wet=1.0,
        haze_m=220,
        haze=(158, 164, 170),
        zenith=(128, 134, 142),
        contrast=0.92,
        saturation=0.85,
        noise=4.0,
    ),
    "winter": Condition(
        "winter",
        (0.94, 0.97, 1.04),
        0.1,
        0.1,
        snow=1.0,
        bare=True,
        haze_m=260,
        haze=(222, 226, 232),
        zenith=(204, 212, 222),
        contrast=0.95,
        saturation=0.9,
        noise=3.0,
    ),
}


def paint_sky(canvas: Canvas, condition: Condition, camera: Camera, pose: Pose, rng: np.random.Generator) -> None:
    """Fill what is still far away with a graded, clouded sky."""
    horizon = camera.center_y + camera.focal_px * np.tan(pose.pitch_rad)
    height = int(np.clip(horizon + 2, 1, camera.height))
    share = np.clip((horizon - np.arange(height)) / (0.7 * camera.focal_px), 0, 1)[:, None, None].astype(np.float32)
    clouds = cv2.resize(rng.normal(0, 0.5, (7, 9)).astype(np.float32), (camera.width, height), interpolation=2)
    white = np.clip(clouds, 0, 0.8)[..., None] * np.sqrt(share)
    haze, zenith = np.array(condition.haze, np.float32), np.array(condition.zenith, np.float32)
    sky = haze + (zenith - haze) * (share * (1 - white))
    far = cv2.compare(canvas.inverse_depth[:height], SKY, cv2.CMP_LT)
    cv2.copyTo(cv2.convertScaleAbs(sky), far, canvas.image[:height])


def develop(
    canvas: Canvas, condition: Condition, camera: Camera, pose: Pose, is_query: bool, rng: np.random.Generator
) -> Image:
    """Haze, reflections, falling rain and snow, then exposure, white balance, blur and noise of the camera.

    Args:
        canvas: Drawn scene, larger than the camera's picture or equal.
        condition: Light and weather.
        camera: The camera whose picture is made.
        pose: Its pose.
        is_query: Queries vary more in exposure and sharpness than the database.
        rng: Source of all randomness.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    size = (camera.width, camera.height)
    image = cv2.resize(canvas.image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    inverse_depth = cv2.resize(canvas.inverse_depth, size, interpolation=cv2.INTER_NEAREST)
    if condition.wet > 0:
        _reflect(image, inverse_depth, condition.wet, camera, pose)
    clear = np.exp(-1 / (condition.haze_m * rng.uniform(0.8, 1.3)) / inverse_depth)[..., None]
    sky = (inverse_depth < SKY)[..., None]
    haze = np.array(condition.haze, np.float32)
    image = np.where(sky, image, haze + (image - haze) * clear)
    _fall(image, condition, rng)
    amount = 1.0 if is_query else 0.35
    color, contrast = np.exp(rng.normal(0, 0.12 * amount, 2)) * (condition.saturation, condition.contrast)
    balance = np.exp(rng.normal(0, 0.03 * amount, 3) + rng.normal(0, 0.12 * amount))
    # Saturation, contrast and white balance are one linear map of RGB.
    gray = np.full((3, 3), 1 / 3)
    mix = balance[:, None] * (contrast * (gray + color * (np.eye(3) - gray)))
    offset = balance * (1 - contrast) * image.mean()
    image = cv2.transform(image, np.column_stack([mix, offset]).astype(np.float32))
    if is_query and rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0))
    noise = _noise()
    y, x = (int(rng.integers(0, noise.shape[axis])) for axis in range(2))
    rows, columns = (np.arange(size) + start for size, start in ((camera.height, y), (camera.width, x)))
    grain = noise.take(rows, axis=0, mode="wrap").take(columns, axis=1, mode="wrap")
    image = image + grain * np.float32(condition.noise * rng.uniform(0.6, 1.4))
    return np.clip(image, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    """A sheet of sensor noise of standard deviation 1, mostly equal in the three channels: images take parts of it."""
    rng = np.random.default_rng(1)
    sheet = rng.standard_normal((521, 613, 1), np.float32) + rng.standard_normal((521, 613, 3), np.float32) * 0.5
    return sheet.astype(np.float32)


def _reflect(image: NDArray[np.float32], inverse_depth: NDArray, wet: float, camera: Camera, pose: Pose) -> None:
    """Mirror what stands behind the wet road at the horizon, blurred downwards."""
    horizon = camera.center_y + camera.focal_px * np.tan(pose.pitch_rad)
    rows = np.arange(camera.height, dtype=np.float32)
    mirrored = np.clip(2 * horizon - rows, 0, camera.height - 1).astype(int)
    reflection = cv2.blur(image[mirrored], (3, 9))
    expected = ((rows - horizon) / (camera.focal_px * pose.z_m))[:, None]
    on_ground = (np.abs(inverse_depth - expected) < 0.03 * np.maximum(expected, 1e-6)) & (expected > 0)
    share = np.where(on_ground, 0.38 * wet, 0)[..., None].astype(np.float32)
    image += share * (reflection - image)


def _fall(image: NDArray[np.float32], condition: Condition, rng: np.random.Generator) -> None:
    """Streaks of rain or flakes of snow in the air."""
    height, width = image.shape[:2]
    if condition.wet > 0:
        layer = np.zeros((height, width), np.uint8)
        slant = int(rng.integers(-4, 5))
        for x, y in rng.integers(0, (width, height), (int(rng.integers(20, 90)), 2)):
            cv2.line(layer, (int(x), int(y)), (int(x) + slant, int(y) + 14), 255, 1)
        image += layer[..., None] * np.float32(0.09)
    elif condition.snow > 0 and rng.random() < 0.5:
        layer = np.zeros((height, width), np.uint8)
        for x, y in rng.integers(0, (width, height), (int(rng.integers(20, 120)), 2)):
            cv2.circle(layer, (int(x), int(y)), int(rng.integers(0, 2)), 255, -1)
        image += (layer[..., None] > 0) * (np.float32(235) - image) * np.float32(0.8)
