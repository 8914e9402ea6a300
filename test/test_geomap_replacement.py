"""A new version of a map replaces the old one in one step, whatever the build is killed at."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from map_support import PRAGUE, positions, unit_rows

from vgssl_core.errors import MapError
from vgssl_core.geomap import build_map, load_map, verify_map


def test_building_again_replaces_the_map_and_sweeps_the_old_segment(tmp_path: Path) -> None:
    build_map(tmp_path / "m", unit_rows(10), "one", positions(10, PRAGUE))
    open_before = load_map(tmp_path / "m")
    (tmp_path / "m" / "segments" / "0badc0de0bad").mkdir()
    build_map(tmp_path / "m", unit_rows(20, 8), "two", positions(20))
    geomap = verify_map(tmp_path / "m")
    assert (len(geomap), geomap.model_id, geomap.datum) == (20, "two", None)
    assert len(list((tmp_path / "m" / "segments").iterdir())) == 1
    # A reader of the old version goes on reading it.
    assert open_before.search(unit_rows(10), 1).indices[:, 0].tolist() != []
    assert len(open_before) == 10


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to("gone")
    with pytest.raises(MapError, match=r"m is a link to gone, which is not there"):
        build_map(tmp_path / "m", unit_rows(3), "one", positions(3))
    (tmp_path / "gone").mkdir()
    assert len(build_map(tmp_path / "m", unit_rows(3), "one", positions(3))) == 3


def test_a_failed_build_leaves_the_old_map_and_nothing_else(tiny_map: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(tiny_map, tmp_path / "map"))
    before = sorted(str(path) for path in folder.rglob("*"))

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vgssl_core.geomap.segment._write_records", fail)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            build_map(place, unit_rows(5), "two", positions(5, PRAGUE))
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert not (tmp_path / "new").exists()
    assert verify_map(folder).model_id == "model-a"


def test_a_folder_or_file_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, words in {"mine": "thesis.txt", "file": "is a file"}.items():
        with pytest.raises(MapError, match=words):
            build_map(tmp_path / name, unit_rows(5), "two", positions(5, PRAGUE))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_is_called_as_ours_is_never_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "data" / "segments" / "mine"
    theirs.mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "segments").symlink_to(theirs.parent)
    for name, words in {"data": "segments/mine", "linked": "segments"}.items():
        with pytest.raises(MapError, match=rf"not empty \({words}\)"):
            build_map(tmp_path / name, unit_rows(5), "two", positions(5, PRAGUE))
    assert theirs.is_dir()


def test_what_somebody_else_puts_into_a_map_stays_there(tmp_path: Path, monkeypatch) -> None:
    build_map(tmp_path / "m", unit_rows(5), "one", positions(5, PRAGUE))
    theirs = [tmp_path / "m" / "notes.txt", tmp_path / "m" / "segments" / "notes.txt"]
    for path in theirs:
        path.write_text("precious")
    build_map(tmp_path / "m", unit_rows(6), "two", positions(6, PRAGUE))
    assert len(list((tmp_path / "m" / "segments").iterdir())) == 2
    # Also where no map comes of it.
    late = tmp_path / "new" / "segments" / "notes.txt"

    def fail(*_: Any) -> None:
        late.write_text("precious")
        raise OSError("disk full")

    monkeypatch.setattr("vgssl_core.geomap.segment._write_records", fail)
    with pytest.raises(OSError, match="disk full"):
        build_map(tmp_path / "new", unit_rows(5), "two", positions(5, PRAGUE))
    assert [path.read_text() for path in (*theirs, late)] == ["precious"] * 3
    assert os.listdir(late.parent) == ["notes.txt"]


KILLED_BUILD = """
import os, signal, sys
import numpy as np
from vgssl_core.geomap import MapPositions, build_map
module, function, nth = sys.argv[2].split()
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
owner = sys.modules[module]
original, calls = getattr(owner, function), []
def counting(*arguments, **named):
    calls.append(1)
    return die() if len(calls) == int(nth) else original(*arguments, **named)
setattr(owner, function, counting)
rows = np.eye(8, dtype=np.float32)
unknown = np.full(8, np.nan)
places = MapPositions(unknown, unknown, unknown, unknown, np.arange(8), tuple("abcdefgh"), np.eye(8)[:, :2] * 100)
build_map(sys.argv[1], rows, "two", places)
"""


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("vgssl_core.geomap.segment _write_records 1", "model-a"),
        ("vgssl_core.geomap.segment sha256 2", "model-a"),
        ("vgssl_core.storage _sync 3", "model-a"),
        ("vgssl_core.storage _move_into_place 1", "model-a"),
        ("vgssl_core.geomap.manifest write_sealed 1", "model-a"),
        ("os replace 2", "model-a"),
        ("vgssl_core.geomap.builder sweep 1", "two"),
        ("shutil rmtree 2", "two"),
    ],
)
def test_a_kill_at_any_moment_leaves_a_whole_map(moment: str, expected: str, tiny_map: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_map, tmp_path / "map"))
    command = [sys.executable, "-c", KILLED_BUILD, str(folder), moment]
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run(command, cwd=root, timeout=60).returncode == -signal.SIGKILL
    geomap = verify_map(folder)
    assert geomap.model_id == expected
    geomap.search(unit_rows(1, geomap.dimension), 3)
    # The next build finds its way and leaves nothing of the killed one.
    build_map(folder, unit_rows(5), "three", positions(5, PRAGUE))
    assert verify_map(folder).model_id == "three"
    assert sorted(os.listdir(folder)) == ["map.yaml", "segments"]
    assert len(os.listdir(folder / "segments")) == 1


def test_a_first_build_that_was_killed_is_taken_up_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_BUILD, str(tmp_path / "m"), "vgssl_core.geomap.manifest write_sealed 1"]
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run(command, cwd=root, timeout=60).returncode == -signal.SIGKILL
    with pytest.raises(MapError, match="interrupted"):
        load_map(tmp_path / "m")
    build_map(tmp_path / "m", unit_rows(5), "three", positions(5, PRAGUE))
    assert verify_map(tmp_path / "m").model_id == "three"
    assert len(os.listdir(tmp_path / "m" / "segments")) == 1


def test_two_builds_at_once_do_not_meet(tiny_map: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(tiny_map, tmp_path / "map"))
    from vgssl_core.geomap.builder import writing

    with writing(folder), pytest.raises(MapError, match="Another process"):
        build_map(folder, unit_rows(5), "two", positions(5, PRAGUE))
    assert verify_map(folder).model_id == "model-a"
