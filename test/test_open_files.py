"""Maps of more files than a process may have open by default."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from map_support import make_images, quick_disk  # noqa: F401

from vgssl_core.errors import MapError
from vgssl_core.geomap import build_map, load_map, verify_map
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.records import read_sources


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of about twenty segments."""
    path = tmp_path_factory.mktemp("open files") / "map"
    images = make_images(40, datum=None)
    build_map(path, images.descriptors, "model-a", images.positions, tile_m=400.0)
    assert len(read_manifest(path).segments) > 15
    return path


@pytest.fixture
def few() -> Iterator[None]:
    """This process may open ten files more, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_map_of_many_files_opens_wherever_it_is_opened(tiles: Path, few: None) -> None:
    assert len(verify_map(tiles)) == 40


def test_what_a_process_may_not_open_is_not_called_damaged(
    tiles: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = read_manifest(tiles).segments[0]
    with monkeypatch.context() as patch:
        patch.setattr("vgssl_core.open_files.allow_many", lambda: None)
        with pytest.raises(MapError, match="ulimit -n") as refusal:
            load_map(tiles)
        assert "damaged" not in str(refusal.value)
        del refusal  # It holds the files that were opened.
        with all_open(), pytest.raises(MapError, match="ulimit -n"):
            read_sources(tiles, segment)


@contextlib.contextmanager
def all_open() -> Iterator[None]:
    """As many files as this process may open."""
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
