"""The program build-map, killed for real: nothing but a resumable folder is left, and what comes out is the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import make_place_set

from vgssl_core.errors import MapError
from vgssl_core.geomap import load_map, verify_map

IMAGES, SHARD = 40, 4
#: Imports once and then forks a process for every build, which is killed at a moment in seconds or at the nth call of
#: a function, may be forbidden to write files longer than a limit, and ends by itself otherwise.
FORKS = """
import importlib, json, os, resource, signal, sys, time
import training.build_map, vgssl_core.inference.onnxruntime
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def kill_at(moment):
    module, function, nth = moment.split()
    owner, calls = importlib.import_module(module), []
    original = getattr(owner, function)
    def counting(*arguments, **named):
        calls.append(1)
        return die() if len(calls) == int(nth) else original(*arguments, **named)
    setattr(owner, function, counting)
for line in sys.stdin:
    order = json.loads(line)
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            if order["limit"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"],) * 2)
            if order["moment"]:
                kill_at(order["moment"])
            status = training.build_map.main(order["arguments"])
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    done = 0
    while order["seconds"] and not done and time.monotonic() < begin + order["seconds"]:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    if not done:
        if order["seconds"]:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - begin]), flush=True)
"""


class Builds:
    """Runs builds in processes of their own."""

    def __init__(self, bundle: Path, places: Path, log: Path) -> None:
        self.arguments = ["--bundle", str(bundle), "--data", str(places), "--shard_images", str(SHARD)]
        self.arguments += ["--batch_size", "2", "--threads", "1"]
        self.log = log
        root = Path(__file__).resolve().parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, out: Path, *more: str, **order: Any) -> tuple[int, float]:
        """Exit status (-9 when it was killed) and duration of a build.

        It is killed after ``seconds``, or at a ``moment`` (module, function, which call), or not.
        """
        told = {"arguments": [*self.arguments, "--out", str(out), *more], "log": str(self.log)}
        told |= {"seconds": None, "moment": None, "limit": None} | order
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        status, seconds = json.loads(self.process.stdout.readline())
        return status, seconds


@pytest.fixture(scope="module")
def builds(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    folder = tmp_path_factory.mktemp("kills")
    running = Builds(tiny_bundle, make_place_set(folder / "places", IMAGES), folder / "log.txt")
    yield running
    running.process.communicate()


@pytest.fixture(scope="module")
def whole(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A map that was built without a kill, and how long that takes."""
    out = tmp_path_factory.mktemp("whole") / "map"
    builds(out)
    status, seconds = builds(out)
    assert status == 0, builds.log.read_text()
    return out, seconds


def same(first: Path, second: Path) -> None:
    a, b = verify_map(first), verify_map(second)
    assert a.descriptors(slice(None)).tobytes() == b.descriptors(slice(None)).tobytes()
    assert a.poses.tobytes() == b.poses.tobytes()
    assert a.sources == b.sources


def check_left(out: Path, old: str | None) -> None:
    """No half map: the old one, the new one, or none; and beside it only what the next build goes on from."""
    others = [name for name in os.listdir(out.parent) if name != out.name]
    assert all(name.startswith(f".building-{out.name}-") for name in others), others
    if old is not None or (out / "map.yaml").exists():
        geomap = verify_map(out)
        assert len(geomap) in (IMAGES, 6)
        assert geomap.search(geomap.descriptors(slice(0, 1)), 1).indices[0, 0] == 0
    elif out.exists():
        # A build that was killed the moment that it had made the folder left an empty one, which may be anybody's.
        begun = (out / "segments").is_dir()
        with pytest.raises(MapError, match="its build was interrupted" if begun else "it has no map.yaml"):
            load_map(out)


@pytest.mark.parametrize("replaces", [False, True], ids=["first build", "over a map"])
def test_builds_killed_at_random_moments_go_on_to_the_same_map(
    replaces: bool, builds: Builds, whole: tuple[Path, float], tiny_places: Path, tmp_path: Path, soak: bool
) -> None:
    reference, duration_s = whole
    out = tmp_path / "map"
    if replaces:
        assert builds(out, "--data", str(tiny_places))[0] == 0
    old = load_map(out).manifest.map_id if replaces else None
    moments = random.Random(1)
    statuses = []
    for _ in range(20 if soak else 4):
        statuses.append(builds(out, seconds=moments.uniform(0.1, 1.1) * duration_s)[0])
        check_left(out, old)
    assert builds(out)[0] == 0, builds.log.read_text()
    same(reference, out)
    assert os.listdir(tmp_path) == ["map"]
    assert sorted(os.listdir(out)) == ["map.yaml", "segments"]
    assert len(os.listdir(out / "segments")) == 1
    assert set(statuses) <= {0, -9}
    assert -9 in statuses


@pytest.mark.parametrize(
    ("moment", "shards", "is_whole"),
    [
        ("vgssl_core.geomap.shards save_rows 1", 0, False),
        ("vgssl_core.geomap.shards save_rows 4", 3, False),
        ("vgssl_core.storage _sync 5", 1, False),
        ("vgssl_core.storage _move_into_place 3", 2, False),
        ("vgssl_core.geomap.segment save_rows 1", 10, False),
        ("vgssl_core.storage _move_into_place 11", 10, False),
        ("vgssl_core.geomap.manifest write_sealed 1", 10, False),
        ("vgssl_core.geomap.builder sweep 1", 10, True),
        ("training.build_map reindex 1", 10, True),
    ],
)
def test_a_kill_costs_at_most_one_shard(
    moment: str, shards: int, is_whole: bool, builds: Builds, whole: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "map"
    assert builds(out, moment=moment)[0] == -9, builds.log.read_text()
    check_left(out, None)
    assert (out / "map.yaml").exists() == is_whole
    assert builds(out)[0] == 0, builds.log.read_text()
    log = builds.log.read_text()
    assert ("Goes on with" in log) == (shards > 0)
    assert shards == 0 or f"Goes on with {shards} of 10 shards ({SHARD * shards} of {IMAGES} images)" in log
    same(whole[0], out)
    assert os.listdir(tmp_path) == ["map"]


def test_a_full_disk_is_a_clear_error_and_the_shards_stay(
    builds: Builds, whole: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "map"
    # A limit on the length of files fails as a full disk does: shards are short enough, the whole map is not.
    for _ in range(2):
        assert builds(out, limit=4000)[0] == 1
        log = builds.log.read_text()
        assert f"error: Cannot write the map {out}: " in log
        assert "Make room" in log
        assert "Traceback" not in log
        assert f"{IMAGES} of {IMAGES} images are done and kept" in log
        check_left(out, None)
    assert builds(out)[0] == 0
    assert "Goes on with 10 of 10 shards" in builds.log.read_text()
    same(whole[0], out)
    assert os.listdir(tmp_path) == ["map"]
