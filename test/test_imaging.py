"""Decoding, raw ROS encodings, resizing and normalising."""

from __future__ import annotations

import array
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import picture

from vgssl_core.errors import DataError
from vgssl_core.imaging import RAW_ENCODINGS, Preprocessing, decode_image, raw_to_rgb, read_image

#: Channel of each of the first four mosaic pixels (row by row) by ROS name.
MOSAICS = {"bayer_rggb": "RGGB", "bayer_bggr": "BGGR", "bayer_gbrg": "GBRG", "bayer_grbg": "GRBG"}


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def convert(pixels: NDArray[np.generic], encoding: str, width: int, height: int, padding: int = 0, big: bool = False):
    """`raw_to_rgb` of rows of pixels, each row followed by ``padding`` bytes of rubbish."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xA5, np.uint8)], axis=1)
    return raw_to_rgb(padded.tobytes(), width, height, encoding, padded.shape[1], big, "test")


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ((160, 120), (120, 160, 3)),
        ((80, 60), (60, 80, 3)),
        ((40, 30), (30, 40, 3)),
        ((64, 48), (120, 160, 3)),
        ((100, 75), (240, 320, 3)),
        ((160, 119), (240, 320, 3)),
        ((400, 20), (240, 320, 3)),
    ],
)
def test_reduced_decoding_is_large_enough_and_resizes_to_the_same(
    target: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    data, preprocessing = jpeg(picture(1, 320, 240)), Preprocessing(*target)
    reduced = decode_image(data, "test", target)
    assert reduced.shape == shape
    difference = preprocessing.resize(decode_image(data, "test")).astype(int) - preprocessing.resize(reduced)
    assert np.abs(difference).mean() < 1


def test_reduced_decoding_of_a_photograph_on_its_side_is_large_enough() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = jpeg(picture(1, 128, 96))
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert decode_image(turned, "test").shape == (128, 96, 3)
    assert decode_image(turned, "test", (64, 48)).shape == (128, 96, 3)
    assert decode_image(plain, "test", (64, 48)).shape == (48, 64, 3)


def test_reduced_decoding_leaves_other_formats_and_damage_as_they_are() -> None:
    data = cv2.imencode(".png", picture(1))[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, "test", (4, 4)), decode_image(data, "test"))
    with pytest.raises(DataError, match="does not decode"):
        decode_image(jpeg(picture(1))[:-30], "test", (4, 4))


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_packed_colours_come_out_exactly_with_and_without_row_padding(padding: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    alpha = np.full((5, 7, 1), 77, np.uint8)
    bgr = image[..., ::-1]
    for encoding, pixels in {
        "rgb8": image,
        "bgr8": bgr,
        "8UC3": bgr,
        "rgba8": np.concatenate([image, alpha], 2),
        "bgra8": np.concatenate([bgr, alpha], 2),
    }.items():
        np.testing.assert_array_equal(convert(pixels, encoding, 7, 5, padding), image, err_msg=encoding)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_copied_to_all_channels(encoding: str, padding: int) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    np.testing.assert_array_equal(convert(grey, encoding, 6, 4, padding), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_are_scaled_in_their_byte_order(big: bool) -> None:
    values = np.array([[0, 257, 65535], [128, 129, 0x1234]], np.uint16)
    expected = np.array([[0, 1, 255], [0, 1, round(0x1234 / 257)]], np.uint8)
    image = convert(values.astype(">u2" if big else "<u2"), "mono16", 3, 2, padding=5, big=big)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", MOSAICS)
def test_mosaics_of_one_colour_give_that_colour_everywhere(name: str, bits: int) -> None:
    colour = {"R": 200, "G": 120, "B": 30}
    tile = np.array([colour[c] for c in MOSAICS[name]], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (4, 5))
    pixels = mosaic.astype(np.uint8) if bits == 8 else (mosaic * 257).astype("<u2")
    image = convert(pixels, f"{name}{bits}", 10, 8, padding=6)
    np.testing.assert_array_equal(image, np.broadcast_to(np.array([200, 120, 30], np.uint8), (8, 10, 3)))


def yuv_of(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """Studio-range BT.601, the definition behind OpenCV's tables."""
    y = 16 + (65.738 * red + 129.057 * green + 25.064 * blue) / 256
    u = 128 + (-37.945 * red - 74.494 * green + 112.439 * blue) / 256
    v = 128 + (112.439 * red - 94.154 * green - 18.285 * blue) / 256
    return round(y), round(u), round(v)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv422_orders_give_the_colour_that_was_encoded(encoding: str, order: str, padding: int) -> None:
    left, right = (200, 60, 30), (20, 90, 180)
    rows = []
    for colour in (left, right):
        y, u, v = yuv_of(*colour)
        rows += [{"y": y, "u": u, "v": v}[c] for c in order] * 2
    image = convert(np.tile(np.array(rows, np.uint8), (3, 1)), encoding, 8, 3, padding)
    assert np.abs(image[:, :4].astype(int) - left).max() <= 3
    assert np.abs(image[:, 4:].astype(int) - right).max() <= 3


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
def test_semi_planar_images_give_the_colour_that_was_encoded(encoding: str, order: str, padding: int) -> None:
    colour = (200, 60, 30)
    y, u, v = yuv_of(*colour)
    chroma = np.tile(np.array([{"u": u, "v": v}[c] for c in order], np.uint8), (2, 3))
    planes = np.concatenate([np.full((4, 6), y, np.uint8), chroma])
    image = convert(planes, encoding, 6, 4, padding)
    assert image.shape == (4, 6, 3)
    assert np.abs(image.astype(int) - colour).max() <= 3


