"""Writing that survives a kill, and reading YAML that a user touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core import storage
from vgssl_core.errors import DataError, MapError, VgsslError
from vgssl_core.geomap.builder import writing
from vgssl_core.storage import atomic_file, atomic_folder, read_yaml, sha256, sweep_unfinished, write_yaml


def leftovers(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name.startswith("."))


def killed(code: str, folder: Path) -> None:
    """Run code that kills itself with SIGKILL, which no handler and no ``finally`` sees."""
    prelude = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom vgssl_core import storage\n"
        "def die(*_, **__):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder = Path(sys.argv[1])\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", prelude + code, str(folder)], cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as aside:
        aside.write_text("one")
        assert not path.exists()
        assert aside.suffix == ".txt"
    with pytest.raises(RuntimeError), atomic_file(path) as aside:
        aside.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("make", [atomic_file, atomic_folder, writing])
def test_the_names_of_new_folders_are_on_the_disk_too(make: Callable, tmp_path: Path, monkeypatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(storage, "_sync", synced.append)
    with make(tmp_path / "deep" / "deeper" / "new") as aside:
        assert {tmp_path, tmp_path / "deep"} <= set(synced)
        if make is atomic_file:
            aside.write_text("1")
    assert tmp_path / "deep" / "deeper" in synced


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(RuntimeError), atomic_folder(path) as aside:
        (aside / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(path) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "x").write_text("1")
    assert (path / "sub" / "x").read_text() == "1"
    assert leftovers(tmp_path) == []


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    with atomic_folder(path) as aside:
        (aside / "x").write_text("1")
    with pytest.raises(VgsslError, match="exists already"), atomic_folder(path):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), atomic_folder(path, replace=True) as aside:
        raise RuntimeError
    assert (path / "x").read_text() == "1"
    with atomic_folder(path, replace=True) as aside:
        (aside / "y").write_text("2")
    assert sorted(item.name for item in path.iterdir()) == ["y"]
    assert leftovers(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    for replace in (False, True):
        with pytest.raises(VgsslError, match="exists already"), atomic_folder(tmp_path / "a", replace=replace):
            pytest.fail("the block must not run")
    assert (tmp_path / "a").read_text() == "mine"


def test_folders_are_replaced_where_the_file_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_exchange", lambda first, second: False)
    test_an_existing_folder_is_replaced_only_when_asked(tmp_path)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("1", "2"):
        with atomic_folder(tmp_path / "link", replace=True) as aside:
            (aside / "x").write_text(text)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "x").read_text() == "2"
    assert leftovers(tmp_path) == []


def test_the_working_folder_itself_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(".") as aside:
        (aside / "x").write_text("1")
    assert (tmp_path / "here" / "x").read_text() == "1"


WRITE = "with storage.atomic_folder(folder / 'a', replace=True) as aside:\n    (aside / 'x').write_text('new')\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (WRITE + "    die()\n", "old"),
        ("storage._move_into_place = die\n" + WRITE, "old"),
        ("storage._sync = die\n" + WRITE, "old"),
        ("storage.shutil.rmtree = die\n" + WRITE, "new"),
        # Without exchange: between the two renames there is no folder, and the next writer puts the old one back.
        (
            "storage._exchange = lambda *_: False\nreplace, calls = os.replace, []\n"
            "def twice(*paths):\n    calls.append(paths)\n    die() if len(calls) == 2 else replace(*paths)\n"
            "os.replace = twice\n" + WRITE,
            "old",
        ),
    ],
    ids=["in the block", "before the rename", "while syncing", "after the exchange", "between two renames"],
)
def test_a_kill_leaves_the_old_folder_or_the_new_one_whole(code: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("old")
    killed(code, tmp_path)
    assert leftovers(tmp_path) != []
    sweep_unfinished(tmp_path)
    assert (tmp_path / "a" / "x").read_text() == expected
    assert leftovers(tmp_path) == []


def test_a_kill_leaves_the_old_file_whole_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / ".hidden-mine").write_text("stays")
    killed("with storage.atomic_file(folder / 'a') as aside:\n    aside.write_text('new')\n    die()\n", tmp_path)
    killed("with storage.atomic_file(folder / 'b') as aside:\n    aside.write_text('new')\n    die()\n", tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    with atomic_file(tmp_path / "a") as aside:
        aside.write_text("newer")
    assert (tmp_path / "a").read_text() == "newer"
    # The other file's remains are its own next writer's business.
    assert {name[-2:] for name in leftovers(tmp_path)} == {"-b", "ne"}
    sweep_unfinished(tmp_path)
    assert leftovers(tmp_path) == [".hidden-mine"]


def test_sweeping_spares_what_a_living_process_writes(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as outer:
        outer.write_text("outer")
        sweep_unfinished(tmp_path)
        with atomic_file(tmp_path / "a") as inner:
            inner.write_text("inner")
        assert (tmp_path / "a").read_text() == "inner"
    assert (tmp_path / "a").read_text() == "outer"


def test_who_writes_alone_sweeps_though_the_number_of_a_dead_process_is_in_use_again(tmp_path: Path) -> None:
    # In a container every program is process 1.
    (tmp_path / f"{storage.ASIDE_PREFIX}{os.getpid()}-01234567-a").write_text("left")
    sweep_unfinished(tmp_path)
    assert leftovers(tmp_path) != []
    sweep_unfinished(tmp_path, alone=True)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["a b", "ä→ö", "-rf", "new\nline", "a*b?[c]", "@1@2@", "..hidden", "x" * 200])
def test_any_file_name_is_written(name: str, tmp_path: Path) -> None:
    killed(f"with storage.atomic_file(folder / {name!r}) as aside:\n    aside.write_text('x')\n    die()\n", tmp_path)
    with atomic_file(tmp_path / name) as aside:
        aside.write_text("whole")
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_yaml_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    write_yaml(path, content)
    back = read_yaml(path, DataError, "a test")
    assert back == content
    assert list(back) == list(content)


@given(st.binary(max_size=60) | st.text("[]{}:-?!&*|>'\"%@`#,. \n\t0123456789abc<=~", max_size=40).map(str.encode))
def test_any_bytes_are_a_mapping_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(read_yaml(path, MapError, "a test"), dict)
    except MapError as problem:
        assert str(path) in str(problem)
        assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("a: 2026-13-45"),
        lambda path: path.write_text("[" * 5000),
        lambda path: path.write_text("!!python/object/apply:os.system ['true']"),
        lambda path: path.write_text("{[1]: 2}"),
        lambda path: path.write_text("- a list"),
        lambda path: path.write_bytes(b"a: \xff\xfe"),
        lambda path: path.write_bytes(b"a: " + b"x" * 17_000_000),
    ],
    ids=["missing", "folder", "date", "nesting", "object", "key", "list", "encoding", "huge"],
)
def test_damaged_yaml_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    make(path)
    with pytest.raises(MapError, match=r"a\.yaml"):
        read_yaml(path, MapError, "a map's manifest")


def test_nothing_is_written_through_a_link_that_an_attacker_left(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    with atomic_file(tmp_path / "a") as aside:
        aside.write_text("new")
    assert (tmp_path / "victim").read_text() == "precious"
    (tmp_path / f"{storage.ASIDE_PREFIX}999999999-01234567-a").symlink_to(tmp_path)
    sweep_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "victim"]


def test_line_separators_in_texts_survive_yaml(tmp_path: Path) -> None:
    content = {"note \x85 \u2028": "Ä\x85"}
    storage.write_yaml(tmp_path / "a.yaml", content)
    assert storage.read_yaml(tmp_path / "a.yaml", VgsslError, "a note") == content
