"""Checks of files from elsewhere: made once per file, never skipped for a changed one, and never in the way."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest
from map_support import make_images

from vgssl_core import remembered, verified
from vgssl_core.errors import DataError
from vgssl_core.geomap import build_map, load_map
from vgssl_core.geomap.manifest import MAX_SEGMENTS, read_manifest
from vgssl_core.remembered import FOLDER_VARIABLE, cache_folder, remember, remembers
from vgssl_core.verified import require_inside, require_unaltered

CONTENT = b"descriptors " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and file times that settle at once."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "_FINE_TICK_NS", -1)
    monkeypatch.setattr(verified, "_COARSE_TICK_NS", -1)
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "descriptors.npy"
    path.write_bytes(CONTENT)
    return path


def bytes_are_read(path: Path, always: bool = False) -> bool:
    return require_unaltered(path, len(CONTENT), SHA256, DataError, "Copy it again.", always)


def test_the_bytes_are_read_on_the_first_load_only(path: Path) -> None:
    assert [bytes_are_read(path) for _ in range(3)] == [True, False, False]
    assert bytes_are_read(path, always=True)


def test_another_file_is_read_whatever_it_is_called(path: Path, tmp_path: Path) -> None:
    assert bytes_are_read(path)
    os.replace(path, tmp_path / "moved.npy")
    assert bytes_are_read(tmp_path / "moved.npy")
    path.write_bytes(CONTENT)
    assert bytes_are_read(path)


def test_a_link_is_the_file_that_it_leads_to(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to(path)
    assert bytes_are_read(tmp_path / "link.npy")
    assert not bytes_are_read(path)


def test_a_change_is_seen_even_where_its_time_of_modification_is_put_back(path: Path) -> None:
    assert bytes_are_read(path)
    before = path.stat()
    path.write_bytes(b"X" + CONTENT[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"descriptors\.npy does not match its checksum.*Copy it again"):
        bytes_are_read(path)


def test_another_checksum_in_the_manifest_is_another_check(path: Path) -> None:
    assert bytes_are_read(path)
    with pytest.raises(DataError, match="checksum"):
        require_unaltered(path, len(CONTENT), "0" * 64, DataError, "")


def test_the_size_is_compared_each_time(path: Path) -> None:
    assert bytes_are_read(path)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=f"{len(CONTENT) + 1} bytes instead of {len(CONTENT)}"):
        bytes_are_read(path)


def test_a_file_that_was_changed_within_the_tick_of_its_clock_is_not_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "_FINE_TICK_NS", 10**12)
    monkeypatch.setattr(verified, "_COARSE_TICK_NS", 10**12)
    assert [bytes_are_read(path) for _ in range(2)] == [True, True]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "dangling"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    make = {
        "missing": lambda: None,
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "dangling": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    make[kind]()
    with pytest.raises(DataError, match=str(path)):
        bytes_are_read(path)


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    (folder / "segments").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "map-2").mkdir()
    (folder / "inner").symlink_to("segments")
    (folder / "outer").symlink_to("../map-2")
    (folder / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        require_inside(root, root / "segments" / "a", DataError, "")
        require_inside(root, root / "inner" / "a", DataError, "")
        for name in ("outer/a", "file", "../secret"):
            with pytest.raises(DataError, match="leads out"):
                require_inside(root, root / name, DataError, "")


# --- the cache


@pytest.mark.parametrize("damage", ["gone", "empty", "rubbish", "folder", "huge"])
def test_a_damaged_cache_means_that_it_is_checked_again(damage: str, path: Path, cache: Path) -> None:
    assert bytes_are_read(path)
    (entry,) = (item for item in cache.rglob("*") if item.is_file())
    content = {"empty": b"", "rubbish": os.urandom(80), "huge": entry.read_bytes() + b"x" * 1_000_000}
    entry.unlink()
    if damage == "folder":
        entry.mkdir()
    elif damage != "gone":
        entry.write_bytes(content[damage])
    assert bytes_are_read(path)
    assert bytes_are_read(path) == (damage == "folder")


@pytest.mark.parametrize("place", ["file", "missing", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_left_alone(
    place: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv(FOLDER_VARIABLE, place if place.startswith("/") else str(tmp_path / place))
    first, second = bytes_are_read(path), bytes_are_read(path)
    assert (first, second) == (True, place != "missing")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_cache_stays_small(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(remembered, "_MAX_PER_FOLDER", 2)
    for number in range(700):
        remember(f"file {number}", "good")
    assert len([item for item in cache.rglob("*") if item.is_file()]) <= 256 * 2
    assert remembers("file 699", "good")
    assert not remembers("file 699", "bad")


def test_the_cache_has_room_for_several_of_the_largest_maps(cache: Path, tmp_path: Path) -> None:
    images = make_images(30, datum=None)
    build_map(tmp_path / "map", images.descriptors, "model-a", images.positions, tile_m=1000.0)
    tiles = len(read_manifest(tmp_path / "map").segments)
    load_map(tmp_path / "map")
    entries = len([item for item in cache.rglob("*") if item.is_file()])
    assert entries >= tiles
    assert entries / tiles * MAX_SEGMENTS * 3 <= 256 * remembered._MAX_PER_FOLDER


def test_the_cache_lies_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "vgssl"
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == tmp_path / ".cache" / "vgssl"


def _remember_many(number: int) -> None:
    for turn in range(50):
        remember(f"file {turn % 7}", f"{number} " * 50)
        for subject in range(7):
            # Whole entries only: of any writer, or none.
            remembers(f"file {subject}", f"{number} " * 50)


def test_any_number_of_processes_remember_at_once(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_remember_many, range(4))
    for subject in range(7):
        assert any(remembers(f"file {subject}", f"{number} " * 50) for number in range(4))
    assert not [item for item in cache.rglob(".*")]
