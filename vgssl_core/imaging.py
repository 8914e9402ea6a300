"""The only image conversion of the project: decode, colour, resize, normalise (numpy + OpenCV).

An image is a (height, width, 3) uint8 RGB array everywhere. Training, evaluation, export and the robot use the
same `Preprocessing`, whose parameters travel in the model bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError

Image = NDArray[np.uint8]
#: JPEG's markers of the first scan, and of the headers that hold the size.
_SCAN = 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REDUCTIONS = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def read_image(path: str | Path, least_size: tuple[int, int] | None = None) -> Image:
    """Decode an image file to RGB, turned upright by its EXIF orientation.

    Args:
        path: The file.
        least_size: See `decode_image`.

    Raises:
        DataError: Missing, empty, truncated, or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise DataError(f"Cannot read image {path}: {problem.strerror or problem}.") from problem
    return decode_image(data, str(path), least_size)


def decode_image(data: bytes | NDArray[np.uint8], source: str, least_size: tuple[int, int] | None = None) -> Image:
    """Decode encoded bytes (JPEG, PNG, …) to RGB.

    Args:
        data: The encoded image.
        source: Where it comes from, for the error message.
        least_size: Width and height to which it will be resized. A JPEG may then come at a half, a quarter or an
            eighth of its size: at exactly this one, or at twice this one or more. That is faster, and what resizing
            makes of it hardly differs (PSNR on photographs: about 50 dB at these fractions, 40 dB and more between).

    Raises:
        DataError: Empty, truncated, or not an image. OpenCV would fill the rest of a truncated JPEG with grey.
    """
    buffer = np.frombuffer(data, np.uint8)
    content = buffer.tobytes()
    image = None
    if content and not _is_truncated_jpeg(content):
        image = _decoded(buffer, _reduction(content, least_size) if least_size else cv2.IMREAD_COLOR)
        if image is not None and least_size and (image.shape[1] < least_size[0] or image.shape[0] < least_size[1]):
            image = _decoded(buffer, cv2.IMREAD_COLOR)  # EXIF laid it on its side
    if image is None:
        raise DataError(
            f"{source} does not decode ({buffer.size} bytes): it is damaged or no image. Replace or remove it."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decoded(buffer: NDArray[np.uint8], flag: int) -> Image | None:
    try:
        return cv2.imdecode(buffer, flag)
    except cv2.error:
        return None


def _reduction(data: bytes, least_size: tuple[int, int]) -> int:
    """OpenCV's flag for the smallest decoding of a JPEG that resizes to nearly the same pixels."""
    for marker, position, _ in _jpeg_segments(data):
        if marker in _FRAME_HEADERS:
            size = (int.from_bytes(data[position + i : position + i + 2], "big") for i in (7, 5))
            ratio, other = (whole / least for whole, least in zip(size, least_size, strict=True))
            for factor, flag in _REDUCTIONS:
                # In between, averaging a second time would blur.
                if ratio == other == factor or min(ratio, other) >= 2 * factor:
                    return flag
    return cv2.IMREAD_COLOR


def _is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG has no end marker after its first scan (thumbnails inside headers have their own)."""
    if data[:2] != b"\xff\xd8":
        return False
    for marker, position, length in _jpeg_segments(data):
        if marker == _SCAN:
            # In entropy-coded data 0xFF is always stuffed, so that any end marker is the picture's. The search begins
            # at the end of the file, where it usually is.
            return data.rfind(b"\xff\xd9", position + 2 + length) < 0
    return True


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, position and length of each segment of a JPEG up to its first scan; nothing for other formats."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        yield marker, position, length
        if marker == _SCAN:
            return
        position += 2 + length


#: ROS encodings of interleaved 8-bit channels: channel count and OpenCV conversion to RGB.
#: Images without a named order of colours (8UC3) are BGR, as OpenCV and cv_bridge take them.
_PACKED = {
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8uc1": (1, cv2.COLOR_GRAY2RGB),
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8uc3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    # ROS names the mosaic's first four pixels; OpenCV's old names are those of the pixels one row and column on.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
}
#: One byte of luma per pixel, then half as many rows of interleaved chroma.
_SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
#: 16-bit images are scaled to 8 bits (65535 becomes 255) and go on as the named encoding.
_SIXTEEN_BIT = {
    "mono16": "mono8",
    "16uc1": "mono8",
    "bayer_rggb16": "bayer_rggb8",
    "bayer_bggr16": "bayer_bggr8",
    "bayer_gbrg16": "bayer_gbrg8",
    "bayer_grbg16": "bayer_grbg8",
}
#: Two neighbouring pixels share their colour.
_PIXEL_PAIRS = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
RAW_ENCODINGS = tuple(sorted({*_PACKED, *_SEMI_PLANAR, *_SIXTEEN_BIT}))


def raw_to_rgb(
    data: bytes | bytearray | memoryview | NDArray[np.uint8],
    width: int,
    height: int,
    encoding: str,
    step: int,
    is_bigendian: bool,
    source: str,
) -> Image:
    """Convert the pixels of a ``sensor_msgs/Image`` to RGB.

    Args:
        data: The message's bytes.
        width: Columns of the image.
        height: Rows of the image.
        encoding: ROS name of the pixel format, one of ``RAW_ENCODINGS`` in any case.
        step: Bytes from one row to the next; more than the pixels need where rows are padded.
        is_bigendian: Byte order of 16-bit pixels.
        source: Where the image comes from, for the error message.

    Returns:
        A new RGB image that shares no memory with ``data``.

    Raises:
        DataError: Unknown encoding, zero size, a size or step that the encoding cannot have, or too little data.
    """
    name = encoding.lower()
    if name not in RAW_ENCODINGS:
        raise DataError(f"{source}: the encoding {encoding!r} is not known. Known are {', '.join(RAW_ENCODINGS)}.")
    if width < 1 or height < 1:
        raise DataError(f"{source}: the image is {width}x{height} pixels: it is empty. Check the camera driver.")
    if (name in _SEMI_PLANAR and (width % 2 or height % 2)) or (name in _PIXEL_PAIRS and width % 2):
        raise DataError(f"{source}: {width}x{height} pixels are not possible with {encoding}: sizes must be even.")
    if "bayer" in name and min(width, height) < 4:
        raise DataError(f"{source}: {width}x{height} pixels are too few to interpolate the colours of {encoding}.")
    sixteen = name in _SIXTEEN_BIT
    channels = 1 if sixteen or name in _SEMI_PLANAR else _PACKED[name][0]
    rows = height * 3 // 2 if name in _SEMI_PLANAR else height
    pixels = _rows(data, rows, width * channels * (2 if sixteen else 1), step, f"{source} ({encoding})")
    if sixteen:
        values = pixels.view(">u2" if is_bigendian else "<u2").astype(np.uint32)
        pixels, name = ((values + 128) // 257).astype(np.uint8), _SIXTEEN_BIT[name]
    if name in _SEMI_PLANAR:
        return cv2.cvtColor(pixels, _SEMI_PLANAR[name])
    channels, conversion = _PACKED[name]
    image = pixels.reshape(height, width, channels) if channels > 1 else pixels
    return image.copy() if conversion is None else cv2.cvtColor(image, conversion)


def _rows(
    data: bytes | bytearray | memoryview | NDArray[np.uint8], rows: int, used: int, step: int, source: str
) -> NDArray[np.uint8]:
    """(rows, used) bytes without the padding; the last row may come without its padding."""
    buffer = np.frombuffer(data, np.uint8)
    if step < used:
        raise DataError(f"{source}: a row is {step} bytes (step) and its pixels need {used}. Check the camera driver.")
    needed = step * (rows - 1) + used
    if buffer.size < needed:
        raise DataError(f"{source}: the image has {buffer.size} bytes instead of {needed}: it is cut off.")
    if step == used:
        return buffer[:needed].reshape(rows, used)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(buffer, (rows, used), (step, 1)))


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

    def resize(self, image: Image, out: Image | None = None) -> Image:
        """Stretch to the input size: area averaging when shrinking, which does not alias, else bilinear.

        Args:
            image: (height, width, 3) uint8 RGB of any size.
            out: (self.height, self.width, 3) uint8 to write into; an image that has the size already is not copied.
        """
        height, width = image.shape[:2]
        if (width, height) == (self.width, self.height):
            return image
        shrinks = width >= self.width and height >= self.height
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (self.width, self.height), dst=out, interpolation=interpolation)

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
            valid = len(mean) == len(std) == 3 and bool(np.isfinite(mean + std).all()) and min(std) > 0
            valid = valid and 0 < result.width <= 16384 and 0 < result.height <= 16384
        except (KeyError, TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            raise DataError(f"These preprocessing parameters are not usable: {values}.")
        return result
