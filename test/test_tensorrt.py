"""The TensorRT engine: on the fakes of both ends of what is supported, and on the real thing where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_support import SIZE, Machine, everywhere, expected, install, nothing_is_left, on_both_fakes, set_model
from tiny import picture

from vgssl_core.errors import ConfigError
from vgssl_core.inference import open_embedder, tensorrt_build
from vgssl_core.remembered import FOLDER_VARIABLE

pytest_plugins = ["tensorrt_support"]


# --- what it computes


@everywhere
@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 0.99999), ("fp16", 0.9999), ("int8", 0.99)])
def test_every_precision_computes_the_network(precision: str, cosine: float, machine: Machine) -> None:
    images = [picture(number, *size) for number, size in enumerate([(32, 24), (64, 48), (7, 5), (640, 480)])]
    with machine.open(precision) as embedder:
        descriptors = embedder.embed(images)
        assert embedder.embed([]).shape == (0, 32)
    assert descriptors.dtype == np.float32 and descriptors.shape == (4, 32)
    assert np.sum(descriptors * expected(images), axis=1).min() > cosine
    assert precision in embedder.name and (embedder.dimension, embedder.preprocessing) == (32, SIZE)


@everywhere
def test_more_images_than_the_largest_batch_are_split(machine: Machine) -> None:
    images = [picture(number) for number in range(7)]
    with machine.open("fp32", max_batch=3) as embedder:
        np.testing.assert_allclose(embedder.embed(images), expected(images), atol=1e-4)
        if machine.driver:
            before = machine.driver.calls["cuEventSynchronize"]
            embedder.embed(images)
            assert machine.driver.calls["cuEventSynchronize"] - before == 3


def slowly(values: np.ndarray) -> np.ndarray:
    threading.Event().wait(0.001)
    return values


@everywhere
def test_threads_share_an_embedder(machine: Machine) -> None:
    images = [picture(number) for number in range(8)]
    results: dict[int, np.ndarray] = {}
    if machine.behaviour:  # give way in the middle
        machine.behaviour.output = slowly
    with machine.open("fp32", max_batch=2) as embedder:

        def work(number: int) -> None:
            for _ in range(5):
                results[number] = embedder.embed(images[number : number + 3])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, given in results.items():
        np.testing.assert_allclose(given, expected(images[number : number + 3]), atol=1e-4)
    assert len(results) == 4


@on_both_fakes
def test_embedding_allocates_nothing_and_closing_frees_everything(machine: Machine, soak: bool) -> None:
    embedder = machine.open(max_batch=4)
    held = machine.driver.held
    assert held == (3, 2, 2, 1)
    for number in range(10_000 if soak else 200):
        embedder.embed([picture(number)] * (1 + number % 6))
        assert machine.driver.held == held
    embedder.close()
    embedder.close()
    assert machine.driver.held == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match="closed"):
        embedder.embed([picture(1)])


@on_both_fakes
def test_an_embedder_that_is_forgotten_frees_everything(machine: Machine) -> None:
    machine.open()
    assert machine.driver.held == (0, 0, 0, 0)


# --- building and the cache


@everywhere
def test_an_engine_is_built_once_and_then_loaded(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    images = [picture(number) for number in range(3)]
    with caplog.at_level("INFO", logger="vgssl_core"), machine.open() as embedder:
        first = embedder.embed(images)
    for words in ("Building a TensorRT engine of model.fp16.onnx", "takes minutes", "Built in", "ONNX Runtime: cosine"):
        assert words in caplog.text
    assert len(machine.engines()) == 1
    caplog.clear()
    with caplog.at_level("INFO", logger="vgssl_core"), machine.open() as embedder:
        np.testing.assert_allclose(embedder.embed(images), first, atol=1e-6)
    assert "from the cache" in caplog.text and "Building" not in caplog.text


@on_both_fakes
def test_what_an_engine_depends_on_makes_another_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened_builds() -> int:
        before = machine.behaviour.builds
        machine.open().close()
        return machine.behaviour.builds - before

    assert (opened_builds(), opened_builds()) == (1, 0)
    install(machine, "10.13.2", monkeypatch)
    assert (opened_builds(), opened_builds()) == (1, 0)
    machine.driver.capability = (9, 0)
    assert (opened_builds(), opened_builds()) == (1, 0)
    machine.driver.name = "Another GPU"
    assert (opened_builds(), opened_builds()) == (1, 0)
    set_model(machine.bundle, "fp16", (machine.bundle / "model.onnx").read_bytes())
    assert (opened_builds(), opened_builds()) == (1, 0)
    machine.open(max_batch=5).close()
    machine.open(workspace_mib=64).close()
    assert machine.behaviour.builds == 7 and len(machine.engines()) == 7


@everywhere
@pytest.mark.parametrize(
    "damage", ["truncated", "altered", "empty", "no record", "no plan", "foreign", "not yaml", "file"]
)
def test_a_damaged_or_foreign_engine_is_built_anew_and_never_loaded(
    damage: str, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.open().close()
    (folder,) = machine.engines()
    plan, record = folder / "engine.plan", folder / "engine.yaml"
    good = plan.read_bytes()
    if damage == "truncated":
        plan.write_bytes(good[: len(good) // 2])
    elif damage == "altered":
        plan.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    elif damage == "empty":
        plan.write_bytes(b"")
    elif damage == "no record":
        record.unlink()
    elif damage == "no plan":
        plan.unlink()
    elif damage == "foreign":  # a whole engine with its own record, under the name of this one
        record.write_text(record.read_text().replace("compute capability", "other capability", 1))
        record.write_text(record.read_text().replace("max_batch: 8", "max_batch: 9"))
    elif damage == "not yaml":
        record.write_bytes(b"\x00{")
    else:
        shutil.rmtree(folder)
        folder.write_text("no folder")
    if machine.behaviour:
        machine.behaviour.loaded.clear()
    with caplog.at_level("WARNING", logger="vgssl_core"), machine.open() as embedder:
        np.testing.assert_allclose(embedder.embed([picture(1)]), expected([picture(1)]), atol=1e-2)
    assert "is built anew" in caplog.text and folder.name in caplog.text
    if machine.behaviour:
        assert machine.behaviour.builds == 2
        assert machine.behaviour.loaded == [good]  # the new one
    caplog.clear()
    with caplog.at_level("WARNING", logger="vgssl_core"):
        machine.open().close()
    assert caplog.text == ""


@on_both_fakes
@pytest.mark.parametrize("reason", ["TensorRT refuses it", "it computes something else", "it computes no numbers"])
def test_a_cached_engine_that_does_not_work_is_built_anew(
    reason: str, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.open().close()
    behaviour = machine.behaviour

    def output(values: np.ndarray) -> np.ndarray:
        return values if behaviour.builds > 1 else values * (np.nan if "numbers" in reason else -1)

    if "refuses" in reason:
        behaviour.plan_error = "plan of another driver"

        def mend() -> None:
            behaviour.plan_error = ""

        behaviour.during_build = mend
    else:
        behaviour.output = output
    with caplog.at_level("WARNING", logger="vgssl_core"), machine.open() as embedder:
        np.testing.assert_allclose(embedder.embed([picture(1)]), expected([picture(1)]), atol=1e-2)
    assert behaviour.builds == 2 and "is built anew" in caplog.text
    assert machine.driver.held == (0, 0, 0, 0)


@everywhere
def test_the_engine_that_a_program_asks_for_by_name(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "user"))
    # It has compared its engine with the samples itself, and more strictly.
    monkeypatch.delattr("vgssl_core.inference.backends.self_test")
    embedder = open_embedder(machine.bundle, "tensorrt", threads=1)
    assert embedder.name.startswith("tensorrt ")
    assert len(list((tmp_path / "user" / "tensorrt").glob("*/engine.plan"))) == 1
    np.testing.assert_allclose(embedder.embed([picture(1)]), expected([picture(1)]), atol=1e-2)


# --- messages and interruption


@on_both_fakes
def test_progress_and_tensorrts_own_messages_are_in_the_log(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorrt_build, "_MESSAGE_INTERVAL_S", 0.0)
    with caplog.at_level("DEBUG", logger="vgssl_core"):
        machine.open().close()
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["TensorRT: fake warning"] == "WARNING" and levels["TensorRT: fake info"] == "DEBUG"
    assert not any("fake verbose" in message for message in levels)
    assert any(m.startswith("Still building") and m.endswith("Building Engine, step 2 of 2.") for m in levels)


@pytest.fixture
def listens_to_ctrl_c() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@on_both_fakes
def test_ctrl_c_ends_a_build_and_leaves_nothing(machine: Machine, listens_to_ctrl_c: None) -> None:
    reached = threading.Event()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        reached.set()

    # The cancellation reaches the builder with its next step.
    def wait_for_cancel() -> None:
        interrupt()
        cancelled.wait(10)

    cancelled = threading.Event()
    make = tensorrt_build._monitor

    def monitor(started: float) -> Any:
        made = make(started)
        request = made.request_cancel
        made.request_cancel = lambda: (request(), cancelled.set())
        return made

    machine.behaviour.during_build = wait_for_cancel
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tensorrt_build, "_monitor", monitor)
        machine.open()
    assert reached.is_set() and cancelled.is_set()
    nothing_is_left(machine)
    machine.behaviour.during_build = lambda: None
    machine.open().close()
