"""A training that was killed or ran out of time goes on to the same bits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import SOAK
from tiny import make_place_set
from train_support import (
    METHODS,
    TINY,
    TRIPLET,
    arguments,
    assert_same_training,
    configuration,
    make_data,
    state,
    train_until_killed,
)

from training import train
from vgssl_core.geopair import build_trainer, load_run
from vgssl_core.geopair.run_folder import load_checkpoint
from vgssl_core.models import build_network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


#: One of each kind: a queue, mined negatives, two views of hard negatives, a moving average.
KINDS = list(METHODS) if SOAK else ["mocov2", "triplet", "vicreg", "byol"]
#: What else a checkpoint must hold.
EXTRAS = {
    "mocov2": [
        *("--accumulate", "3", "--pairs.refresh_queries", "0", "--epochs", "5"),
        *("--pairs.mask_false_negatives", "true"),
    ],
    "triplet": ["--pairs.reuse_steps", "2", "--pairs.refresh_epochs", "2"],
    "byol": ["--precision", "fp16"],
}


def kills() -> list[tuple[str, int]]:
    """After which step each method is killed: at random in full, else at another place of an epoch for each kind."""
    if SOAK:
        return [(method, random.randint(1, 8)) for method in KINDS for _ in range(8)]
    return list(zip(KINDS, [6, 5, 4, 7], strict=True))


@pytest.mark.parametrize(("method", "step"), kills())
def test_a_killed_training_resumes_to_the_same_bits(data: Path, tmp_path: Path, method: str, step: int) -> None:
    more = ["--augment.jitter", "0.2", "--schedule", "cosine", "--early_stop", "9", *EXTRAS.get(method, [])]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    given = arguments(method, data, *more)
    assert train.main([*given, "--out", str(straight)]) == 0
    steps = state(straight)["progress"]["step"]
    step = min(step, steps - 1)
    train_until_killed([*given, "--out", str(killed)], step)
    if (killed / "last.pt").exists():  # before the end of its first epoch it has nothing to save, and begins anew
        assert 0 < state(killed)["progress"]["step"] <= step
    assert train.main(["--out", str(killed), "--resume", "--workers", "2"]) == 0
    assert_same_training(straight, killed)


@pytest.mark.parametrize("end", [4, 6])  # within an epoch, and at the end of one
@pytest.mark.parametrize("more", [["--precision", "bf16"], ["--pairs.reuse_steps", "3"]], ids=["bf16", "reuse"])
def test_a_limit_of_steps_saves_validates_and_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, more: list[str], end: int
) -> None:
    given = arguments("triplet", data, "--val_every", "9", *more)
    assert train.main([*given, "--out", str(tmp_path / "straight")]) == 0
    assert train.main([*given, "--out", str(tmp_path / "run"), "--max_steps", str(end)]) == 0
    saved = state(tmp_path / "run")["progress"]
    assert (saved["step"], saved["epoch"]) == (end, end // 3) and "R@5" in saved["rows"][-1]
    assert train.main(["--out", str(tmp_path / "run"), "--resume", "--max_steps", "0"]) == 0
    assert_same_training(tmp_path / "straight", tmp_path / "run")


def test_resume_takes_the_runs_own_settings_and_checks_flags_against_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "town-3").symlink_to(data)
    monkeypatch.setattr("vgssl_core.town.writer.render_town", lambda *a: pytest.fail("a town was rendered"))
    given = ["--seed", "3", *TINY, *TRIPLET, "--augment.crop_area", "[0.5, 0.9]"]
    assert train.main([*given, "--out", "run", "--max_steps", "4"]) == 0
    (tmp_path / "runs" / "town-3").rename(tmp_path / "runs" / "town-3b")
    assert train.main(["--resume", "--out", "run"]) == 1  # its data is gone: no other is rendered
    assert "runs/town-3 is not a folder" in capsys.readouterr().err
    (tmp_path / "runs" / "town-3b").rename(tmp_path / "runs" / "town-3")
    for flags, message in (
        (["--lr", "0.1"], "was trained with lr 0.001, not 0.1"),
        (["--method", "mocov2"], "was trained with method triplet, not mocov2"),
    ):
        assert train.main(["--resume", "--out", "run", *flags]) == 1
        assert message in capsys.readouterr().err
    assert train.main(["--out", "run", "--resume", "--max_steps", "0"]) == 0
    assert "settings: those of run" in capsys.readouterr().out
    assert state(tmp_path / "run")["progress"]["step"] == 9
    assert train.main(["--resume"]) == 1
    assert "--resume needs the run that goes on" in capsys.readouterr().err


def test_a_resume_with_its_time_used_up_says_what_to_give(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert train.main([*given, "--max_minutes", "1e-9"]) == 0
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "--max_minutes 1e-09 are used up: give more to go on, or 0" in caplog.text
    assert train.main(["--out", str(tmp_path / "run"), "--resume", "--max_minutes", "0"]) == 0
    assert state(tmp_path / "run")["progress"]["step"] == 3


def test_a_resume_still_keeps_time_for_the_last_validation(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments("mocov2", data, "--max_steps", "4"), "--out", str(run)]) == 0
    reserved_s = state(run)["progress"]["reserved_s"]
    resumed = build_trainer(configuration(["--resume", "--out", str(run)]))
    assert [clock.reserved_s for clock in resumed.budget.clocks] == list(reserved_s) and min(reserved_s) > 0


@pytest.mark.parametrize("more", [[], ["--sync_batch_norm", "false"]], ids=["synchronised", "apart"])
def test_a_resume_by_other_processes_tells_what_changes(
    data: Path, tmp_path: Path, more: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments("mocov2", data, "--max_steps", "4", *more), "--out", str(run)]) == 0
    build_trainer(configuration(["--resume", "--out", str(run)]))
    assert "processes trained" not in caplog.text
    content = state(run)
    content["progress"]["processes"] = 4
    torch.save(content, run / "last.pt")
    build_trainer(configuration(["--resume", "--out", str(run)]))
    assert "4 processes trained up to here and 1 go on" in caplog.text
    assert ("batch norm sees parts of another size" in caplog.text) == bool(more)


def test_a_run_of_the_cpu_goes_on_on_another_device(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments("mocov2", data), "--epochs", "1", "--out", str(run)]) == 0
    trainer = build_trainer(configuration(["--resume", "--out", str(run)]))
    # No test machine needs CUDA for this: only the random state is looked at.
    monkeypatch.setattr(trainer, "_device", torch.device("cuda"))
    monkeypatch.setattr(trainer._run, "load", lambda name, device: load_checkpoint(run / name))
    trainer.resume()
    assert trainer.progress.step == 3


def test_no_time_at_all_still_leaves_a_whole_run(data: Path, tmp_path: Path) -> None:
    given = [*TRIPLET, "--data", str(data), *TINY, "--out", str(tmp_path / "run"), "--max-minutes", "1e-9"]
    assert train.main(given) == 0
    assert state(tmp_path / "run")["progress"]["step"] == 0
    load_run(tmp_path / "run")


def test_a_resume_needs_none_of_what_the_first_weights_came_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_network(configuration(arguments("byol", data)).network_config()).state_dict(), weights)
    for name, flag in (("file", "--weights"), ("init", "--init")):
        given = arguments("byol", data, flag, str(weights), "--max_steps", "2")
        assert train.main([*given, "--out", str(tmp_path / name)]) == 0
    fetched = "vgssl_core.models.backbones.cnn.pretrained_backbone"
    monkeypatch.setattr(fetched, timm.create_model)
    given = arguments("byol", data, "--pretrained", "true", "--max_steps", "2")
    assert train.main([*given, "--out", str(tmp_path / "published")]) == 0
    weights.unlink()
    monkeypatch.setattr(fetched, lambda *_, **__: pytest.fail("the published weights were asked for"))
    for name in ("file", "init", "published"):
        assert train.main(["--resume", "--out", str(tmp_path / name), "--max_steps", "4"]) == 0
        assert state(tmp_path / name)["progress"]["step"] == 4


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", {"count": 16, "queries": 14}, "train has 14 queries, not 12"),
        ("train", {"count": 14, "queries": 12, "step_m": 31.0}, "train has other images or names"),
        ("val", {"count": 8, "queries": 5}, "val has other images or names"),
    ],
)
def test_a_resume_after_the_set_changed_is_refused(
    tmp_path: Path, split: str, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = make_data(tmp_path / "set"), tmp_path / "run"
    assert train.main([*arguments("mocov2", root), "--max_steps", "2", "--out", str(run)]) == 0
    shutil.rmtree(root / "images" / split)
    make_place_set(root, split=split, **change)
    before = (run / "last.pt").read_bytes()
    assert train.main(["--resume", "--out", str(run), "--max_steps", "4"]) == 1
    assert message in (said := capsys.readouterr().err) and f"--init {run}" in said
    assert (run / "last.pt").read_bytes() == before
