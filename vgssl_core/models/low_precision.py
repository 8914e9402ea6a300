"""The exported network in fp16 or int8, written into the graph, so that every engine computes the same.

What is computed in which type stands in the ONNX file itself: engines that choose it on their own differ between
versions. Pooling, head and normalisation stay float32 in both: GeM's third power overflows float16 above 40, and they
cost next to nothing.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common
import onnxscript.optimizer
import onnxscript.rewriter
import onnxscript.rewriter.rules.common
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from vgssl_core.errors import BundleError

_FOLDING = onnxscript.rewriter.RewriteRuleSet(
    [
        onnxscript.rewriter.rules.common.fuse_batchnorm_into_conv_rule,
        onnxscript.rewriter.rules.common.fuse_batchnorm_into_gemm_rule,
    ]
)
#: Where the exporter of torch notes the modules that a node comes from.
_SCOPES = "pkg.torch.onnx.name_scopes"
_BACKBONES = ("backbone", "network")
#: Sums over many values and large powers: float16 would lose digits or overflow.
_FLOAT32_OPERATORS = (
    *(
        "LayerNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "ReduceL2",
        "ReduceMean",
        "ReduceSum",
    ),
    *("Pow", "ReduceSumSquare", "Sqrt", "Reciprocal", "LpNormalization", "Resize"),
    *("Cast", "CastLike", "ConstantOfShape"),  # these have a type of their own
)
_INT8_OPERATORS = ("Conv", "MatMul", "Gemm")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_LARGEST_HALF = 65504.0
#: Numbers in one weight; an ONNX file has 2 GB at most.
_LARGEST_WEIGHT = 2**29


def half(network: bytes) -> bytes:
    """The network with its backbone in float16, but for sums over many values; input and output stay float32.

    Args:
        network: The fp32 ONNX file.

    Raises:
        BundleError: A weight is too large for float16.
    """
    model = _folded(network)
    casts = _Casts(model.graph)
    for node in list(model.graph):
        in_half = _in_backbone(node) and node.op_type not in _FLOAT32_OPERATORS
        wanted = ir.DataType.FLOAT16 if in_half else ir.DataType.FLOAT
        for number, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS and value.dtype != wanted and node.op_type != "Shape":
                node.replace_input_with(number, casts.to(value, wanted))
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.dtype = wanted
    return _checked(model)


class _Casts:
    """One cast of each value, right behind it; weights are converted instead."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[ir.Value, ir.Value] = {}

    def to(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in the other of the two types."""
        if value not in self._made:
            self._made[value] = self._converted(value) if value.is_initializer() else self._cast(value, dtype)
        return self._made[value]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}_{dtype.name.lower()}"
        output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[output], name=f"cast_{name}")
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], cast)
        else:
            self._graph.insert_after(producer, cast)
        return output

    def _converted(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        weights = value.const_value.numpy()
        if not np.abs(weights, where=np.isfinite(weights), out=np.zeros_like(weights)).max(initial=0) < _LARGEST_HALF:
            raise BundleError(f"The network's {value.name} holds values beyond {_LARGEST_HALF}: fp16 cannot.")
        with np.errstate(over="ignore"):  # bounds of a clip are infinite
            tensor = ir.tensor(weights.astype(np.float16), name=f"{value.name}_float16")
        converted = ir.Value(name=tensor.name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(converted)
        return converted


def int8(network: bytes, calibration: Iterable[NDArray[np.float32]]) -> bytes:
    """The network with the backbone's convolutions and products in int8: symmetric, weights per channel, as Q/DQ nodes.

    Args:
        network: The fp32 ONNX file.
        calibration: Network inputs (1, 3, height, width) of typical images; their ranges become the scales.

    Raises:
        BundleError: The graph cannot be quantised, or has nothing to quantise.
    """
    model = _folded(network)
    chosen = [node.name for node in model.graph if _in_backbone(node) and node.op_type in _INT8_OPERATORS]
    if not chosen:
        raise BundleError("The network has no convolution or matrix product that int8 could compute: export fp32 only.")
    prepared = ir.serde.serialize_model(model)
    add_pre_process_metadata(prepared)  # else the quantiser recommends what was done above
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.int8.onnx"
        try:
            quantize_static(
                prepared,
                path,
                _Reader(model.graph.inputs[0].name, calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_quantize=chosen,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except Exception as problem:  # the quantiser raises what it happens upon
            raise BundleError(f"The network cannot be written in int8 ({problem}): export fp32 only.") from problem
        return path.read_bytes()


class _Reader(CalibrationDataReader):
    """Feeds calibration inputs one by one."""

    def __init__(self, name: str, inputs: Iterable[NDArray[np.float32]]) -> None:
        self._name, self._inputs = name, iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed, None at the end."""
        value = next(self._inputs, None)
        return None if value is None else {self._name: value}


def _folded(network: bytes) -> ir.Model:
    """The graph with constants and batch norms folded into weights, constants among the weights, and known types."""
    model = ir.serde.deserialize_model(onnx.load_from_string(network))
    # Weights that are transposed before use would not be found: what is the same for every image is computed here.
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_LARGEST_WEIGHT, output_size_limit=_LARGEST_WEIGHT
    )
    onnxscript.rewriter.rewrite(model, pattern_rewrite_rules=_FOLDING)
    onnxscript.optimizer.remove_unused_nodes(model)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for number, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return ir.passes.common.ShapeInferencePass()(model).model


def _checked(model: ir.Model) -> bytes:
    onnxscript.optimizer.remove_unused_nodes(model)  # weights that are no longer read in float32
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _in_backbone(node: ir.Node) -> bool:
    """Whether a node comes from the backbone of a `DescriptorNet`, or from the network of a `ForeignNet`."""
    path = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))  # the exporter writes Python's notation
    return len(path) > 1 and path[1] in _BACKBONES
