"""The decoded cache: nothing is decoded twice, and whatever happens to it, the pixels are right."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import picture

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair import images
from vgssl_core.geopair.decoded_cache import DecodedCache
from vgssl_core.geopair.images import ImageMemory, ImageStore
from vgssl_core.imaging import Preprocessing, read_image

SIZE = Preprocessing(80, 60)
COUNT = 12
ROW_BYTES = 80 * 60 * 3


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return photographs(tmp_path / "images", COUNT)


def photographs(folder: Path, count: int, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{number}.jpg" for number in range(first, first + count)]
    for number, path in enumerate(made, first):
        cv2.imwrite(str(path), picture(number))
    return made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    seen: list[Path] = []

    def noted(path: Path, least_size: tuple[int, int] | None) -> np.ndarray:
        seen.append(path)
        return read_image(path, least_size)

    monkeypatch.setattr(images, "read_image", noted)
    return seen


def opened(paths: list[Path], folder: Path, mib: int = 16) -> ImageStore:
    return ImageStore(paths, SIZE, ImageMemory(0), 2, DecodedCache(folder, mib))


def assert_right(store: ImageStore, paths: list[Path]) -> None:
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(store[index], SIZE.resize(read_image(path)))


def pixel_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/pixels.npy"))


def size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_second_start_decodes_nothing_and_gives_the_same_pixels(
    paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    assert_right(opened(paths, tmp_path / "cache"), paths)
    assert sorted(decoded) == sorted(paths)
    decoded.clear()
    assert_right(opened(paths, tmp_path / "cache"), paths)
    assert not decoded


def test_processes_that_start_together_decode_each_image_once(
    paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    # The lock is one of open files, so that threads stand for processes here.
    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(lambda _: opened(paths, tmp_path / "cache"), range(3)))
    assert sorted(decoded) == sorted(paths)
    for store in stores:
        assert_right(store, paths)


def test_images_of_reduced_decoding_are_kept_apart(tmp_path: Path, decoded: list[Path]) -> None:
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), picture(5, 160, 120))
    cache = DecodedCache(tmp_path / "cache", 16)
    reduced, whole = (ImageStore([path], SIZE, ImageMemory(0), 1, cache, reduced=way) for way in (True, False))
    assert decoded == [path, path]
    assert_right(whole, [path])
    np.testing.assert_array_equal(reduced[0], read_image(path, (80, 60)))


def test_only_changed_images_are_decoded_again(paths: list[Path], tmp_path: Path, decoded: list[Path]) -> None:
    opened(paths, tmp_path / "cache")
    decoded.clear()
    cv2.imwrite(str(paths[3]), picture(99))
    store = opened(paths, tmp_path / "cache")
    assert decoded == [paths[3]]
    assert_right(store, paths)


def test_another_size_has_its_own_images(paths: list[Path], tmp_path: Path) -> None:
    opened(paths, tmp_path / "cache")
    other = Preprocessing(60, 80)
    store = ImageStore(paths, other, ImageMemory(0), 1, DecodedCache(tmp_path / "cache", 16))
    np.testing.assert_array_equal(store[0], other.resize(read_image(paths[0])))
    assert_right(opened(paths, tmp_path / "cache"), paths)


@pytest.mark.parametrize("row", [0, COUNT - 1])
def test_a_damaged_image_is_noticed_and_mended(
    paths: list[Path], tmp_path: Path, decoded: list[Path], row: int, caplog: pytest.LogCaptureFixture
) -> None:
    opened(paths, tmp_path / "cache")
    (file,) = pixel_files(tmp_path / "cache")
    content = bytearray(file.read_bytes())
    content[len(content) - (COUNT - row) * ROW_BYTES + 17] ^= 1
    file.write_bytes(content)
    decoded.clear()
    assert_right(opened(paths, tmp_path / "cache"), paths)
    assert decoded == [paths[row]] and f"image {row} is damaged" in caplog.text
    assert_right(opened(paths, tmp_path / "cache"), paths)
    assert decoded == [paths[row]]


@pytest.mark.parametrize("name", ["pixels.npy", "rows.npy"])
@pytest.mark.parametrize("damage", ["removed", "cut", "emptied", "rubbish"])
def test_damaged_files_of_the_cache_are_made_anew(paths: list[Path], tmp_path: Path, name: str, damage: str) -> None:
    opened(paths, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    if damage == "removed":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    else:
        file.write_bytes(b"" if damage == "emptied" else bytes(range(256)) * 40)
    assert_right(opened(paths, tmp_path / "cache"), paths)


def test_damaged_and_missing_photographs_are_named_with_a_cache_too(paths: list[Path], tmp_path: Path) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    paths[5].unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of \d+ images cannot be used: .*2\.jpg.*5\.jpg"):
            opened(paths, tmp_path / "cache")


def test_what_does_not_fit_the_limit_is_decoded_when_asked(tmp_path: Path, decoded: list[Path]) -> None:
    paths = photographs(tmp_path / "images", 100)  # 1.37 MiB
    store = opened(paths, tmp_path / "cache", mib=1)
    assert len(decoded) == 100 and size_bytes(tmp_path / "cache") <= 2**20
    decoded.clear()
    assert_right(store, paths)
    assert decoded == paths[2**20 // ROW_BYTES :]


def test_a_new_set_takes_the_room_of_the_oldest_and_never_that_of_its_own_training(
    tmp_path: Path, decoded: list[Path]
) -> None:
    first, second, third = (photographs(tmp_path / str(number), 30, number * 30) for number in range(3))
    folder = tmp_path / "cache"
    foreign = folder / "notes"
    foreign.mkdir(parents=True)
    for number, paths in enumerate((first, second)):  # 0.82 MiB
        opened(paths, folder, mib=1)
        for file in pixel_files(folder):
            os.utime(file.parent, (number, number))
    training = DecodedCache(folder, 1)
    for paths in (second, third):  # the third takes the place of the first
        assert_right(ImageStore(paths, SIZE, ImageMemory(0), 1, training), paths)
        assert size_bytes(folder) <= 2**20
    more = photographs(tmp_path / "more", 30, 200)
    assert_right(ImageStore(more, SIZE, ImageMemory(0), 1, training), more)
    decoded.clear()
    for paths in (second, third):
        opened(paths, folder, mib=1)
    assert not decoded and foreign.is_dir() and size_bytes(folder) <= 2**20


def test_a_set_that_is_being_filled_is_neither_waited_for_nor_removed(tmp_path: Path, decoded: list[Path]) -> None:
    first, second = photographs(tmp_path / "1", 60), photographs(tmp_path / "2", 30, 60)  # 0.82 and 0.41 MiB
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(1) as pool, DecodedCache(folder, 1).opened(first, 60, 80, False):
        store = pool.submit(opened, second, folder, 1).result(timeout=60)
    assert len(pixel_files(folder)) == 2 and size_bytes(folder) <= 2**20
    decoded.clear()
    assert_right(store, second)
    assert 0 < len(decoded) < 30
    assert_right(opened(second, folder, 1), second)  # now the first may go
    assert len(pixel_files(folder)) == 1


def test_no_room_at_all_leaves_memory_in_use(paths: list[Path], tmp_path: Path, decoded: list[Path]) -> None:
    store = ImageStore(paths, SIZE, ImageMemory(16), 1, DecodedCache(tmp_path / "cache", 0))
    decoded.clear()
    store[4]
    assert not decoded and not pixel_files(tmp_path / "cache")


_INTERRUPTED_FILL = """
import sys
from pathlib import Path
from vgssl_core.geopair import images
from vgssl_core.geopair.decoded_cache import DecodedCache
from vgssl_core.imaging import Preprocessing, read_image

