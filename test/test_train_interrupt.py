"""Ctrl-C ends a training with a checkpoint, which goes on to the same bits; a finished run says that it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from train_support import arguments, assert_same_training, make_data, state, train_until_killed

from training import train
from vgssl_core.geopair import load_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


@pytest.fixture
def python_handler() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a background job of a shell has not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("method", "step"), [("triplet", 2), ("mocov2", 6), ("byol", 9)])
def test_an_interrupted_training_is_saved_and_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, method: str, step: int
) -> None:
    """Before the first checkpoint, at the end of an epoch, and at the end of all."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    given = arguments(method, data, "--val_every", "2", "--schedule", "cosine", "--early_stop", "5")
    assert train.main([*given, "--out", str(straight)]) == 0
    said = train_until_killed([*given, "--out", str(run)], step, signal.SIGINT)
    assert "Ctrl-C again stops at once" in said and f"stopped at step {step}, and saved: {run}" in said
    assert f"-m training.train --out {run} --resume" in said and "trained: " not in said
    saved = state(run)["progress"]
    assert saved["step"] == step and ("R@1" in saved["rows"][-1]) == (step == 6)  # where it was due anyway
    load_run(run)
    assert train.main(["--out", str(run), "--resume"]) == 0
    assert_same_training(straight, run)
    first, second = state(straight)["progress"], state(run)["progress"]
    assert (first["best"], first["stale"]) == (second["best"], second["stale"])


@pytest.mark.usefixtures("python_handler")
def test_a_second_interrupt_stops_at_once_and_the_handler_is_put_back() -> None:
    calls: list[None] = []
    with train._ctrl_c_calls(lambda: calls.append(None), tells=False):
        signal.raise_signal(signal.SIGINT)
        assert len(calls) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with train._ctrl_c_calls(lambda: calls.append(None), tells=False):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and len(calls) == 1


@pytest.mark.usefixtures("python_handler")
def test_a_handler_of_anothers_stays_and_other_threads_have_none() -> None:
    found: list[object] = []

    def look() -> None:
        with train._ctrl_c_calls(lambda: None, tells=False):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    look()
    assert found == [signal.default_int_handler, signal.SIG_IGN]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "is finished at step 9: --epochs 3 are trained, and a resume cannot change them"),
        (["--max_steps", "4"], "is finished at step 4: --max_steps 4 are used up: give more to go on, or 0"),
        (["--early_stop", "1", "--lr", "1e-9"], "--early_stop 1 are used up: give more to go on, or 0"),
        (["--max_cpu_minutes", "1e-9"], "is finished at step 0: --max_cpu_minutes 1e-09 are used up"),
    ],
)
def test_a_resume_of_a_finished_run_says_so_and_what_lets_it_go_on(
    data: Path, tmp_path: Path, more: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments("triplet", data, *more), "--out", str(run)]) == 0
    assert "is finished" not in caplog.text
    before = (run / "last.pt").read_bytes()
    assert train.main(["--out", str(run), "--resume"]) == 0
    assert caplog.text.count(f"{run} is finished") == 1 and said in caplog.text
    assert (run / "last.pt").read_bytes() == before
