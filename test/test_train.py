"""The training program: what it reads, what it leaves, and what it says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny import make_place_set, picture
from train_support import METHODS, TINY, TRIPLET, arguments, configuration, make_data, same, state

from training import train
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair import build_trainer, load_run
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.run_folder import load_checkpoint
from vgssl_core.models import build_network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("method", METHODS)
def test_a_training_leaves_a_run_that_loads(
    data: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments(method, data), "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "12 pairs (0 queries without a positive)" in printed and "best on validation, by R@5: R@1 " in printed
    network, preprocessing, manifest = load_run(run)
    assert (preprocessing.width, preprocessing.height) == (32, 32)
    assert manifest["method"] == method and manifest["data"]["pairs"] == 12 and manifest["versions"]["torch"]
    assert not network.training and network(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and all(0 <= float(row["R@5"]) <= 100 for row in rows)
    assert list(run.glob("events.out.tfevents.*")) and len(list((run / "samples").iterdir())) > 1
    best = load_checkpoint(run / "best.pt")
    assert best["recall"][5] == max(row_recall["R@5"] for row_recall in state(run)["progress"]["rows"])


def test_seeds_differ_and_repeat(data: Path, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--seed", str(seed), "--out", str(out)]
        assert train.main(given) == 0
        weights.append(state(out)["method"]["network.head.weight"].numpy())
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_collapsed_descriptors_are_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vgssl_core.models.network import DescriptorNet

    forward = DescriptorNet.forward
    monkeypatch.setattr(DescriptorNet, "forward", lambda self, x: forward(self, x) * 0 + 0.35)
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "Descriptors have collapsed" in caplog.text


def test_the_val_split_is_found_in_the_images_folder_too(data: Path, tmp_path: Path) -> None:
    given = [*TRIPLET, "--data", str(data / "images"), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert train.main(given) == 0
    assert load_run(tmp_path / "run")[2]["data"]["val_name"] == "images/val"


def test_without_validation_the_last_weights_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_place_set(tmp_path / "set", count=8, queries=6)
    assert train.main([*TRIPLET, "--data", str(root), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "No validation set" in caplog.text
    weights, _, _ = load_run(tmp_path / "run")
    last = state(tmp_path / "run")["method"]
    assert all(torch.equal(value, last[f"network.{key}"]) for key, value in weights.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "size"),
    [(["test_resnet"], (112, 32)), (["vit_small_patch14_dinov2", "--blocks", "1"], (98, 28))],
    ids=["cnn", "patches of 14"],
)
def test_input_size_follows_the_images_and_the_backbone(
    tmp_path: Path, backbone: list[str], size: tuple[int, int]
) -> None:
    root = tmp_path / "set" / "images"
    for part in ("database", "queries"):
        (root / part).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(root / part / f"@{i * 30}@0@@@@.png"), picture(i, 640, 192))
    given = [*TRIPLET, "--data", str(root.parent), *TINY, "--epochs", "1", "--width", "0", "--height", "0"]
    given += ["--options.negatives", "1", "--pixels", "3000", "--out", str(tmp_path / "run"), "--backbone", *backbone]
    assert train.main(given) == 0
    network, preprocessing, _ = load_run(tmp_path / "run")
    assert (preprocessing.width, preprocessing.height) == (network.config.width, network.config.height) == size


def test_reduced_decoding_is_for_training_images_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Recorded(ImageStore):
        def __init__(self, paths: Sequence[Path], *settings: Any) -> None:
            super().__init__(paths, *settings)
            made.append((len(paths), settings[4]))

    monkeypatch.setattr("vgssl_core.geopair.setup.ImageStore", Recorded)
    given = arguments("triplet", data, "--reduced_decoding", "true", "--out", str(tmp_path / "run"))
    build_trainer(configuration(given))
    assert made == [(12, True), (14, True), (5, False), (6, False)]


def test_training_outside_the_memory_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    for name in ("2048", "0"):
        given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--memory_mib", name]
        assert train.main([*given, "--out", str(tmp_path / name)]) == 0
    assert same(state(tmp_path / "0")["method"], state(tmp_path / "2048")["method"])


def test_a_damaged_run_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="no run folder"):
        load_run(run)
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    whole = (run / "best.pt").read_bytes()
    for kept in (0, 100, len(whole) // 2):
        (run / "best.pt").write_bytes(whole[:kept])
        with pytest.raises(DataError, match="damaged"):
            load_run(run)
    (run / "best.pt").unlink()
    (run / "last.pt").unlink()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        load_run(run)


def test_training_without_data_takes_the_town_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "town-3").symlink_to(data)
    assert train.main(["--seed", "3", *TINY, *TRIPLET, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "settings: config/train/small/triplet.yaml" in printed
    assert "No --data was given" in printed and "--data DIR --val DIR" in printed
    assert len(list((tmp_path / "runs").glob("triplet-*"))) == 1


NETVLAD = ["--pooling", "netvlad", "--pooling_options", "{clusters: 3}", "--head", "none"]


def test_clusters_are_found_on_the_images_before_the_first_step(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given, run = arguments("triplet", data, *NETVLAD), tmp_path / "run"
    with caplog.at_level("INFO"):
        assert train.main([*given, "--max_steps", "1", "--out", str(run)]) == 0
        assert caplog.text.count("The clusters of --pooling netvlad were found on 14 images") == 1
        assert train.main(["--out", str(run), "--resume", "--max_steps", "2"]) == 0  # with those that it has
    assert caplog.text.count("were found on") == 1


@pytest.mark.parametrize("flag", ["--init", "--weights"])
@pytest.mark.parametrize("whole", [True, False], ids=["network", "backbone alone"])
def test_clusters_that_weights_bring_stay(
    data: Path, tmp_path: Path, flag: str, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given = arguments("triplet", data, *NETVLAD, "--out", str(tmp_path / "run"))
    network = build_network(configuration(given).network_config())
    torch.save((network if whole else network.backbone).state_dict(), tmp_path / "weights.pt")
    with caplog.at_level("INFO"):
        trained = build_trainer(configuration([*given, flag, str(tmp_path / "weights.pt")])).method.network
    assert torch.equal(trained.pooling.centres, network.pooling.centres) == whole
    assert ("were found on" in caplog.text) != whole


def test_images_in_the_cache_on_disk_give_the_same_bits(data: Path, tmp_path: Path) -> None:
    for name, more in {"plain": [], "filled": ["--cache_dir", "cache"], "read": ["--cache_dir", "cache"]}.items():
        more = [str(tmp_path / item) if item == "cache" else item for item in more]
        given = arguments("triplet", data, "--epochs", "1", *more)
        assert train.main([*given, "--out", str(tmp_path / name)]) == 0
    for name in ("filled", "read"):
        assert same(state(tmp_path / "plain")["method"], state(tmp_path / name)["method"])


def test_a_bag_is_trained_on_as_a_set_that_is_written_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / "drive.mcap").write_bytes(b"a bag")
    monkeypatch.setattr(
        "vgssl_core.bags.to_places.write_bag_places",
        lambda bag, out, *_, **__: make_place_set(out, count=12, step_m=4.0, queries=0),
    )
    for name, folder, said in (
        ("first", tmp_path, "Writing the images of"),
        ("second", tmp_path, "are in runs/places-drive-"),
        ("third", tmp_path / "other", "Writing the images of"),
    ):
        given = arguments("byol", folder / "drive.mcap", "--val", str(data), "--epochs", "1", "--out", name)
        assert train.main(given) == 0
        assert said in capsys.readouterr().out
    trained_on = [load_run(tmp_path / name)[2]["data"]["train"] for name in ("first", "second", "third")]
    assert trained_on[0] == trained_on[1] != trained_on[2]
