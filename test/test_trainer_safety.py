"""A training that goes wrong keeps what was good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_support import TINY, TRIPLET, make_data, refused, state

from training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgssl_core.ssl import triplet

    loss = triplet.triplet_loss
    calls = iter(range(100))
    monkeypatch.setattr(triplet, "triplet_loss", lambda *a: loss(*a) * (float("nan") if next(calls) > 3 else 1))
    run = tmp_path / "run"
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--out", str(run)]) == 1
    assert "The loss is nan after step" in (message := capsys.readouterr().err) and str(run / "last.pt") in message
    assert all(torch.isfinite(v).all() for v in state(run)["method"].values())


def test_an_error_before_the_first_checkpoint_leaves_the_folder_free(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgssl_core.ssl import triplet

    arguments = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1"]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("of the user")
    with monkeypatch.context() as patch:
        patch.setattr(triplet, "triplet_loss", lambda q, *others: q.sum() * float("nan"))
        assert "nothing was saved" in refused(arguments, tmp_path / "run", capsys)
        assert train.main([*arguments, "--out", str(tmp_path / "kept")]) == 1
    capsys.readouterr()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    assert "negatives are wanted" in refused([*arguments, "--options.negatives", "14"], tmp_path / "run", capsys)
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 0


def test_weights_that_are_not_finite_never_replace_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgssl_core.geopair.optimisation import Optimisation

    step = Optimisation.step

    def spoilt(self: Optimisation, batches: object, number: int, done: float) -> object:
        outputs = step(self, batches, number, done)
        if number == 5:  # the last step of the second epoch: its loss was still finite
            with torch.no_grad():
                self._method.network.head.bias[0] = float("nan")
        return outputs

    monkeypatch.setattr(Optimisation, "step", spoilt)
    run = tmp_path / "run"
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--out", str(run)]) == 1
    message = capsys.readouterr().err
    assert "The weights are no longer finite after step 6" in message and str(run / "last.pt") in message
    assert state(run)["progress"]["step"] == 3
    assert all(torch.isfinite(v).all() for v in state(run)["method"].values())
