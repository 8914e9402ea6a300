"""What the TensorRT engine refuses, and what it says."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tensorrt_support import (
    SIZE,
    Machine,
    edit,
    everywhere,
    expected,
    install,
    nothing_is_left,
    on_both_fakes,
    set_model,
)
from tiny import network, picture, projection

from vgssl_core.errors import BundleError, ConfigError, DataError
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import cuda, load_bundle
from vgssl_core.inference.tensorrt import Embedder, Settings

pytest_plugins = ["tensorrt_support"]


# --- what is refused


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bundle's own first reading, which finds such files already: TensorRT must not depend on it."""
    monkeypatch.setattr("vgssl_core.inference.bundle.try_network", lambda *a: None)


@on_both_fakes
@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda values: values * np.nan, "computes no numbers"),
        (lambda values: -values, "cosine ≥ -1.0"),
        (lambda values: np.roll(values, 1, axis=1), "other descriptors than ONNX Runtime computes"),
        (lambda values: np.ones_like(values) / np.sqrt(32), "other descriptors"),
        (lambda values: values[::-1], "found"),  # right one at a time, wrong in batches
        (lambda values: values / 2, "other descriptors"),
    ],
    ids=["nan", "negative", "shifted", "constant", "mixed up", "no unit length"],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_that_computes_something_else_is_refused(
    precision: str, output: Callable, words: str, machine: Machine
) -> None:
    machine.behaviour.output = output
    with pytest.raises(BundleError, match=words):
        machine.open(precision)
    nothing_is_left(machine)


@everywhere
def test_a_file_that_is_not_the_networks_is_refused_though_its_engine_is_right(machine: Machine) -> None:
    set_model(machine.bundle, "fp16", network(projection(32, SIZE, seed=1), SIZE))
    with pytest.raises(BundleError, match="other descriptors than bundle"):
        machine.open()
    assert machine.engines() == []


