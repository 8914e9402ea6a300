"""Machines with a GPU for tests of TensorRT, real or not, and a bundle in all three precisions."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from fake_cuda import FakeDriver
from fake_tensorrt import Behaviour, make_tensorrt
from onnx import TensorProto, helper, numpy_helper
from tiny import projection, reference_descriptors

from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import cuda, load_bundle, tensorrt_build
from vgssl_core.inference.tensorrt import Embedder, Settings
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

SIZE = Preprocessing(32, 24)
VERSIONS = ["10.3.0", "11.4.0.106"]
NO_REAL_ONE = (
    "the package tensorrt is not installed"
    if importlib.util.find_spec("tensorrt") is None
    else Embedder.obstacle("fp32") or ""
)
REAL = pytest.param("real", marks=pytest.mark.skipif(bool(NO_REAL_ONE), reason=NO_REAL_ONE or "runs"))


@dataclass
class Machine:
    """A machine with a GPU, real (no driver, no behaviour) or not."""

    bundle: Path
    cache: Path
    driver: Any = None
    behaviour: Any = None

    def open(self, precision: str = "fp16", **settings: Any) -> Embedder:
        return Embedder(load_bundle(self.bundle), 1, precision, Settings(**{"cache": self.cache, **settings}))

    def engines(self) -> list[Path]:
        return [item for item in self.cache.iterdir() if not item.name.startswith(".")] if self.cache.exists() else []


@pytest.fixture(scope="module")
def precise_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle in all three precisions."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("precise") / "bundle"))
    for precision, make in {"fp16": half, "int8": quantised}.items():
        set_model(folder, precision, make(onnx.load(folder / "model.onnx")))
    return folder


def set_model(folder: Path, precision: str, model: bytes) -> None:
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    (folder / name).write_bytes(model)
    entry = {"sha256": sha256(folder / name), "bytes": len(model), "precision": precision}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a bundle's manifest and seal it anew."""
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text())
    change(manifest)
    manifest.pop(SEAL)
    write_sealed(folder / "bundle.yaml", manifest)


def half(model: onnx.ModelProto) -> bytes:
    """The product in fp16, input and output in fp32."""
    weights = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights.astype(np.float16), "projection"))
    index = next(i for i, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    model.graph.node[index].input[0], model.graph.node[index].output[0] = "centred_half", "projected_half"
    model.graph.node.insert(
        index + 1, helper.make_node("Cast", ["projected_half"], ["projected"], to=TensorProto.FLOAT)
    )
    model.graph.node.insert(index, helper.make_node("Cast", ["centred"], ["centred_half"], to=TensorProto.FLOAT16))
    return model.SerializeToString()


def quantised(model: onnx.ModelProto) -> bytes:
    """The product with symmetric int8 factors, as quantise and dequantise nodes."""
    weights = numpy_helper.to_array(model.graph.initializer[0])
    scale = np.float32(np.abs(weights).max() / 127)
    stored = {
        "stored": np.round(weights / scale).astype(np.int8),
        "scale": scale,
        "input_scale": np.float32(4 / 127),
        "zero": np.int8(0),
    }
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items())
    index = next(i for i, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    model.graph.node[index].input[0] = "rounded"
    for kind, inputs, output in (
        ("DequantizeLinear", ["stored", "scale", "zero"], "projection"),
        ("DequantizeLinear", ["quantised", "input_scale", "zero"], "rounded"),
        ("QuantizeLinear", ["centred", "input_scale", "zero"], "quantised"),
    ):
        model.graph.node.insert(index, helper.make_node(kind, inputs, [output]))
    return model.SerializeToString()


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, precise_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """Indirectly parametrised: the version of a fake, or ``real``."""
    version = getattr(request, "param", VERSIONS[0])
    bundle = Path(shutil.copytree(precise_bundle, tmp_path / "bundle"))
    tensorrt_build.logger.cache_clear()
    if version == "real":
        yield Machine(bundle, tmp_path / "cache")
    else:
        machine = Machine(bundle, tmp_path / "cache", FakeDriver(), Behaviour())
        install(machine, version, monkeypatch)
        yield machine
        assert machine.driver.violations == []
    tensorrt_build.logger.cache_clear()


def install(machine: Machine, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, machine.driver, machine.behaviour))
    load = ctypes.CDLL
    monkeypatch.setattr(
        ctypes,
        "CDLL",
        lambda name, *a, **k: machine.driver.library if name == cuda.LIBRARY else load(name, *a, **k),
    )


everywhere = pytest.mark.parametrize("machine", [*VERSIONS, REAL], indirect=True)
on_both_fakes = pytest.mark.parametrize("machine", VERSIONS, indirect=True)


def expected(images: list) -> np.ndarray:
    return reference_descriptors(images, projection(32, SIZE, 0), SIZE)


def nothing_is_left(machine: Machine) -> None:
    assert machine.driver.held == (0, 0, 0, 0)
    assert machine.engines() == []
