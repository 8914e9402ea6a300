"""Model bundles, engines, and the loop that embeds many images."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_bundle, network, picture, projection, reference_descriptors

from vgssl_core.errors import BundleError, ConfigError, DataError, VgsslError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import (
    available_backends,
    compute_model_id,
    embed_files,
    embed_images,
    load_bundle,
    open_embedder,
    self_test,
    write_bundle,
)
from vgssl_core.inference.threads import set_threads
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

INSTALLED = [name for name, there in available_backends().items() if there]
SIZE = Preprocessing(32, 24)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    change(manifest)
    manifest.pop(SEAL)
    write_sealed(path, manifest)


def repair(folder: Path) -> None:
    """Make the checksums fit what the files hold now, as a hostile author would."""

    def update(manifest: dict[str, Any]) -> None:
        for name, entry in manifest["files"].items():
            entry.update(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size)

    edit(folder, update)


# --- bundle


def test_a_bundle_comes_back_as_it_was_written(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert (bundle.dimension, bundle.method, bundle.preprocessing) == (32, "tiny", SIZE)
    assert bundle.architecture == {"backbone": "tiny", "descriptor_dim": 32}
    assert bundle.training == {"data": "none", "seed": 0}
    assert bundle.model_path() == tiny_bundle / "model.onnx"
    images, descriptors = bundle.samples()
    np.testing.assert_array_equal(images[0], picture(1001))
    assert descriptors.shape == (3, 32)
    listed = {str(path.relative_to(tiny_bundle)) for path in tiny_bundle.rglob("*") if path.is_file()}
    assert listed == {*bundle.files, "bundle.yaml"}


def test_an_existing_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "b", seed=0)
    with pytest.raises(VgsslError, match="exists already"):
        make_bundle(tmp_path / "b", seed=1)
    assert load_bundle(tmp_path / "b").model_id == first.model_id
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


def test_a_bundle_that_would_not_load_is_never_written(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "model_id": "x",
        "method": "m",
        "preprocessing": SIZE,
        "architecture": {},
        "training": {},
        "sample_images": [picture(1)],
        "sample_descriptors": np.ones((1, 4), np.float32),
    }
    bad: list[dict[str, Any]] = [
        {"sample_images": [], "sample_descriptors": np.ones((0, 4), np.float32)},
        {"sample_images": [picture(1), picture(2)]},
        {"sample_descriptors": np.ones(4, np.float32)},
        {"preprocessing": Preprocessing(0, 24)},
        {"model_id": ""},
    ]
    for change in bad:
        with pytest.raises(BundleError):
            write_bundle(tmp_path / "b", b"onnx", **(arguments | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "samples/0001.png", "samples/descriptors.npy"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_every_damaged_file_is_found_and_named(name: str, damage: str, bundle: Path) -> None:
    path = bundle / name
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(BundleError, match=path.name) as caught:
        load_bundle(bundle)
    assert "export" in str(caught.value).lower()


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "map.yaml").write_text("format: 1")
    (tmp_path / "file").write_text("x")
    for name, words in {
        "missing": "is no folder",
        "empty": "has no bundle.yaml",
        "map": "is a map",
        "file": "no folder",
    }.items():
        with pytest.raises(BundleError, match=words):
            load_bundle(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format=2), "Update vgssl_ros"),
        (lambda m: m.update(format=0), "format version 0"),
        (lambda m: m.update(format="x"), "format version 'x'"),
        (lambda m: m.pop("format"), "format version None"),
        (lambda m: m.pop("model_id"), "model_id"),
        (lambda m: m.update(model_id=["x"]), "model_id"),
        (lambda m: m.update(dimension=0), "dimension"),
        (lambda m: m.update(dimension=10**9), "dimension"),
        (lambda m: m.update(dimension=True), "dimension"),
        (lambda m: m.update(preprocessing={"width": 3}), "preprocessing"),
        (lambda m: m["preprocessing"].update(width=10**9), "preprocessing"),
        (lambda m: m["files"].pop("model.onnx"), "model.onnx"),
        (lambda m: m["files"].pop("samples/0000.png"), "0000.png"),
        (lambda m: m["files"].update({"../evil": m["files"]["model.onnx"]}), "files"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["model.onnx"]}), "files"),
        (lambda m: m["files"]["model.onnx"].update(sha256="x"), "files"),
        (lambda m: m["files"]["model.onnx"].pop("bytes"), "files"),
        (lambda m: m["samples"].update(images=["../../x.png"]), "images"),
        (lambda m: m["samples"].update(images=[]), "images"),
        (lambda m: m.update(samples=None), "samples"),
    ],
)
def test_a_manifest_that_no_export_writes_is_refused(change: Callable, words: str, bundle: Path) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(bundle)
    assert "bundle.yaml" in str(caught.value)


def test_a_missing_precision_is_named_with_those_that_are_there(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no int8 model, only fp32"):
        load_bundle(tiny_bundle).model_path("int8")


def test_samples_of_another_shape_or_kind_are_refused(bundle: Path) -> None:
    path = bundle / "samples" / "descriptors.npy"
    for values in (np.zeros((2, 32), np.float32), np.zeros((3, 32)), np.array([{}] * 3, object)):
        np.save(path, values, allow_pickle=True)
        repair(bundle)
        with pytest.raises(BundleError, match="samples"):
            load_bundle(bundle).samples()


def test_the_model_id_tells_weights_architecture_and_preprocessing_apart() -> None:
    weights = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    base = compute_model_id(weights, {"x": 1}, SIZE)
    assert base == compute_model_id(dict(reversed(weights.items())), {"x": 1}, SIZE)
    others = [
        compute_model_id({"a": np.ones((3, 2), np.float32), "b": weights["b"]}, {"x": 1}, SIZE),
        compute_model_id(weights | {"b": np.float32([0, 1])}, {"x": 1}, SIZE),
        compute_model_id({"a": weights["a"], "c": weights["b"]}, {"x": 1}, SIZE),
        compute_model_id(weights, {"x": 2}, SIZE),
        compute_model_id(weights, {"x": 1}, Preprocessing(32, 23)),
    ]
    assert len({base, *others}) == 6


# --- engines


@pytest.mark.parametrize("backend", INSTALLED)
def test_every_engine_computes_the_network(backend: str, tiny_bundle: Path) -> None:
    embedder = open_embedder(tiny_bundle, backend, threads=1)
    images = [picture(number, *size) for number, size in enumerate([(32, 24), (64, 48), (7, 5), (33, 100), (640, 480)])]
    descriptors = embedder.embed(images)
    expected = reference_descriptors(images, projection(32, SIZE, 0), SIZE)
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors, expected, atol=2e-5)
    np.testing.assert_allclose(np.concatenate([embedder.embed([image]) for image in images]), descriptors, atol=1e-6)
    assert embedder.embed([]).shape == (0, 32)
    assert (embedder.model_id, embedder.dimension) == (load_bundle(tiny_bundle).model_id, 32)


def test_onnxruntime_is_always_there() -> None:
    assert "onnxruntime" in INSTALLED


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize("damage", ["rubbish", "other input", "other dimension", "fixed batch"])
def test_a_network_that_is_not_the_manifests_is_refused(backend: str, damage: str, bundle: Path) -> None:
    path = bundle / "model.onnx"
    if damage == "rubbish":
        path.write_bytes(b"\x08\x07" + bytes(500))
    elif damage == "fixed batch":
        import onnx

        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
        path.write_bytes(model.SerializeToString())
    else:
        size = Preprocessing(40, 24) if damage == "other input" else SIZE
        path.write_bytes(network(projection(32 if damage == "other input" else 16, size, 0), size))
    repair(bundle)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        open_embedder(bundle, backend, threads=1)


@pytest.mark.parametrize("backend", INSTALLED)
def test_an_engine_that_computes_something_else_is_refused(backend: str, bundle: Path) -> None:
    assert self_test(open_embedder(bundle, backend), load_bundle(bundle)) > 0.9999
    (bundle / "model.onnx").write_bytes(network(projection(32, SIZE, seed=1), SIZE))
    repair(bundle)
    with pytest.raises(BundleError, match="other descriptors"):
        open_embedder(bundle, backend, check=True)
    if backend != "onnxruntime":
        with pytest.raises(BundleError, match="other descriptors"):
            open_embedder(bundle, backend)


def test_descriptors_that_are_no_numbers_fail_the_self_test(tiny_bundle: Path) -> None:
    class Broken:
        model_id, dimension, preprocessing = "x", 32, SIZE

        def embed(self, images: list) -> np.ndarray:
            return np.full((len(images), 32), np.nan, np.float32)

    with pytest.raises(BundleError, match="other descriptors"):
        self_test(Broken(), load_bundle(tiny_bundle))


@pytest.mark.parametrize("name", ["nope", "bundle", "embedder", "shapes", "os.path", "../x", ""])
def test_an_unknown_backend_is_answered_with_the_list(name: str, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="onnxruntime") as caught:
        open_embedder(tiny_bundle, name)
    assert "openvino" in str(caught.value)


def test_a_backend_whose_package_is_missing_tells_how_to_get_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else find(name, *a))
    with pytest.raises(ConfigError, match=r"pip install 'vgssl_ros\[openvino\]'.*choose of onnxruntime"):
        open_embedder(tiny_bundle, "openvino")


def test_the_chosen_engine_and_the_reason_are_logged(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="vgssl_core"):
        open_embedder(tiny_bundle, threads=1)
    assert "onnxruntime" in caplog.text
    assert "auto" in caplog.text
    assert "1 thread" in caplog.text


def test_threads_are_set_everywhere_in_one_place() -> None:
    faiss = load_faiss()
    before = cv2.getNumThreads()
    try:
        assert set_threads(1) == 1
        assert cv2.getNumThreads() == 1
        assert faiss is None or faiss.omp_get_max_threads() == 1
        assert set_threads(None) >= 1
    finally:
        set_threads(before)


# --- many images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures of different sizes, of which 03 and 07 do not decode."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(11):
        cv2.imwrite(str(folder / f"{number:02d}.png"), picture(number, 20 + 31 * number % 97, 30 + number)[..., ::-1])
    (folder / "03.png").write_bytes(b"no image")
    (folder / "07.png").write_bytes(b"")
    return folder


@given(batch_size=st.integers(1, 13))
def test_order_and_values_do_not_depend_on_the_batches(batch_size: int, folder: Path, tiny_bundle: Path) -> None:
    embedder = open_embedder(tiny_bundle, threads=1)
    paths = sorted(folder.iterdir(), reverse=True)
    result = embed_files(embedder, paths, batch_size, on_error="skip", progress=False)
    assert result.kept.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    images = [cv2.imread(str(paths[index]))[..., ::-1] for index in result.kept]
    np.testing.assert_allclose(
        result.descriptors, reference_descriptors(images, projection(32, SIZE, 0), SIZE), atol=2e-5
    )
    assert [Path(name).name for name, _ in result.failures] == ["07.png", "03.png"]


def test_skipped_images_are_counted_and_named_in_the_log(
    folder: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed_files(open_embedder(tiny_bundle), sorted(folder.iterdir()), on_error="skip", progress=False)
    assert "03.png does not decode" in caplog.text
    assert "2 of 11 images do not decode" in caplog.text


def test_images_that_do_not_decode_are_all_counted_and_named_and_refused_by_default(
    folder: Path, tiny_bundle: Path
) -> None:
    with pytest.raises(DataError, match=r"2 of 11 images do not decode: .*03\.png, .*07\.png\. Replace"):
        embed_files(open_embedder(tiny_bundle), sorted(folder.iterdir()), batch_size=2, progress=False)


def test_no_image_left_is_an_error_and_no_image_at_all_is_none(folder: Path, tiny_bundle: Path) -> None:
    embedder = open_embedder(tiny_bundle)
    with pytest.raises(DataError, match="2 of 2 images do not decode"):
        embed_files(embedder, [folder / "03.png", folder / "missing.png"], on_error="skip", progress=False)
    descriptors, kept, failures = embed_files(embedder, [], progress=False)
    assert (descriptors.shape, kept.shape, failures) == ((0, 32), (0,), [])


def test_images_are_read_as_they_are_needed(tiny_bundle: Path) -> None:
    started: list[int] = []
    embedded: list[int] = []
    embedder = open_embedder(tiny_bundle)
    embed = embedder.embed

    def counting(images: Any) -> Any:
        # A reader that runs far ahead would hold a whole bag in memory.
        assert len(started) - sum(embedded) <= 4 * 3 + 1
        embedded.append(len(images))
        return embed(images)

    embedder.embed = counting  # type: ignore[method-assign]

    def items() -> Any:
        for number in range(40):
            started.append(number)
            yield str(number), lambda number=number: picture(number)

    assert len(embed_images(embedder, items(), batch_size=4).kept) == 40


def test_an_error_in_a_loader_that_is_not_ours_is_not_hidden(tiny_bundle: Path) -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embed_images(open_embedder(tiny_bundle), [("a", broken)], on_error="skip")
