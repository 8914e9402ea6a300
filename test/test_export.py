"""Export: the bundle agrees with torch, takes any batch, and is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import make_place_set, picture

from training import export, train
from vgssl_core.errors import BundleError
from vgssl_core.geopair import load_run
from vgssl_core.imaging import read_image
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.models import TorchEmbedder, build_network, l2_normalised
from vgssl_core.models.exportable import compact
from vgssl_core.models.initial import initialise
from vgssl_core.models.onnx_export import verified_descriptors


def trained(root: Path, out: Path, *more: str) -> Path:
    """A run folder of a few steps."""
    given = ["--method", "mocov2", "--data", str(root), "--val", str(root), "--out", str(out), "--pretrained", "false"]
    given += ["--backbone", "test_resnet", "--pooling", "grid_gem", "--width", "48", "--height", "32"]
    given += ["--batch_size", "4", "--epochs", "2", "--lr", "1e-3", "--options.queue_size", "8", *more]
    assert train.main(given) == 0
    return out


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place_set(tmp_path_factory.mktemp("places"), count=10, queries=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, places: Path) -> Path:
    return trained(places, tmp_path_factory.mktemp("runs") / "run", "--descriptor_dim", "8")


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    assert export.main([str(run), "--out", str(run.parent / "bundle")]) == 0
    return run.parent / "bundle"


def test_bundle_gives_torchs_descriptors(run: Path, bundle: Path) -> None:
    network, preprocessing, _ = load_run(run)
    torch_embedder, embedder = TorchEmbedder(network, preprocessing), open_embedder(bundle, threads=1)
    images = [picture(i, 70, 50) for i in range(5)]
    cosines = np.sum(embedder.embed(images) * torch_embedder.embed(images), axis=1)
    assert cosines.min() > 0.99999
    assert embedder.model_id == torch_embedder.model_id


def test_bundle_tells_where_it_comes_from(run: Path, bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.method == "mocov2" and loaded.dimension == 8
    assert loaded.architecture["backbone"] == "test_resnet" and loaded.training["data"]["pairs"] == 8
    assert set(loaded.recall["fp32"]) == {"1", "5", "10"}
    assert len(loaded.samples()[0]) == 4


def test_network_starts_from_the_bundle_as_from_the_run(run: Path, bundle: Path) -> None:
    networks = [build_network(load_run(run)[0].config) for _ in range(2)]
    for network, source in zip(networks, (run, bundle), strict=True):
        assert not initialise(network, source).filled.kept
    first, second = (network.state_dict() for network in networks)
    compared = [key for key in first if not key.endswith("num_batches_tracked")]
    assert compared and all(first[key].equal(second[key]) for key in compared)


def test_pca_on_the_training_images_makes_a_whitened_compact_bundle(places: Path, tmp_path: Path) -> None:
    run = trained(places, tmp_path / "run", "--head", "none")
    assert export.main([str(run), "--pca", "4", "--out", str(tmp_path / "bundle")]) == 0
    loaded = load_bundle(tmp_path / "bundle")
    assert (loaded.dimension, loaded.architecture["head"], loaded.recall) == (4, "pca", {})
    network, preprocessing, _ = load_run(run)
    paths = sorted((places / "images").rglob("*.jpg"))
    compact(network, preprocessing, paths, 4)
    images = [read_image(path) for path in paths]
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([preprocessing(image) for image in images]))
        white = network.head(network.pooling(network.local_descriptors(pixels)))
    assert torch.allclose(white.T.cov(), torch.eye(4), atol=0.02)
    given = open_embedder(loaded, threads=1).embed(images)
    assert np.allclose(given, l2_normalised(white).numpy(), atol=1e-3)


def test_pca_is_refused_where_there_is_a_head_or_no_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(run), "--pca", "4", "--out", str(tmp_path / "bundle")]) == 1
    assert "train with --head none" in capsys.readouterr().err
    assert export.main(["--reference", "file.pth", "--pca", "4", "--out", str(tmp_path / "bundle")]) == 1
    assert "fitted on the training images of a run" in capsys.readouterr().err


def test_network_takes_any_batch_by_its_names(bundle: Path) -> None:
    path = bundle / "model.onnx"
    model = onnx.load(path)
    assert model.opset_import[0].version == 18 and not list(bundle.glob("*.data"))
    session = onnxruntime.InferenceSession(path)
    for count in (1, 3, 7):
        rows = session.run(["descriptor"], {"image": np.zeros((count, 3, 32, 48), np.float32)})[0]
        assert rows.shape == (count, 8)


def test_network_that_differs_from_torch_is_refused(run: Path, bundle: Path) -> None:
    network, preprocessing, _ = load_run(run)
    model = onnx.load(bundle / "model.onnx")
    head = next(i for i in model.graph.initializer if i.name == "head.bias")
    spoiled = onnx.numpy_helper.to_array(head) + np.linspace(1, 2, 8, dtype=np.float32)
    head.CopyFrom(onnx.numpy_helper.from_array(spoiled, head.name))
    with pytest.raises(BundleError, match="differs from torch"):
        verified_descriptors(model.SerializeToString(), network, preprocessing, [picture(0)])


def test_network_that_does_not_run_is_refused(run: Path) -> None:
    network, preprocessing, _ = load_run(run)
    with pytest.raises(BundleError, match="does not run"):
        verified_descriptors(b"no network", network, preprocessing, [picture(0)])


def test_a_failed_check_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgssl_core.models.onnx_export.MINIMUM_COSINE", 1.5)
    assert export.main([str(run), "--out", str(tmp_path / "bundle")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_or_in_the_way_is_refused(
    run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "bundle")]) == 1
    assert "no run folder" in capsys.readouterr().err
    assert export.main([str(run), "--out", str(bundle)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert export.main([str(run), "--out", str(bundle), "--replace", "true"]) == 0
