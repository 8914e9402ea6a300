"""Which engine and precision is taken, what is refused, and what all engines share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import make_bundle, network, picture, projection

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import available_backends, backends, load_bundle, open_embedder
from vgssl_core.inference.backends import MINIMUM_COSINE, obstacles
from vgssl_core.inference.choice import Task, choose_backend
from vgssl_core.inference.cpu import has_bf16
from vgssl_core.inference.openvino import bf16_obstacle
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

PRECISIONS = tuple(MINIMUM_COSINE)
INSTALLED = [name for name, there in available_backends().items() if there]
HERE = [(name, precision) for precision in PRECISIONS for name, there in available_backends(precision).items() if there]
CNN, TRANSFORMER = Task("fp32", False, True), Task("fp32", True, True)
MISSING = "its package is not installed"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy with networks of every precision: all compute the same here."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    for precision in ("fp16", "int8"):
        add_network(folder, precision, (folder / "model.onnx").read_bytes())
    return folder


def add_network(folder: Path, precision: str, onnx: bytes) -> None:
    path = folder / f"model.{precision}.onnx"
    path.write_bytes(onnx)
    entry = {"sha256": sha256(path), "bytes": len(onnx), "precision": precision}
    edit(folder, lambda manifest: manifest["files"].update({path.name: entry}))


def edit(folder: Path, change: Any) -> None:
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text())
    change(manifest)
    manifest.pop(SEAL)
    write_sealed(folder / "bundle.yaml", manifest)


# --- the choice


@pytest.mark.parametrize(
    ("there", "task", "expected", "words"),
    [
        ({"tensorrt", "openvino", "onnxruntime"}, CNN, "tensorrt", "runs on the GPU"),
        ({"openvino", "onnxruntime"}, CNN, "onnxruntime", "every CPU"),
        ({"openvino", "onnxruntime"}, TRANSFORMER, "openvino", "faster here"),
        ({"onnxruntime"}, TRANSFORMER, "onnxruntime", "openvino: its package"),
        ({"openvino", "onnxruntime"}, Task("int8", False, True), "openvino", "faster here"),
        ({"openvino", "onnxruntime"}, Task("int8", False, False), "onnxruntime", "every CPU"),
        ({"openvino", "onnxruntime"}, Task("fp32", True, False), "onnxruntime", "every CPU"),
        ({"openvino"}, Task("bf16", False, False), "openvino", "no other computes in bf16"),
        ({"openvino"}, CNN, "openvino", "no other computes in fp32"),
        ({"newcomer"}, CNN, "newcomer", "no other computes in fp32"),
    ],
)
def test_auto_takes_the_gpu_then_what_is_known_to_be_faster_and_says_why(
    there: set[str], task: Task, expected: str, words: str
) -> None:
    names = {"tensorrt", "openvino", "onnxruntime", *there}
    choice = choose_backend(names, lambda name: None if name in there else MISSING, task)
    assert choice.backend == expected
    assert f"auto takes {expected}" in choice.reason and words in choice.reason
    if expected != "tensorrt":
        assert f"tensorrt: {MISSING}" in choice.reason


def test_engines_behind_the_chosen_one_are_not_even_looked_at() -> None:
    asked: list[str] = []

    def obstacle(name: str) -> str | None:
        asked.append(name)
        return None if name == "onnxruntime" else MISSING

    choose_backend(["onnxruntime", "openvino", "tensorrt"], obstacle, CNN)
    assert asked == ["tensorrt", "onnxruntime"]


def test_where_no_engine_can_all_reasons_are_told() -> None:
    with pytest.raises(ConfigError, match=r"No backend can compute in bf16 here .*tensorrt: .*openvino: .*onnxruntime"):
        choose_backend(["tensorrt", "openvino", "onnxruntime"], lambda name: MISSING, Task("bf16", False, True))


def test_a_transformer_is_known_by_its_backbone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert not Task.of(bundle, "fp32").is_transformer
    bundle.architecture["backbone"] = "deit_small_distilled_patch16_224"
    assert Task.of(bundle, "fp32").is_transformer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 vnni\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx512f\nbugs\t: bf16\n", False),
        ("model name\t: bf16\nflags\t\t: fpu\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_read_from_the_cpus_own_list(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bf16(tmp_path / "cpuinfo") is expected
    assert not has_bf16(tmp_path / "missing")


def test_bfloat16_is_refused_where_it_would_be_emulated_or_replaced() -> None:
    assert bf16_obstacle(True, ["FP32", "BF16"]) is None
    assert "no bfloat16 instructions" in str(bf16_obstacle(False, ["FP32", "BF16"]))
    assert "update it" in str(bf16_obstacle(True, ["FP32"]))


# --- opening


@pytest.mark.parametrize(("backend", "precision"), HERE)
def test_every_engine_computes_in_every_precision_that_it_offers(backend: str, precision: str, bundle: Path) -> None:
    embedder = open_embedder(bundle, backend, threads=1, check=True, precision=precision)
    assert embedder.name.startswith(backend) and precision in embedder.name
    images, expected = load_bundle(bundle).samples()
    assert np.sum(embedder.embed(images) * expected, axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("backend", "precision"),
    [(name, precision) for precision in PRECISIONS for name, problem in obstacles(precision).items() if problem],
)
def test_an_engine_that_cannot_is_refused_with_the_reason_and_never_replaced(
    backend: str, precision: str, bundle: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_embedder(bundle, backend, threads=1, precision=precision)
    assert str(obstacles(precision)[backend]) in str(caught.value)
    assert "onnxruntime" in str(caught.value)


def test_a_refusal_tells_what_lacks_the_precision_from_what_is_not_installed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(package: str, precisions: tuple[str, ...], problem: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(package=package, precisions=precisions, obstacle=lambda precision: problem)

    engines = {
        "a": engine("os", ("fp32",)),
        "b": engine("os", ("fp32", "fp16")),
        "c": engine("no_such_package", ("fp32", "fp16")),
        "d": engine("os", ("fp32",)),
        "e": engine("os", ("fp32", "fp16"), "there is no GPU"),
    }
    monkeypatch.setattr(backends, "_engines", lambda: engines)
    listed = r"Or choose of b, c \(not installed\), d \(not in fp16\), e \(not here\)\."
    with pytest.raises(ConfigError, match=rf"a cannot run here: it has no fp16, only fp32\. {listed}"):
        open_embedder(bundle, "a", precision="fp16")


def test_an_unknown_precision_is_answered_with_the_list(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="fp32, fp16, bf16, int8"):
        open_embedder(tiny_bundle, precision="fp8")


def test_a_precision_that_the_bundle_lacks_is_refused_with_those_that_it_has(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no int8 model, only fp32"):
        open_embedder(tiny_bundle, precision="int8")


@pytest.mark.parametrize("backend", [name for name, precision in HERE if precision == "int8"])
def test_int8_runs_the_bundles_int8_network_and_is_checked_on_its_samples(backend: str, bundle: Path) -> None:
    add_network(bundle, "int8", network(projection(32, Preprocessing(32, 24), seed=1), Preprocessing(32, 24)))
    with pytest.raises(BundleError, match="other descriptors"):
        open_embedder(bundle, backend, threads=1, precision="int8")
    assert open_embedder(bundle, backend, threads=1).embed([picture(1)]).shape == (1, 32)


def test_auto_takes_the_bundles_default_precision(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(default_precision="int8"))
    assert "int8" in open_embedder(bundle, threads=1).name
    assert "int8" in open_embedder(bundle, "onnxruntime", threads=1).name
    assert "fp32" in open_embedder(bundle, threads=1, precision="fp32").name


def test_a_default_that_the_engine_only_emulates_gives_fp32_and_says_so(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(bundle, lambda manifest: manifest.update(default_precision="fp16"))
    with caplog.at_level("INFO", logger="vgssl_core"):
        assert "fp32" in open_embedder(bundle, "onnxruntime", threads=1).name
    assert "precision auto takes fp32 and not the bundle's fp16: onnxruntime only emulates it" in caplog.text
    assert "fp16" in open_embedder(bundle, "onnxruntime", threads=1, precision="fp16").name


@pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is not installed")
def test_a_default_that_the_asked_engine_has_not_at_all_gives_fp32_and_says_so(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(bundle, lambda manifest: manifest.update(default_precision="fp16"))
    with caplog.at_level("INFO", logger="vgssl_core"):
        assert "fp32" in open_embedder(bundle, "openvino", threads=1).name
    assert "not the bundle's fp16: The backend openvino cannot run here: it has no fp16" in caplog.text
    with pytest.raises(ConfigError, match="no fp16, only fp32, bf16, int8"):
        open_embedder(bundle, "openvino", threads=1, precision="fp16")


@pytest.mark.parametrize("value", ["int4", "", 8, None])
def test_a_default_precision_without_its_network_is_refused(value: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit(folder, lambda manifest: manifest.update(default_precision=value))
    with pytest.raises(BundleError, match="default"):
        load_bundle(folder)


# --- what all engines share


@pytest.mark.parametrize("backend", [name for name, precision in HERE if precision == "fp32"])
def test_descriptors_stay_what_they_were_when_more_images_come(backend: str, tiny_bundle: Path) -> None:
    embedder = open_embedder(tiny_bundle, backend, threads=1)
    first = embedder.embed([picture(1)])
    copy = first.copy()
    second = embedder.embed([picture(2)])
    np.testing.assert_array_equal(first, copy)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("backend", [name for name, precision in HERE if precision == "fp32"])
def test_threads_that_share_an_engine_get_their_own_images_descriptors(backend: str, tiny_bundle: Path) -> None:
    embedder = open_embedder(tiny_bundle, backend, threads=1)
    images = [picture(number, 40 + number, 60) for number in range(64)]
    alone = [embedder.embed([image]) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: embedder.embed([image]), images * 4))
    for number, given in enumerate(together):
        np.testing.assert_array_equal(given, alone[number % len(images)])


@pytest.mark.skipif(load_faiss() is None, reason="without FAISS there are no threads of its")
@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_faiss_lets_its_threads_sleep_unless_the_user_wants_otherwise(given: str | None, expected: str) -> None:
    code = "from vgssl_core.faiss_package import load_faiss; load_faiss(); "
    code += "import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(given), done.stderr
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
