"""Steps, time, CPU time and patience end a training cleanly; other data or weights begin one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_place_set
from train_support import arguments, configuration, make_data, same, state

from training import train
from vgssl_core.geopair import build_trainer, load_run
from vgssl_core.geopair.budget import Budget, Clock
from vgssl_core.geopair.config import BudgetConfig
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.validation import Validation

CPU = Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


def test_a_clock_goes_on_where_it_stood_and_keeps_time_for_the_last_validation() -> None:
    now = [100.0]
    clock = Clock(lambda: now[0], limit_s=60)
    clock.used_s = 30
    now[0] += 10
    assert (clock.used_s, clock.left_s) == (40, 20)
    clock.reserved_s = 10
    assert (clock.left_s, clock.done) == (10, 0.8)
    now[0] += 100
    assert (clock.left_s, clock.done) == (0, 1)
    assert Clock(lambda: now[0], 0).left_s == float("inf")


def test_the_budget_is_done_by_what_is_nearest_to_its_end() -> None:
    budget = Budget(BudgetConfig(epochs=10, max_steps=40, max_cpu_minutes=1), 5, CPU)
    assert budget.steps == 40 and budget.done(20) == 0.5
    budget.cpu.used_s = 45
    assert budget.done(20) == pytest.approx(0.75, abs=0.01)
    assert Budget(BudgetConfig(epochs=2), 5, CPU).done(10) == 1


@pytest.mark.parametrize("limit", [["--max_steps", "2"], ["--max_cpu_minutes", "1e-9"], ["--max_minutes", "1e-9"]])
def test_every_limit_ends_with_a_checkpoint_and_a_validation(data: Path, tmp_path: Path, limit: list[str]) -> None:
    given = arguments("triplet", data, "--val_every", "9", "--schedule", "cosine", *limit)
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 0
    progress = state(tmp_path / "run")["progress"]
    assert progress["step"] == (2 if limit[0] == "--max_steps" else 0)
    assert "R@5" in progress["rows"][-1] and (tmp_path / "run" / "best.pt").is_file()


def test_training_stops_after_validations_without_a_better_recall(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls = iter([10.0, 20.0, 20.0, 15.0, 90.0])
    monkeypatch.setattr(Validation, "recall", lambda *_: dict.fromkeys((1, 5, 10), next(recalls)))
    given = arguments("triplet", data, "--epochs", "9", "--early_stop", "2", "--lr", "1e-6")
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 0
    progress = state(tmp_path / "run")["progress"]
    assert (progress["epoch"], progress["stale"], progress["best"][5]) == (4, 2, 20.0)


def test_a_resume_with_its_time_used_up_still_validates_when_none_ever_ran(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = arguments("triplet", data, "--val_every", "9", "--epochs", "9")
    with pytest.MonkeyPatch.context() as patch:  # the process ends with its first epoch saved
        patch.setattr("vgssl_core.geopair.trainer.Trainer._check_weights", _ends_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train._train(*train._configuration([*given, "--out", str(run)]))
    assert not (run / "best.pt").exists() and len(state(run)["progress"]["rows"]) == 1
    assert train.main(["--out", str(run), "--resume", "--max_minutes", "1e-9"]) == 0
    rows = state(run)["progress"]["rows"]
    assert len(rows) == 1 and "R@5" in rows[0] and (run / "best.pt").is_file()


def _ends_in_the_second_epoch(trainer: object) -> None:
    if trainer.progress.epoch == 1 and trainer.progress.rows:  # type: ignore[attr-defined]
        raise KeyboardInterrupt


def test_a_run_starts_from_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    first = arguments("triplet", data, "--epochs", "1", "--out", str(tmp_path / "first"))
    assert train.main(first) == 0
    given = arguments("byol", data, "--init", str(tmp_path / "first"), "--max_minutes", "1e-9")
    assert train.main([*given, "--out", str(tmp_path / "second")]) == 0
    first, second = (load_run(tmp_path / name)[0].state_dict() for name in ("first", "second"))
    assert same(dict(first), dict(second))


@pytest.mark.parametrize(
    ("method", "more", "taken"),
    [
        ("byol", [], {"projector", "predictor"}),
        ("byol", ["--options.predictor_dim", "20"], {"projector"}),
        ("byol", ["--options.projector_dim", "20"], set()),
        ("simsiam", [], set()),
    ],
)
def test_a_run_of_the_same_method_brings_what_it_trained_beside_the_network(
    data: Path, tmp_path: Path, method: str, more: list[str], taken: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    earlier = tmp_path / "earlier"
    assert train.main([*arguments("byol", data, "--epochs", "1"), "--out", str(earlier)]) == 0
    given = arguments(method, data, *more, "--init", str(earlier), "--out", str(tmp_path / "later"))
    with caplog.at_level("INFO"):
        started = build_trainer(configuration(given)).method.state_dict()
    assert ("Of the same run: " in caplog.text) == bool(taken)
    there = state(earlier)["method"]
    for part in ("projector", "predictor"):
        values = {key: value for key, value in started.items() if key.startswith(f"{part}.")}
        assert values and all(torch.equal(value, there[key]) for key, value in values.items()) == (part in taken)
    if method == "byol":  # the moving average begins where what it follows does
        following = {key.removeprefix("target."): value for key, value in started.items() if key.startswith("target.")}
        assert following and all(torch.equal(value, started[key]) for key, value in following.items())


@pytest.mark.parametrize(("batch", "queries"), [(24, 12), (30, 12), (16, 8)])
def test_a_small_set_cuts_the_queries_of_a_batch_and_not_its_hard_negatives(
    data: Path, tmp_path: Path, batch: int, queries: int
) -> None:
    given = arguments("simclr", data, "--batch_size", str(batch), "--out", str(tmp_path / "run"))
    assert f" 12 pairs (0 queries without a positive), {queries} queries per step" in (
        build_trainer(configuration(given)).description()
    )


def test_a_set_without_queries_trains_on_its_own_streets(data: Path, tmp_path: Path) -> None:
    root = make_place_set(tmp_path / "drive", count=30, step_m=4.0, queries=0)
    given = arguments("simclr", root, "--val", str(data), "--epochs", "1", "--pairs.mask_false_negatives", "true")
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 0
    assert load_run(tmp_path / "run")[2]["data"]["pairs"] == 30


def test_overfitting_ones_own_streets_measures_other_images_of_the_place(data: Path, tmp_path: Path) -> None:
    root = make_place_set(tmp_path / "drive", count=30, step_m=4.0, queries=0)
    given = arguments("byol", root, "--overfit", "8", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert train.main(given) == 0
    told = load_run(tmp_path / "run")[2]["data"]
    assert (told["pairs"], told["database"]) == (8, 8) and told["val_name"] == told["train_name"]
