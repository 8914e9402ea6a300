"""The only image conversion of the project: decode, colour, resize, normalise (numpy + OpenCV).

An image is a (height, width, 3) uint8 RGB array everywhere. Training, evaluation, export and the robot use the
same `Preprocessing`, whose parameters travel in the model bundle.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError

Image = NDArray[np.uint8]


def read_image(path: str | Path) -> Image:
    """Decode an image file to RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: Missing, empty, truncated, or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise DataError(f"Cannot read image {path}: {problem.strerror or problem}.") from problem
    return decode_image(data, str(path))


def decode_image(data: bytes | NDArray[np.uint8], source: str) -> Image:
    """Decode encoded bytes (JPEG, PNG, …) to RGB.

    Args:
        data: The encoded image.
        source: Where it comes from, for the error message.

    Raises:
        DataError: Empty, truncated, or not an image. OpenCV would fill the rest of a truncated JPEG with grey.
    """
    buffer = np.frombuffer(data, np.uint8)
    image = None
    if buffer.size and not _is_truncated_jpeg(buffer.tobytes()):
        try:
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
    if image is None:
        raise DataError(
            f"{source} does not decode ({buffer.size} bytes): it is damaged or no image. Replace or remove it."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG has no end marker after its first scan (thumbnails inside headers have their own)."""
    if data[:2] != b"\xff\xd8":
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            # In entropy-coded data 0xFF is always stuffed, so the first end marker is the real one.
            return data.find(b"\xff\xd9", position + 2 + length) < 0
        position += 1 if marker == 0xFF else 2 + length
    return True


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image of any size to the network's input.

    Attributes:
        width, height: Network input size in pixels; the image is stretched to it.
        mean, std: Per-channel normalisation of values scaled to [0, 1] (default ImageNet's).
    """

    width: int
    height: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """(height, width, 3) uint8 RGB of any size to (3, self.height, self.width) float32."""
        return self.normalise(self.resize(image))

    def resize(self, image: Image) -> Image:
        """Stretch to the input size: area averaging when shrinking, which does not alias, else bilinear."""
        height, width = image.shape[:2]
        if (width, height) == (self.width, self.height):
            return image
        shrinks = width >= self.width and height >= self.height
        return cv2.resize(
            image, (self.width, self.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )

    def normalise(self, image: Image) -> NDArray[np.float32]:
        """(height, width, 3) uint8 to normalised (3, height, width) float32."""
        scale = 1.0 / (255.0 * np.asarray(self.std, np.float32))
        offset = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray((image * scale - offset).transpose(2, 0, 1), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a bundle's manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`.

        Raises:
            DataError: A value is missing or not of its kind.
        """
        try:
            mean, std = (tuple(float(v) for v in values[key]) for key in ("mean", "std"))
            result = cls(int(values["width"]), int(values["height"]), mean, std)  # type: ignore[arg-type]
            valid = (
                len(mean) == len(std) == 3 and min(std) > 0 and 0 < result.width <= 16384 and 0 < result.height <= 16384
            )
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise DataError(f"These preprocessing parameters are not usable: {values}.")
        return result
