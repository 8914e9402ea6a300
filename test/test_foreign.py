"""Networks of others: wrapped, checked, exported, and used to localize like our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_place_set, picture

from training import build_map, evaluate, export
from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.models import TorchEmbedder, initial
from vgssl_core.models.foreign import ForeignConfig, foreign_network
from vgssl_core.models.untrained import untrained_embedder

_HUB = """
import torch
from torch import nn

dependencies = ["torch"]


class Net(nn.Module):
    def __init__(self, dim, wrong):
        super().__init__()
        convolution = nn.Conv2d(3, 8, 5, stride=4)
        self.features = nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(128, dim)
        self.wrong = wrong

    def forward(self, images):
        rows = self.head(self.features(images).flatten(1))
        if self.wrong == "batch":
            return rows - 0.9 * rows.mean(0)
        if self.wrong == "nan":
            return rows / 0 * 0
        if self.wrong == "zeros":
            return rows * 0
        if self.wrong == "map":
            return self.features(images)
        if self.wrong == "pair":
            return rows, rows
        if self.wrong == "size":
            return rows + images[:, 0, 500, 500]
        return 3 * rows


def net(dim=16, wrong=""):
    torch.manual_seed(0)
    return Net(dim, wrong)


def no_net():
    return 1


def broken():
    raise KeyError("weights")
"""
SIZE = Preprocessing(64, 48)
IMAGES = [picture(i) for i in range(3)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "others"
    folder.mkdir()
    (folder / "hubconf.py").write_text(_HUB)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place_set(tmp_path_factory.mktemp("places"), queries=4)


def arguments(hub: Path, places: Path, out: Path, *more: str) -> Sequence[str]:
    size = ["--width", "64", "--height", "48"]
    return ["--hub", str(hub), "--model", "net", *size, "--images", str(places), "--out", str(out), *more]


@pytest.fixture(scope="module")
def bundle(hub: Path, places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "foreign"
    assert export.main(arguments(hub, places, out, "--trust", "--hub_options", '{"dim": 12}')) == 0
    return out


def test_foreign_bundle_gives_the_networks_unit_vectors(hub: Path, bundle: Path) -> None:
    network = foreign_network(ForeignConfig(str(hub), "net", {"dim": 12}), SIZE, IMAGES)
    given = open_embedder(bundle, threads=1).embed(IMAGES)
    with torch.no_grad():
        raw = network.network(torch.from_numpy(np.stack([SIZE(image) for image in IMAGES]))).numpy()
    assert np.allclose(given, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    assert load_bundle(bundle).model_id == TorchEmbedder(network, SIZE).model_id


def test_foreign_bundle_tells_where_it_comes_from_but_no_folder_of_this_machine(hub: Path, bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.method == "foreign" and loaded.dimension == 12
    assert loaded.architecture == {"foreign": "others", "model": "net", "options": {"dim": 12}}
    assert str(hub.parent) not in (bundle / "bundle.yaml").read_text()


def test_foreign_bundle_builds_a_map_that_localizes(
    bundle: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ["--bundle", str(bundle), "--data", str(places), "--out", str(tmp_path / "map")]
    assert build_map.main(built) == 0
    report = ["--bundle", str(bundle), "--data", str(places), "--out", str(tmp_path / "report")]
    assert evaluate.main(report) == 0
    assert "R@1 100" in capsys.readouterr().out


def test_weights_of_a_file_replace_those_of_the_hub(hub: Path, tmp_path: Path) -> None:
    brought = foreign_network(ForeignConfig(str(hub), "net"), SIZE, IMAGES)
    state = {key: value + 1 for key, value in brought.network.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "weights.pth")
    filled = foreign_network(ForeignConfig(str(hub), "net", {}, tmp_path / "weights.pth"), SIZE, IMAGES)
    assert torch.equal(filled.network.state_dict()["head.bias"], state["head.bias"])
    assert TorchEmbedder(filled, SIZE).model_id != TorchEmbedder(brought, SIZE).model_id


def test_weights_that_do_not_fit_are_named(hub: Path, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"lacks features\.0\.weight .*7 of 9.*1 have another shape"):
        foreign_network(ForeignConfig(str(hub), "net", {}, tmp_path / "weights.pth"), SIZE, IMAGES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("batch", "another vector beside other images than alone"),
        ("nan", "not finite"),
        ("zeros", "gives zeros"),
        ("map", r"gives \(3, 8, 4, 4\) for 3 images"),
        ("pair", "gives a tuple for 3 images"),
        ("size", "does not take images of --width 64 --height 48"),
    ],
)
def test_network_that_gives_no_descriptors_is_refused(hub: Path, wrong: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        foreign_network(ForeignConfig(str(hub), "net", {"wrong": wrong}), SIZE, IMAGES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ForeignConfig("nothing", "net"), "no folder and no GitHub repository"),
        (ForeignConfig("{hub}", "missing"), "failed .*missing"),
        (ForeignConfig("{hub}", "net", {"color": 1}), "failed .*color.*--hub_options"),
        (ForeignConfig("{hub}", "broken"), "failed .*KeyError"),
        (ForeignConfig("{hub}", "no_net"), "gives a int, not a torch network"),
    ],
)
def test_code_that_brings_no_network_is_refused(hub: Path, config: ForeignConfig, message: str) -> None:
    config = ForeignConfig(config.hub.format(hub=hub), config.model, config.options)
    with pytest.raises(ConfigError, match=message):
        foreign_network(config, SIZE, IMAGES)


def test_code_of_others_never_runs_without_the_users_word(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{_HUB}")
    assert export.main(arguments(tmp_path / "hub", places, tmp_path / "bundle")) == 1
    assert "code of others" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    foreign_network(ForeignConfig(str(tmp_path / "hub"), "net"), SIZE, IMAGES)
    assert (tmp_path / "ran").exists()


def test_foreign_export_says_what_it_needs(
    hub: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    for given, message in (
        ([], "nothing is given"),
        (["run", "--hub", str(hub)], "run and hub are given"),
        (["--hub", str(hub), "--trust"], "needs --model FUNCTION, --width W, --height H and --images DIR"),
        (["--reference", "file.pth"], "--reference needs --images"),
        ([*arguments(hub, tmp_path, tmp_path / "bundle")[:-2], "--trust"], "holds no images"),
    ):
        assert export.main([*given, *out]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_training_from_a_foreign_bundle_is_refused(bundle: Path, places: Path) -> None:
    with pytest.raises(ConfigError, match="foreign network"):
        initial.read_initial(bundle)
    with pytest.raises(ConfigError, match="foreign"):
        untrained_embedder(bundle, places, "test")
