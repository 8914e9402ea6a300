"""The cache of engines: who may write to it, one builder at a time, and kills in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.inference.engine_cache import EngineCache, EngineKey
from vgssl_core.remembered import FOLDER_VARIABLE
from vgssl_core.storage import ASIDE_PREFIX

KEY = EngineKey("0" * 64, "10.3.0", "Fake GPU", 8, 1024)
OTHER_KEY = EngineKey("1" * 64, "10.3.0", "Fake GPU", 8, 1024)
PLAN_BYTES = 8_000_000
#: A child that builds engines, each of one repeated byte, and replaces them for ever.
BUILDER = textwrap.dedent(
    f"""
    import logging, sys
    from vgssl_core.errors import BundleError
    from vgssl_core.inference.engine_cache import EngineCache, EngineKey
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    key = EngineKey("0" * 64, "10.3.0", "Fake GPU", 8, 1024)
    cache = EngineCache(sys.argv[1])
    def load(plan):
        raise BundleError("wanted anew")
    for number in range(1, 1_000_000):
        def build():
            print("building", flush=True)
            return bytes([number % 256]) * {PLAN_BYTES}, number
        cache.obtain(key, load, build)
    """
)


def obtained(cache: EngineCache, plan: bytes = b"plan", key: EngineKey = KEY) -> tuple[bytes, bool]:
    """The engine of a key, and whether it had to be built."""
    built: list[bool] = []

    def build() -> tuple[bytes, bytes]:
        built.append(True)
        return plan, plan

    return cache.obtain(key, lambda given: given, build), bool(built)


def hidden(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if item.name.startswith(ASIDE_PREFIX)]


def test_what_was_built_comes_back_and_other_keys_do_not_find_it(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "a" / "cache")
    assert obtained(cache) == (b"plan", True)
    assert obtained(EngineCache(tmp_path / "a" / "cache"), b"other") == (b"plan", False)
    others = [
        OTHER_KEY,
        EngineKey("0" * 64, "10.3.1", "Fake GPU", 8, 1024),
        EngineKey("0" * 64, "10.3.0", "Fake GPU 2", 8, 1024),
        EngineKey("0" * 64, "10.3.0", "Fake GPU", 9, 1024),
        EngineKey("0" * 64, "10.3.0", "Fake GPU", 8, 1025),
    ]
    for number, key in enumerate(others):
        assert obtained(cache, b"%d" % number, key) == (b"%d" % number, True)
    assert obtained(cache, b"other") == (b"plan", False)


def test_a_build_that_fails_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)

    def build() -> tuple[bytes, bytes]:
        raise BundleError("refused")

    with pytest.raises(BundleError, match="refused"):
        cache.obtain(KEY, lambda plan: plan, build)
    assert [item.name for item in tmp_path.iterdir()] == [".lock"]
    assert obtained(cache) == (b"plan", True)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    EngineCache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702, 0o777):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match="Others may write"):
            EngineCache(folder)
    folder.chmod(0o755)
    EngineCache(folder)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid == 0:  # root's folders are trusted, so look at one of somebody else
        os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigError, match="Others may write"):
        EngineCache(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=FOLDER_VARIABLE):
        EngineCache(tmp_path / "file" / "cache")
    (tmp_path / "cache" / ".lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=FOLDER_VARIABLE):
        obtained(EngineCache(tmp_path / "cache"))


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "own"))
    assert EngineCache().folder == tmp_path / "own" / "tensorrt"
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / "vgssl" / "tensorrt"


def test_a_full_disk_costs_the_next_start_and_not_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert obtained(cache) == (b"plan", True)
    assert "No space left on device" in caplog.text and "builds again" in caplog.text
    assert [item.name for item in tmp_path.iterdir()] == [".lock"]
    assert obtained(cache) == (b"plan", True)


def test_a_second_builder_waits_and_takes_what_the_first_built(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    results: list[bytes] = []

    def slow() -> tuple[bytes, bytes]:
        begun.set()
        assert go_on.wait(30)
        return b"first", b"first"

    first = threading.Thread(target=lambda: results.append(EngineCache(tmp_path).obtain(KEY, lambda plan: plan, slow)))
    first.start()
    assert begun.wait(30)
    with caplog.at_level("INFO", logger="vgssl_core"):
        second = threading.Thread(target=lambda: results.append(obtained(EngineCache(tmp_path), b"second")[0]))
        second.start()
        while "Waiting for another process" not in caplog.text:
            second.join(0.01)
            assert second.is_alive()
        go_on.set()
        first.join(30)
        second.join(30)
    assert results == [b"first", b"first"]


def test_what_a_builder_left_that_was_killed_while_it_wrote_is_swept(tmp_path: Path) -> None:
    half_written = """
    import os, signal, pathlib
    write = pathlib.Path.write_bytes
    def killed(path, data):
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    pathlib.Path.write_bytes = killed
    """
    code = textwrap.dedent(half_written) + BUILDER
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, stdout=subprocess.DEVNULL)
    assert child.returncode == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    assert obtained(EngineCache(tmp_path), key=OTHER_KEY) == (b"plan", True)
    assert hidden(tmp_path) == []
    assert obtained(EngineCache(tmp_path)) == (b"plan", True)


def test_kills_leave_a_whole_engine_or_none_and_the_next_builder_sweeps(tmp_path: Path, soak: bool) -> None:
    random.seed(4)
    for _ in range(20 if soak else 3):
        child = subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert "building\n" in child.stdout
        # Not a wait for an event: the kill is to come at any moment of storing and replacing.
        threading.Event().wait(random.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        plan, built = obtained(EngineCache(tmp_path), b"anew")
        assert plan in (b"anew", plan[:1] * PLAN_BYTES)
        assert not (built and hidden(tmp_path))
    # Where the engine was whole, nothing was built, and what the kill left waits for the next build.
    obtained(EngineCache(tmp_path), key=OTHER_KEY)
    assert hidden(tmp_path) == []
    assert {item.name for item in tmp_path.iterdir() if item.name.startswith(".")} == {".lock"}


def test_what_a_killed_builder_left_goes_though_its_process_number_is_in_use_again(tmp_path: Path) -> None:
    (tmp_path / f"{ASIDE_PREFIX}{os.getpid()}-01234567-{KEY.name()}").mkdir()
    obtained(EngineCache(tmp_path))
    assert hidden(tmp_path) == []
