"""Images written straight into an engine's input: the same values as the plain definition."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import picture

from vgssl_core.errors import DataError
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.inference.input_buffer import InputBuffer

#: One picture in other memory layouts.
LAYOUTS: dict[str, Callable[[Image], Image]] = {
    "contiguous": lambda image: image,
    "rows upwards": lambda image: image[::-1],
    "columns leftwards": lambda image: image[:, ::-1],
    "BGR as RGB": lambda image: image[..., ::-1],
    "part of a larger one": lambda image: np.pad(image, ((1, 2), (3, 4), (0, 0)))[1:-2, 3:-4],
    "every second pixel": lambda image: image.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2],
    "columns first": lambda image: np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2),
    "planes first": lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    "grey in all channels": lambda image: np.broadcast_to(image[..., :1], image.shape),
    "not to be written": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
}


def by_definition(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize, scale to [0, 1], subtract the mean, divide by the standard deviation."""
    image = np.ascontiguousarray(image)
    size = preprocessing.width, preprocessing.height
    if image.shape[1::-1] != size:
        shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return ((image / 255.0 - preprocessing.mean) / preprocessing.std).transpose(2, 0, 1)


@given(st.integers(1, 90), st.integers(1, 70), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 99))
def test_every_size_and_layout_gives_what_the_definition_says(width: int, height: int, layout: str, seed: int) -> None:
    preprocessing = Preprocessing(32, 24)
    image = LAYOUTS[layout](picture(seed, width, height))
    given = InputBuffer(preprocessing).fill([image])[0]
    np.testing.assert_allclose(given, by_definition(image, preprocessing), atol=1e-6)
    np.testing.assert_array_equal(given, preprocessing(image))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(32, 24), (64, 48), (96, 24), (7, 50)])
def test_every_layout_of_sizes_that_are_special_to_resizing(size: tuple[int, int], layout: str) -> None:
    preprocessing = Preprocessing(32, 24)
    image = LAYOUTS[layout](np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    np.testing.assert_allclose(
        InputBuffer(preprocessing).fill([image])[0], by_definition(image, preprocessing), atol=1e-6
    )


@given(
    st.tuples(*[st.floats(-1, 2, allow_subnormal=False)] * 3),
    st.tuples(*[st.floats(0.05, 2)] * 3),
    st.integers(0, 2**20),
)
def test_any_mean_and_deviation_are_those_of_the_definition(mean: tuple, std: tuple, seed: int) -> None:
    preprocessing = Preprocessing(8, 6, mean, std)
    image = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    given = InputBuffer(preprocessing).fill([image])[0]
    np.testing.assert_array_equal(given, preprocessing(image))
    np.testing.assert_allclose(given, by_definition(image, preprocessing), rtol=1e-6, atol=1e-5)


def test_one_image_takes_the_same_memory_every_time_and_several_take_their_own() -> None:
    preprocessing = Preprocessing(32, 24)
    buffer, images = InputBuffer(preprocessing), [picture(number) for number in range(3)]
    address = buffer.one.ctypes.data
    for image in images:
        given = buffer.fill([image])
        assert given is buffer.one and given.ctypes.data == address
        np.testing.assert_array_equal(given[0], preprocessing(image))
    batch = buffer.fill(images)
    assert not np.shares_memory(batch, buffer.one)
    np.testing.assert_array_equal(batch, np.stack([preprocessing(image) for image in images]))


def test_the_given_image_is_not_changed() -> None:
    for size in [(32, 24), (64, 48), (5, 5)]:
        image = picture(1, *size)
        copy = image.copy()
        InputBuffer(Preprocessing(32, 24)).fill([image])
        np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((24, 32), np.uint8),
        np.zeros((24, 32, 1), np.uint8),
        np.zeros((24, 32, 4), np.uint8),
        np.zeros((24, 32, 3), np.float32),
        np.zeros((24, 32, 3), np.int8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((24, 0, 3), np.uint8),
        np.zeros((1, 24, 32, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_what_is_no_rgb_image_is_refused_with_its_shape(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="instead of uint8"):
        InputBuffer(Preprocessing(32, 24)).fill([image])