seen = []

def noted(path, least_size):
    seen.append(path)
    if len(seen) > 5:
        print("reached", flush=True)
        sys.stdin.read()
    return read_image(path)

images.read_image = noted
paths = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: int(path.stem))
images.ImageStore(paths, Preprocessing(80, 60), images.ImageMemory(0), 1, DecodedCache(Path(sys.argv[2]), 16))
"""


def test_a_killed_fill_is_finished_by_the_next_start(paths: list[Path], tmp_path: Path, decoded: list[Path]) -> None:
    command = [sys.executable, "-c", _INTERRUPTED_FILL, str(paths[0].parent), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"reached\n"
        process.send_signal(signal.SIGKILL)
    store = opened(paths, tmp_path / "cache")
    assert sorted(decoded) == sorted(paths[5:])
    assert_right(store, paths)


@contextlib.contextmanager
def file_limit(size_bytes: int) -> Iterator[None]:
    """Writes beyond the limit fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_costs_speed_and_is_told(
    paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(paths, tmp_path / "cache")
    for path in paths:
        os.utime(path)
    with file_limit(pixel_files(tmp_path / "cache")[0].stat().st_size // 2):
        store = opened(paths, tmp_path / "cache")
        assert_right(store, paths)
    assert "decoded whenever they are needed" in caplog.text


def test_a_disk_that_is_full_at_once_is_told(
    paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with file_limit(ROW_BYTES):
        assert_right(opened(paths, tmp_path / "cache"), paths)
    assert "Images are not kept there" in caplog.text
    assert_right(opened(paths, tmp_path / "cache"), paths)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--cache_dir"):
        DecodedCache(tmp_path / "file" / "cache", 16)
