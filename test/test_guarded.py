"""Whatever happens to a child process that reads a file is one error for its parent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from vgssl_core import guarded
from vgssl_core.guarded import ChildError, run_guarded


def in_child(name: str, cpu_s: int = 20, wall_s: int = 60, **arguments: Any) -> Any:
    return run_guarded(f"guarded_functions:{name}", arguments, cpu_s, wall_s)


def test_a_child_answers_with_its_result_alone() -> None:
    assert in_child("add", first=2, second=3) == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [("crash", "SIGABRT"), ("spin", "SIGXCPU"), ("swell", "MemoryError"), ("vanish", "no answer"), ("flood", "answer")],
)
def test_whatever_happens_to_a_child_is_one_error(name: str, words: str) -> None:
    with pytest.raises(ChildError, match=words):
        in_child(name, cpu_s=1)


def test_a_child_that_hangs_is_killed() -> None:
    begin = time.monotonic()
    with pytest.raises(ChildError, match="more than 2 seconds"):
        in_child("hang", wall_s=2)
    assert time.monotonic() - begin < 60


def test_a_child_writes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ChildError):
        in_child("write", path=str(tmp_path / "file"))
    assert not (tmp_path / "file").stat().st_size


def test_a_python_that_cannot_be_started_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded.sys, "executable", "/nowhere/python")
    with pytest.raises(ChildError, match="cannot be started"):
        in_child("add", first=1, second=1)