@everywhere
@pytest.mark.parametrize("wrong", ["input size", "dimension", "fixed batch", "half input"])
def test_shapes_and_types_that_are_not_the_manifests_are_refused(wrong: str, machine: Machine, unread: None) -> None:
    size = Preprocessing(40, 24) if wrong == "input size" else SIZE
    model = onnx.load_model_from_string(network(projection(16 if wrong == "dimension" else 32, size, 0), size))
    if wrong == "fixed batch":
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 2
    elif wrong == "half input":
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["whole"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "whole"
    set_model(machine.bundle, "fp32", model.SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx.*(manifest|float32)"):
        machine.open("fp32")
    assert machine.engines() == []
    if machine.behaviour:
        assert machine.behaviour.builds == 0  # before minutes are spent
        nothing_is_left(machine)


@on_both_fakes
def test_an_engine_whose_batches_are_too_small_is_refused(machine: Machine) -> None:
    machine.behaviour.largest_batch = 2
    with pytest.raises(BundleError, match="batches of 1 to 2 images instead of 1 to 8"):
        machine.open()
    nothing_is_left(machine)


@everywhere
def test_a_file_that_is_no_network_is_refused(machine: Machine, unread: None) -> None:
    set_model(machine.bundle, "fp16", b"\x08\x07" + bytes(500))
    with pytest.raises(BundleError, match=r"cannot read .*model\.fp16\.onnx"):
        machine.open()


@everywhere
def test_a_file_that_is_changed_behind_the_bundles_back_is_not_parsed(machine: Machine) -> None:
    bundle = load_bundle(machine.bundle)
    path = bundle.model_path("fp16")
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(BundleError, match="was changed after the bundle was opened"):
        Embedder(bundle, 1, "fp16", Settings(cache=machine.cache))
    assert machine.engines() == []


@on_both_fakes
def test_the_parsers_errors_are_listed(machine: Machine) -> None:
    machine.behaviour.parse_errors = [(f"no plugin {number}", f"node{number}", "Einsum") for number in range(7)]
    with pytest.raises(BundleError) as caught:
        machine.open()
    text = str(caught.value)
    assert "no plugin 0 (node 'node0', operator 'Einsum')" in text and "no plugin 4" in text
    assert "no plugin 5" not in text and "2 more" in text
    nothing_is_left(machine)


@on_both_fakes
def test_a_build_that_fails_tells_tensorrts_reason(machine: Machine) -> None:
    machine.behaviour.build_error = "Could not find any implementation for node conv1"
    with pytest.raises(BundleError, match=r"Could not find any implementation .* workspace_mib than 1024"):
        machine.open()
    nothing_is_left(machine)


@everywhere
def test_a_precision_that_the_bundle_lacks_is_never_replaced_by_another(machine: Machine) -> None:
    edit(machine.bundle, lambda manifest: manifest["files"].pop("model.int8.onnx"))
    with pytest.raises(BundleError, match="no int8 model"):
        machine.open("int8")
    with pytest.raises(ConfigError, match="no precision 'int4'"):
        machine.open("int4")


@pytest.mark.parametrize("values", [{"max_batch": 0}, {"max_batch": 5000}, {"workspace_mib": 1}])
def test_settings_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Settings(**values)


# --- the machine


@on_both_fakes
def test_too_little_gpu_memory_is_told_with_the_remedy(machine: Machine) -> None:
    machine.driver.memory = 50_000
    with pytest.raises(cuda.CudaError, match=r"out of memory.*smaller max_batch"):
        machine.open()
    machine.driver.memory = 1 << 26
    machine.behaviour.context_error = "Cuda Runtime (out of memory)"
    with pytest.raises(cuda.CudaError, match=r"Runtime \(out of memory\) Give a smaller max_batch"):
        machine.open()
    nothing_is_left(machine)
    machine.behaviour.context_error, machine.behaviour.address_fails = "", True
    with pytest.raises(cuda.CudaError, match="could not run"):
        machine.open()
    nothing_is_left(machine)


@on_both_fakes
@pytest.mark.parametrize("function", sorted(set(cuda.SIGNATURES) - {"cuGetErrorString"}))
def test_every_failure_of_the_driver_is_an_error_of_ours(function: str, machine: Machine) -> None:
    machine.driver.codes[function] = 719
    with pytest.raises(cuda.CudaError, match=f"{function} .* failed: fake failure \\(error 719\\).*onnxruntime"):
        machine.open().close()
    # Freeing itself fails where it is what was broken.
    machine.driver.codes.clear()


@on_both_fakes
def test_a_gpu_that_fails_while_it_runs_is_an_error_and_may_recover(machine: Machine) -> None:
    with machine.open() as embedder:
        machine.driver.codes["cuEventSynchronize"] = 719
        with pytest.raises(cuda.CudaError, match="719"):
            embedder.embed([picture(1)])
        machine.driver.codes.clear()
        machine.behaviour.run_fails = True
        with pytest.raises(cuda.CudaError, match="could not run"):
            embedder.embed([picture(1)])
        machine.behaviour.run_fails = False
        np.testing.assert_allclose(embedder.embed([picture(1)]), expected([picture(1)]), atol=1e-2)
        machine.behaviour.output = lambda values: values * np.inf
        with pytest.raises(DataError, match="no numbers"):
            embedder.embed([picture(1)])


@on_both_fakes
@pytest.mark.parametrize("missing", ["library", "gpu", "driver too old", "hidden"])
def test_without_a_gpu_tensorrt_is_not_touched(missing: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "library":

        def absent(name: str) -> None:
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", absent)
    elif missing == "hidden":
        machine.driver.gpus = 0
    else:
        machine.driver.codes["cuInit"] = {"gpu": 100, "driver too old": 35}[missing]
    sys.modules["tensorrt"].Builder = sys.modules["tensorrt"].Runtime = None
    with pytest.raises(cuda.CudaError, match="onnxruntime") as caught:
        machine.open()
    assert Embedder.obstacle("fp16") == str(caught.value).rstrip(".")


@on_both_fakes
def test_a_gpu_that_tensorrt_cannot_use_is_told(machine: Machine) -> None:
    assert Embedder.obstacle("fp16") is None
    machine.behaviour.builder_refused = True
    with pytest.raises(ConfigError, match="CUDA initialization failure with error: 35"):
        machine.open()
    nothing_is_left(machine)


@pytest.mark.parametrize("version", ["8.6.1", "8.6.2.3", "10.2.0.post1", "10", "rubbish"])
def test_an_old_version_is_refused_with_the_remedy(
    version: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(machine, version, monkeypatch)
    with pytest.raises(ConfigError, match=rf"TensorRT {version} is too old: 10.3 .*JetPack 6\.1.*tensorrt>=10\.3"):
        machine.open()
    assert "too old" in (Embedder.obstacle("fp16") or "")


@pytest.mark.parametrize(
    ("version", "warns"), [("10.3.0", False), ("10.16.1", False), ("11.9", False), ("12.0.0.1", True)]
)
def test_a_version_that_nobody_tried_is_used_with_a_warning(
    version: str, warns: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(machine, version, monkeypatch)
    machine.open().close()
    assert ("newer than the versions that were tried" in caplog.text) == warns


def test_a_package_whose_libraries_are_missing_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigError, match=r"cannot be imported .*python3-libnvinfer"):
        machine.open()
