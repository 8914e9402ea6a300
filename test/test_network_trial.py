"""Network files: outlined in Python, then read in a child process, before ONNX Runtime sees a new one here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny import network, projection
from trial_support import watch

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference import onnx_file, trial
from vgssl_core.inference.onnx_file import check_onnx_file
from vgssl_core.inference.trial import try_network

DIMENSION = 16
SIZE = Preprocessing(32, 24)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that were read in a child."""
    return watch(trial, monkeypatch, tmp_path / "cache")


@pytest.fixture
def model() -> onnx.ModelProto:
    return onnx.load_from_string(network(projection(DIMENSION, SIZE, 0), SIZE))


def write_network(path: Path, model: onnx.ModelProto) -> str:
    path.write_bytes(model.SerializeToString())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_good_network_is_read_once_in_a_child(model: onnx.ModelProto, tmp_path: Path, children: list[str]) -> None:
    checksum = write_network(tmp_path / "a.onnx", model)
    for _ in range(2):
        try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)
    assert children == ["a.onnx"]
    with pytest.raises(BundleError, match=r"a\.onnx is no usable network"):
        try_network(tmp_path / "a.onnx", DIMENSION + 1, SIZE.height, SIZE.width, checksum)


def test_another_onnx_runtime_reads_a_network_in_a_child_again(
    model: onnx.ModelProto, tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checksum = write_network(tmp_path / "a.onnx", model)
    try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)
    assert children == ["a.onnx"] * 2


def refer_to_a_file(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../../etc/passwd")


def refer_within_a_node(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["a"], value=tensor))


def refer_deep_within(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    inner.initializer.add(data_location=TensorProto.EXTERNAL)
    branch = helper.make_graph([helper.make_node("If", ["a"], ["b"], then_branch=inner)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["a"], ["b"], then_branch=branch))


def loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["a"], ["b"], body=helper.make_graph([], "body", [], [])))


def nest(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "inner", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["a"], ["b"], then_branch=graph)], "outer", [], [])
    model.graph.node.extend(graph.node)


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "ai.somebody"


def hide_in_a_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def empty(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (refer_to_a_file, "another file"),
        (refer_within_a_node, "another file"),
        (refer_deep_within, "another file"),
        (loop, "the loop Loop"),
        (nest, "nested"),
        (foreign_operator, "ai.somebody"),
        (hide_in_a_function, "functions"),
        (empty, "0 networks"),
    ],
)
def test_what_a_network_may_not_hold_is_refused_before_native_code_sees_it(
    spoil: Callable, words: str, model: onnx.ModelProto, tmp_path: Path, children: list[str]
) -> None:
    spoil(model)
    checksum = write_network(tmp_path / "a.onnx", model)
    with pytest.raises(BundleError, match=words):
        try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)
    assert children == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 100, b"\x07" * 9, b"PK\x03\x04" + bytes(60)],
)
def test_what_is_no_protocol_buffer_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.onnx is refused"):
        check_onnx_file(tmp_path / "a.onnx")
    with pytest.raises(BundleError, match="Cannot read"):
        check_onnx_file(tmp_path / "missing.onnx")


def test_more_fields_than_any_network_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 1000)
    (tmp_path / "a.onnx").write_bytes(b"\x08\x01" * 1001)
    with pytest.raises(BundleError, match="fields"):
        check_onnx_file(tmp_path / "a.onnx")


def test_a_network_that_gives_no_unit_vectors_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.node.pop()
    model.graph.node[-1].output[0] = "descriptor"
    checksum = write_network(tmp_path / "a.onnx", model)
    with pytest.raises(BundleError, match="a descriptor of length"):
        try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)


def test_a_network_that_needs_much_more_memory_than_its_size_explains_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [1], [10**11])),
        helper.make_node("ConstantOfShape", ["shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["image", "sum"], ["descriptor"]),
    ]
    value = helper.make_tensor_value_info
    image = value("image", TensorProto.FLOAT, ["batch", 3, 24, 32])
    graph = helper.make_graph(nodes, "bomb", [image], [value("descriptor", TensorProto.FLOAT, ["batch", 3, 24, 32])])
    bomb = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checksum = write_network(tmp_path / "a.onnx", bomb)
    with pytest.raises(BundleError, match=r"a\.onnx is no usable network"):
        try_network(tmp_path / "a.onnx", DIMENSION, SIZE.height, SIZE.width, checksum)
