"""Maps under several processes: killed writers, readers while a writer switches versions, writers that meet."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from map_support import content, make_images, only_the_map_is_left

from vgssl_core.errors import MapError
from vgssl_core.geomap import add_images, build_map, compact, load_map, remove_images, verify, verify_map
from vgssl_core.geomap import manifest as manifests
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.tiles import TiledMap

WORKERS = Path(__file__).with_name("map_workers.py")


def worker(role: str, place: Path) -> subprocess.Popen[str]:
    paths = [str(WORKERS.parent), str(WORKERS.parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(WORKERS), role, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps ``a`` (of two segments) and ``b``, which share some images."""
    folder, images = tmp_path_factory.mktemp("processes") / "maps", make_images(60)
    for name, begin, end in (("a", 0, 20), ("b", 30, 60)):
        build_map(folder / name, images.descriptors[begin:end], "model-a", subset(images, begin, end))
    add_images(folder / "a", images.descriptors[20:40], "model-a", subset(images, 20, 40))
    return folder


def subset(images: Any, begin: int, end: int) -> Any:
    return images.positions.subset(range(begin, end))


class Killer:
    """Runs changes in processes that are killed."""

    def __init__(self, folder: Path, pristine: Path) -> None:
        self.folder, self.pristine, self._worker = folder, pristine, worker("change", folder)

    def run(self, action: str, event: int = 0) -> tuple[int, int]:
        """Events that the process lived through from a fresh start, and its exit status."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.pristine, self.folder)
        return self.go_on(action, event)

    def go_on(self, action: str, event: int = 0) -> tuple[int, int]:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(f"{action} {event}\n")
        self._worker.stdin.flush()
        events, status = self._worker.stdout.readline().split()
        return int(events), int(status)

    def close(self) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        assert self._worker.wait(60) == 0


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> Iterator[Killer]:
    made = Killer(tmp_path_factory.mktemp("killed") / "maps", pristine)
    yield made
    made.close()


@pytest.mark.parametrize("action", ["build", "add", "remove", "compact"])
def test_a_kill_at_any_moment_of_a_change_leaves_the_old_map_or_the_new_one(
    action: str, killer: Killer, soak: bool
) -> None:
    path = killer.folder / "a"
    killer.run(action)  # What it leaves remembered shortens the later ones.
    events, status = killer.run(action)
    assert status == 0
    before, after = content(killer.pristine / "a"), content(path)
    added = set(make_images(20, seed=7).positions.source)
    assert before != after or action == "compact"
    for event in moments(action, events, soak):
        assert killed_at(event, *killer.run(action, event))
        geomap = verify_map(path)
        held = content(path)
        assert held in (before, after)
        assert geomap.search(geomap.descriptors(slice(0, 5)), 1).indices[:, 0].tolist() == [0, 1, 2, 3, 4]
        assert verify_map(killer.folder / "b").manifest == read_manifest(killer.pristine / "b")
        # The next writer sweeps what is left, and needs no help; what is there is not added again.
        assert killer.go_on("add")[1] == 0
        only_the_map_is_left(path)
        assert set(content(path)) == held.keys() | added


@pytest.mark.parametrize("action", ["merge", "slice"])
def test_a_kill_at_any_moment_of_making_a_new_map_leaves_the_old_ones_alone(
    action: str, killer: Killer, soak: bool
) -> None:
    out = killer.folder / "new"
    events, status = killer.run(action)
    assert status == 0
    made = content(out)
    for event in moments(action, events, soak):
        assert killed_at(event, *killer.run(action, event))
        for name in ("a", "b"):
            assert verify_map(killer.folder / name).manifest == read_manifest(killer.pristine / name)
            only_the_map_is_left(killer.folder / name)
        if (out / "map.yaml").exists():
            assert content(out) == made
            continue
        with pytest.raises(MapError):
            load_map(out)
        assert killer.go_on(action)[1] == 0
        assert content(out) == made
        only_the_map_is_left(out)


def killed_at(event: int, lived: int, status: int) -> bool:
    """Whether a process was killed at an event; one that has ended a little before it this time is good too."""
    return (lived, status) == (event, -9) or (status == 0 and 0.95 * event < lived < event)


def moments(action: str, events: int, soak: bool) -> list[int]:
    """Which event ends the process; another choice for each action, and the same in each run."""
    assert events > 300
    return random.Random(action).sample(range(1, events), 20 if soak else 2)


def test_readers_keep_answering_while_a_writer_switches_versions(pristine: Path, tmp_path: Path, soak: bool) -> None:
    path = Path(shutil.copytree(pristine / "a", tmp_path / "map"))
    reader = worker("read", path)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    for number in range(100 if soak else 3):
        images = make_images(10, seed=number + 10)
        add_images(path, images.descriptors, "model-a", images.positions)
        remove_images(path, range(number % 5, 50, 5))
        compact(path, [0, 400.0][number % 2])
    said, _ = reader.communicate("stop\n", timeout=120)
    assert reader.returncode == 0
    assert int(said) > 0


@pytest.mark.parametrize("read", [load_map, verify_map])
def test_a_reader_that_loses_the_race_against_the_sweep_reads_again(
    read: Any, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(pristine / "a", tmp_path / "map"))
    old = read_manifest(path)
    new = compact(path)
    remaining = [old]
    monkeypatch.setattr(manifests, "read_manifest", lambda folder: remaining.pop() if remaining else new)
    assert read(path).manifest == new
    # Where nothing has changed meanwhile, damage is damage.
    next((path / "segments").glob("*/poses.npy")).unlink()
    with pytest.raises(MapError, match="missing"):
        read(path)


def test_of_two_writers_in_two_processes_the_second_is_refused(killer: Killer) -> None:
    killer.run("add")
    before = content(killer.folder / "a")
    from vgssl_core.geomap.builder import writing

    with writing(killer.folder / "a"):
        assert killer.go_on("compact")[1] == 1
    assert content(killer.folder / "a") == before
    assert killer.go_on("compact")[1] == 0


def test_a_map_that_is_switched_while_it_is_verified_is_verified_in_its_new_version(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(pristine / "a", tmp_path / "map"))
    read, switched = verify.read_positions, []

    def switch_first(*arguments: Any) -> Any:
        if not switched:
            switched.append(compact(path))
        return read(*arguments)

    monkeypatch.setattr(verify, "read_positions", switch_first)
    assert verify_map(path).manifest == switched[0]


@pytest.mark.parametrize("tiled", [False, True])
def test_sources_that_a_change_has_swept_are_said_to_be_gone_and_not_damaged(
    tiled: bool, pristine: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(pristine / "a", tmp_path / "map"))
    geomap = TiledMap(path, 10**9) if tiled else load_map(path)
    records = next((path / "segments").glob("*/records.parquet"))
    content = records.read_bytes()
    records.write_bytes(b"x")
    with pytest.raises(MapError, match="damaged"):
        print([geomap.sources[index] for index in range(len(geomap))])
    records.write_bytes(content)
    compact(path)
    with pytest.raises(MapError, match=r"has changed since it was loaded.*load it again") as caught:
        geomap.sources[0]
    assert "damaged" not in str(caught.value)
