"""The program ``vgssl map``, as a user runs it."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from map_support import index_over, quick_disk  # noqa: F401
from tiny import make_place_set

import training.build_map
import training.map
import training.map_changes
import training.map_derived
from vgssl_core.geomap import load_map
from vgssl_core.geomap.manifest import Manifest, read_manifest

WRITE = Manifest.write


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the program wants indexed, instead of doing it."""
    calls: list[tuple] = []

    def reindex(path: Path, kind: str = "auto", memory_mb: float | None = None) -> None:
        calls.append((path.name, kind, memory_mb))

    for module in (training.map, training.map_changes, training.map_derived):
        monkeypatch.setattr(module, "reindex", reindex)
    return calls


@pytest.fixture(scope="module")
def built(tiny_bundle: Path, tiny_places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Map ``a`` of six images 30 m apart towards the east."""
    folder = tmp_path_factory.mktemp("program")
    given = ["--bundle", str(tiny_bundle), "--data", str(tiny_places), "--out", str(folder / "a")]
    assert training.build_map.main(given) == 0
    return folder / "a"


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "a"))


def run(*arguments: object) -> int:
    return training.map.main([str(argument) for argument in arguments])


def test_images_are_added_with_the_bundle_that_the_map_remembers(
    path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], indexed: list
) -> None:
    more = make_place_set(tmp_path / "more", count=3)
    assert run("add", path, "--data", more) == 0
    printed = capsys.readouterr().out
    assert "added       3 images" in printed
    assert "2 segment(s)" in printed
    assert re.search(r"^source +place set .*; place set .*more", printed, re.MULTILINE)
    geomap = load_map(path)
    assert len(geomap) == 9
    # Images 0 to 2 are in the map twice now, at the same places.
    found = geomap.search(geomap.descriptors(slice(6, 9)), 2).indices
    assert found[:, 0].tolist() != found[:, 1].tolist()
    assert sorted(found[:, 1].tolist()) == [6, 7, 8]
    assert indexed == []
    assert sorted(item.name for item in path.iterdir()) == ["map.yaml", "segments"]


def test_what_a_stopped_add_can_go_on_from_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = make_place_set(tmp_path / "more", count=3)
    with monkeypatch.context() as patch:
        patch.setattr("training.map_changes.add_images", stop)
        assert run("add", path, "--data", more) != 0
    (work,) = path.glob(".building-*")
    capsys.readouterr()
    assert run("compact", path) == 0
    assert f"unfinished  {work.name}: " in capsys.readouterr().out
    assert run("add", path, "--data", more) == 0
    assert "unfinished" not in capsys.readouterr().out


@pytest.mark.parametrize("local", [True, False])
def test_images_without_a_common_frame_are_refused_before_one_is_embedded(
    local: bool,
    path: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not local:
        plane = make_place_set(tmp_path / "plane", count=2, local=True)
        path = tmp_path / "local"
        assert training.build_map.main([f"--bundle={tiny_bundle}", f"--data={plane}", f"--out={path}"]) == 0
    more = make_place_set(tmp_path / "more", count=3, local=local)
    monkeypatch.setattr("vgssl_core.geomap.building.embed_images", stop)
    caplog.set_level(logging.INFO)
    assert run("add", path, "--data", more) == 1
    assert "they have no common frame" in capsys.readouterr().err
    assert "goes on there" not in caplog.text
    assert sorted(item.name for item in path.iterdir()) == ["map.yaml", "segments"]


def switch_and_stop(manifest: Manifest, folder: Path) -> None:
    """Write the manifest, and go no further: as if killed there, but for what the process itself may tidy up."""
    WRITE(manifest, folder)
    raise KeyboardInterrupt


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("tile_m", [0, 50])
@pytest.mark.parametrize(
    ("where", "instead", "work"),
    [
        ("vgssl_core.geomap.manifest.Manifest.write", switch_and_stop, True),
        ("training.map_changes.describe", stop, False),
    ],
)
def test_images_are_in_the_map_once_though_the_command_was_stopped_after_the_switch(
    where: str,
    instead: Callable,
    work: bool,
    tile_m: int,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = make_place_set(tmp_path / "more", count=3)
    assert run("compact", path, "--tile_m", tile_m) == 0
    with monkeypatch.context() as patch:
        patch.setattr(where, instead)
        assert run("add", path, "--data", more) != 0
    assert len(load_map(path)) == 9
    assert any(path.glob(".building-*")) == work
    stopped = read_manifest(path)
    assert run("add", path, "--data", more) == 0
    assert "added       0 images" in capsys.readouterr().out
    assert read_manifest(path) == stopped
    assert sorted(item.name for item in path.iterdir()) == ["map.yaml", "segments"]
    assert {item.name for item in (path / "segments").iterdir()} == {item.name for item in stopped.segments}


def test_an_index_lasts_until_what_it_covers_is_changed(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    more = make_place_set(tmp_path / "more", count=3)
    assert run("index", path, "--kind", "hnsw") == 0
    assert run("add", path, "--data", more) == 0
    assert "3 images are searched beside it: `vgssl map index" in capsys.readouterr().out
    assert run("verify", path) == 0
    assert "hnsw" in capsys.readouterr().out
    (index,) = path.glob("index-*.faiss")
    assert run("remove", path, "--rows", 8) == 0
    assert run("verify", path) == 0
    assert read_manifest(path).index["file"] == index.name
    assert run("remove", path, "--rows", 0) == 0
    assert not index.exists()
    (index,) = path.glob("index-*.faiss")
    manifest = read_manifest(path)
    assert (manifest.index["type"], manifest.index["file"]) == ("hnsw", index.name)
    assert manifest.index["segments"] == [item.name for item in manifest.segments]


@pytest.mark.parametrize("action", [["remove", "--rows", "0"], ["compact"]])
def test_an_index_that_was_lost_to_a_kill_is_told_and_built_by_the_next_change(
    action: list[str], path: Path, capsys: pytest.CaptureFixture[str], indexed: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_over(path)
    with monkeypatch.context() as patch:
        patch.setattr("training.map_changes.reindex", killed)
        assert run("compact", path) != 0
    assert run("info", path) == 0
    assert f"`vgssl map index {path} --kind hnsw`" in capsys.readouterr().out
    assert run(action[0], path, *action[1:]) == 0
    assert indexed == [("a", "hnsw", None)]


def test_a_new_map_whose_index_was_lost_to_a_kill_tells_it(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.map_derived.reindex", killed)
        assert run("slice", path, "--out", tmp_path / "b", "--x_m", 0, "--y_m", 0, "--radius_m", 40) != 0
    assert run("info", tmp_path / "b") == 0
    assert (command := f"vgssl map index {tmp_path / 'b'} --kind auto") in capsys.readouterr().out
    assert run(*command.split()[2:]) == 0
    assert "vgssl map index" not in capsys.readouterr().out


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--rows", 0, 5], 4),
        (["--rows", 2], 5),
        (["--latitude_deg", 50.0, "--longitude_deg", 14.4, "--radius_m", 40], 4),
        (["--low-m", -1000, -5, "--high-m", 0, 5], 3),
        (["--x_m", 75, "--y_m", 0, "--radius_m", 1], 5),
        (["--source", "*/database/*"], None),
        (["--source", "database/@*"], None),
        (["--source", "*/database/@04569*"], 5),
        (["--source", "database/@04570[25]*"], 4),
    ],
)
def test_images_are_removed_by_row_source_or_place(
    options: list, left: int | None, path: Path, capsys: pytest.CaptureFixture[str], indexed: list
) -> None:
    status = run("remove", path, *options)
    if left is None:
        assert status == 1
        assert "would be left" in capsys.readouterr().err
        left = 6
    else:
        assert status == 0
        assert f"removed     {6 - left} images" in capsys.readouterr().out
    assert len(load_map(path)) == left
    assert indexed == []  # Exact search needs none.


def test_a_map_is_cut_into_tiles_and_joined_again(path: Path, capsys: pytest.CaptureFixture[str], indexed) -> None:
    assert run("compact", path, "--tile_m", 50) == 0
    printed = capsys.readouterr().out
    assert "cut into tiles of 50 m" in printed
    assert "1 segment(s) became 4" in printed
    assert run("compact", path, "--tile_m", 0) == 0
    assert "4 segment(s) became 1" in capsys.readouterr().out
    assert indexed == []


def test_maps_are_merged_sliced_and_thinned(
    path: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], indexed: list
) -> None:
    more = make_place_set(tmp_path / "more", count=8)
    assert training.build_map.main([f"--bundle={tiny_bundle}", f"--data={more}", f"--out={tmp_path / 'b'}"]) == 0
    assert run("merge", path, tmp_path / "b", "--out", tmp_path / "c") == 0
    assert "merged      0 images of the second" in capsys.readouterr().out
    assert run("merge", path, path, "--out", tmp_path / "d") == 0
    assert "merged      6 images of the second" in capsys.readouterr().out
    # Images 0 to 5 of both sets show the same at the same places.
    assert run("thin", tmp_path / "c", "--out", tmp_path / "e", "--spacing-m", 1, "--min_cosine", 0.999) == 0
    printed = capsys.readouterr().out
    assert "left out    6 of 14 images" in printed
    assert "consistency 100.0% of them before, 100.0% after: share of 6" in printed
    assert run("slice", tmp_path / "e", "--out", tmp_path / "f", "--x_m", 0, "--y_m", 0, "--radius_m", 20) == 0
    assert "of 8 images" in capsys.readouterr().out
    assert 0 < len(load_map(tmp_path / "f")) < 4
    assert [name for name, *_ in indexed] == ["c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("area", "words"),
    [
        (
            ["--latitude_deg", 49.5, "--longitude_deg", 14.25, "--radius_m", 50],
            "no image in the circle of 50 m around latitude 49.5, longitude 14.25: it reaches from",
        ),
        (["--x_m", 1000, "--y_m", 0.5, "--radius_m", 50], "no image in the circle of 50 m around x 1000 m, y 0.5 m: "),
        (["--low_m", 900, 0, "--high_m", 950, 1], "no image in the box from x 900 m, y 0 m to x 950 m, y 1 m: it"),
    ],
)
def test_an_area_without_images_is_named_as_it_was_given(
    area: list, words: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("slice", path, "--out", tmp_path / "out", *area) == 1
    problem = capsys.readouterr().err
    assert words in problem
    # Six images 30 m apart towards the east, around the datum.
    told = r"from latitude 50\.00000, longitude 14\.40000 to latitude 50\.00000, longitude 14\.40209"
    assert re.search(told + r" \(x -75 to 75 m, y -?0 to 0 m\)\. Give another", problem)


def test_an_index_is_built_on_request(path: Path, indexed: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", path, "--kind", "hnsw", "--memory_mb", 100) == 0
    assert indexed == [("a", "hnsw", 100)]
    assert run("index", path, "--memory_mb", 0) == 1
    assert "more than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "MAP", "--tile_m", 5], "--tile_m is for `vgssl map compact`, `vgssl map merge`"),
        (
            ["slice", "MAP", "--out", "OUT", "--spacing-m=3"],
            "is for `vgssl map add`, `vgssl map thin` and not",
        ),
        (["thin", "MAP", "--out", "OUT", "--same_plane"], "for `vgssl map merge` and not for `vgssl map thin`"),
        (["remove", "MAP"], "give either --rows, --source, or an area"),
        (["remove", "MAP", "--rows", 1, "--source", "x"], "give either"),
        (["remove", "MAP", "--rows", 6], "no image 6"),
        (["remove", "MAP", "--source", "drive-7/*"], "has a source 'drive-7/*': its sources are like"),
        (["remove", "MAP", "--source", "atabase/*"], "has a source 'atabase/*'"),
        (["slice", "MAP", "--out", "OUT"], "An area is given by"),
        (["slice", "MAP", "--out", "OUT", "--x_m", 1, "--radius_m", 5], "An area is given by"),
        (["slice", "MAP", "--out", "OUT", "--low_m", 1, "--high_m", 5, 6], "two numbers"),
        (["slice", "MAP", "--out", "MAP", "--x_m", 1, "--y_m", 1, "--radius_m", 5], "already"),
        (["thin", "MAP", "--out", "OUT", "--spacing_m", -1, "--min_cosine", 0.9], "0 m or more"),
        (["compact", "MAP", "--tile_m", -1], "positive length"),
        (["compact", "OUT"], "no map at"),
        (["merge", "MAP", "OUT", "--out", "NEW"], "no map at"),
        (["add", "MAP"], "Give either --data"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_changes_nothing(
    arguments: list, words: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"MAP": path, "OUT": tmp_path / "out", "NEW": tmp_path / "new"}
    before = (path / "map.yaml").read_bytes()
    assert run(*(names.get(argument, argument) for argument in arguments)) == 1
    problem = capsys.readouterr().err
    assert len([line for line in problem.splitlines() if line.startswith("error: ")]) == 1
    assert words in problem
    assert "Traceback" not in problem
    assert (path / "map.yaml").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("action", training.map.ACTIONS)
def test_each_action_has_its_own_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(action, "--help")
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert said.startswith(f"usage: vgssl map {action} ")
    for option in ("--tile_m", "--min_cosine", "--same_plane"):
        belongs = option[2:] in {field.name for field in dataclasses.fields(training.map.ACTIONS[action].config)}
        assert (option in said) == belongs


def test_an_unknown_action_or_option_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fly", path], [], ["info", path, "--nonsense", 3]):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    assert "make a map without redundant images" in capsys.readouterr().out