def test_every_known_encoding_takes_arrays_bytes_and_views_and_shares_no_memory() -> None:
    for encoding in RAW_ENCODINGS:
        data = np.full(8 * 8 * 4 * 2, 90, np.uint8)
        forms = [data, data.tobytes(), memoryview(data.tobytes()), array.array("B", data.tobytes())]
        images = [raw_to_rgb(form, 8, 8, encoding, 32, False, "test") for form in forms]
        assert all(image.shape == (8, 8, 3) and image.dtype == np.uint8 for image in images), encoding
        assert not np.shares_memory(images[0], data)
        assert all(image.flags.c_contiguous and image.flags.writeable for image in images)


def test_the_last_row_may_come_without_its_padding() -> None:
    assert raw_to_rgb(bytes(10 + 6), 2, 2, "rgb8", 10, False, "test").shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("encoding", "width", "height", "step", "size", "words"),
    [
        ("rgb8", 4, 4, 12, 47, "47 bytes instead of 48"),
        ("rgb8", 4, 4, 11, 48, "step"),
        ("rgb8", 0, 4, 12, 48, "empty"),
        ("rgb8", 4, -1, 12, 48, "empty"),
        ("mono8", 4, 0, 4, 0, "empty"),
        ("mono16", 4, 4, 4, 64, "step"),
        ("yuyv", 5, 4, 10, 40, "even"),
        ("nv12", 4, 3, 4, 18, "even"),
        ("nv12", 4, 4, 4, 23, "23 bytes instead of 24"),
        ("bayer_rggb8", 2, 2, 2, 4, "too few"),
        ("h264", 4, 4, 12, 48, "encoding 'h264'"),
        ("", 4, 4, 12, 48, "encoding ''"),
    ],
)
def test_impossible_messages_are_refused_with_their_reason(
    encoding: str, width: int, height: int, step: int, size: int, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        raw_to_rgb(bytes(size), width, height, encoding, step, False, "/camera/image_raw at 17")
    assert "/camera/image_raw at 17" in str(caught.value)


@given(
    st.sampled_from([*RAW_ENCODINGS, "odd"]),
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.integers(-1, 40),
    st.binary(max_size=400),
    st.booleans(),
)
def test_any_message_gives_an_image_of_its_size_or_our_error(
    encoding: str, width: int, height: int, step: int, data: bytes, big: bool
) -> None:
    try:
        image = raw_to_rgb(data, width, height, encoding, step, big, "test")
    except DataError:
        return
    assert image.shape == (height, width, 3)


@given(st.integers(0, 400))
def test_a_truncated_jpeg_is_refused_at_every_length(cut: int) -> None:
    data = jpeg(picture(3, 16, 16))
    if cut < len(data):
        with pytest.raises(DataError, match="does not decode"):
            decode_image(data[:cut], "photo.jpg")


def test_rubbish_behind_the_end_of_a_jpeg_does_no_harm() -> None:
    data = jpeg(picture(3))
    np.testing.assert_array_equal(decode_image(data + bytes(100), "a"), decode_image(data, "b"))


def test_a_jpeg_with_a_thumbnail_in_its_header_is_cut_where_the_picture_ends() -> None:
    thumbnail = jpeg(picture(1, 16, 16))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = jpeg(picture(3))
    whole = data[:2] + segment + data[2:]
    assert decode_image(whole, "a").shape == (48, 64, 3)
    with pytest.raises(DataError):
        decode_image(whole[:-40], "a")


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("missing.jpg", "empty.jpg"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(DataError):
        read_image(tmp_path)


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


@given(st.integers(1, 60), st.integers(1, 60))
def test_preprocessing_gives_the_input_size_whatever_the_image_and_resizing_again_changes_nothing(
    width: int, height: int
) -> None:
    preprocessing = Preprocessing(20, 12)
    image = picture(width * 61 + height, width, height)
    resized = preprocessing.resize(image)
    assert resized.shape == (12, 20, 3)
    np.testing.assert_array_equal(preprocessing.resize(resized), resized)
    tensor = preprocessing(image)
    assert tensor.shape == (3, 12, 20)
    assert tensor.dtype == np.float32
    mean, std = np.array(preprocessing.mean)[:, None, None], np.array(preprocessing.std)[:, None, None]
    np.testing.assert_allclose(tensor, (resized.transpose(2, 0, 1) / 255 - mean) / std, atol=1e-5)


def test_preprocessing_survives_the_manifest_and_refuses_nonsense() -> None:
    preprocessing = Preprocessing(640, 480, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    values = preprocessing.to_dict()
    assert Preprocessing.from_dict(values) == preprocessing
    bad = [{"width": 0}, {"height": 10**6}, {"std": [1, 0, 1]}, {"mean": [0, 0]}, {"mean": "abc"}, {"std": [1, "x", 1]}]
    bad += [{"mean": [float("nan"), 0, 0]}, {"std": [1, 1, float("inf")]}]
    for change in bad:
        with pytest.raises(DataError):
            Preprocessing.from_dict(values | change)
    with pytest.raises(DataError):
        Preprocessing.from_dict({})


def test_pixel_pairs_need_an_even_width() -> None:
    for encoding in ("uyvy", "yuyv", "yuv422", "yuv422_yuy2"):
        with pytest.raises(DataError, match="must be even"):
            raw_to_rgb(bytes(6), 3, 1, encoding, 6, False, "frame")
