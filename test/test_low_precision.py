"""The network in fp16 and int8: the graph says what is computed in which type, and the descriptors stay."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import build_network
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.low_precision import half, int8
from vgssl_core.models.onnx_export import export_onnx

NETWORKS = {
    "convolutions": {"backbone": "test_resnet", "pooling": "gem", "descriptor_dim": 16},
    "transformer": {"backbone": "test_vit", "pooling": "cls", "descriptor_dim": 16, "width": 64, "height": 48},
}


@functools.cache
def exported(kind: str) -> bytes:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(pretrained=False, **NETWORKS[kind]))
    return export_onnx(network, Preprocessing(64, 48))


def inputs(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, 48, 64)).astype(np.float32)


def descriptors(network: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float)"
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def types(network: bytes) -> dict[str, int]:
    """Element type of every value."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(network), strict_mode=True)
    known = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in known}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_half_precision_gives_the_same_descriptors_for_any_batch(kind: str, count: int) -> None:
    images = inputs(count)
    given, expected = descriptors(half(exported(kind)), images), descriptors(exported(kind), images)
    assert np.sum(given * expected, axis=1).min() > 0.9999
    assert np.linalg.norm(given, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_precision_computes_products_in_float16_and_sums_over_many_values_in_float32(kind: str) -> None:
    network = half(exported(kind))
    model, known = onnx.load_from_string(network), types(network)
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    assert products and all(known[node.output[0]] == TensorProto.FLOAT16 for node in products)
    sums = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "ReduceL2", "Pow")]
    assert sums and all(known[node.output[0]] == TensorProto.FLOAT for node in sums)
    head = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    assert known[head.output[0]] == TensorProto.FLOAT
    assert len(network) < 0.65 * len(exported(kind))


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_value_is_cast_twice(kind: str) -> None:
    casts = [node for node in onnx.load_from_string(half(exported(kind))).graph.node if node.op_type == "Cast"]
    assert len({node.input[0] for node in casts}) == len(casts)
    assert kind == "transformer" or len(casts) == 2  # behind the image, and before pooling


def test_weights_beyond_float16_are_refused() -> None:
    model = onnx.load_from_string(exported("convolutions"))
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e6
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(BundleError, match="beyond 65504"):
        half(model.SerializeToString())


@pytest.mark.parametrize("kind", NETWORKS)
def test_int8_is_symmetric_per_channel_and_leaves_pooling_and_head_alone(kind: str) -> None:
    network = int8(exported(kind), (image[None] for image in inputs(8)))
    model = onnx.load_from_string(network)
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    quantised = [node for node in products if all(made[name].op_type == "DequantizeLinear" for name in node.input[:2])]
    assert quantised and products[-1] not in quantised  # the head
    scaling = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [weights[node.input[2]] for node in scaling]
    assert all(not np.any(point) and point.dtype in (np.int8, np.int32) for point in zero_points)
    scales = [weights[made[node.input[1]].input[1]] for node in quantised]
    assert any(scale.size > 1 for scale in scales)
    images = inputs(4)
    assert np.sum(descriptors(network, images) * descriptors(exported(kind), images), axis=1).min() > 0.95


def test_a_network_without_products_is_refused() -> None:
    nodes = [onnx.helper.make_node("Flatten", ["image"], ["descriptor"])]
    values = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", 3, 4, 4]), ("descriptor", ["batch", 48]))
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "flat", values[:1], values[1:]))
    with pytest.raises(BundleError, match="no convolution"):
        int8(model.SerializeToString(), [])
