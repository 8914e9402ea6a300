"""Fixtures that every test file shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import make_bundle, make_place_set

from vgssl_core.remembered import FOLDER_VARIABLE

#: `make soak` runs the same tests in full: long loops, thousands of mutations, many kills.
SOAK = os.environ.get("VGSSL_SOAK") == "1"
settings.register_profile("reduced", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("soak", max_examples=1000, deadline=None)
settings.load_profile("soak" if SOAK else "reduced")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine remembers of checked files is neither used nor written, by no process of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Networks here are too small to share between cores, and bits repeat only with the same number of threads.

    Set anew for each test, because torch shares its OpenMP with FAISS, which other tests set.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With a process group, so that sums over processes are taken."""
    from torch import distributed

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the tests run in full."""
    return SOAK


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings; tests that need it skip where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a valid bundle, 32x24 input, 32-dimensional, made without torch. Copy it before damaging it."""
    return make_bundle(tmp_path_factory.mktemp("tiny") / "bundle").path


@pytest.fixture(scope="session")
def tiny_places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a place set: 6 database images 30 m apart and 2 queries that equal the first ones."""
    return make_place_set(tmp_path_factory.mktemp("tiny") / "places")


@pytest.fixture(scope="session")
def tiny_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a map of 40 images around Prague, 16-dimensional. Copy it before changing it."""
    from map_support import PRAGUE, positions, unit_rows

    from vgssl_core.geomap import build_map

    folder = tmp_path_factory.mktemp("map") / "map"
    build_map(folder, unit_rows(40), "model-a", positions(40, PRAGUE), bundle_path=folder.parent / "b", source="a test")
    return folder
