"""Floating-point operations of a network, and how many of them a machine can do in a second."""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

#: Convolutions that engines run fastest: channels, kernel, height, width.
_SHAPES = ((256, 3, 60, 80), (512, 3, 30, 40), (1024, 1, 30, 40))


def gflop(path: Path) -> float:
    """10⁹ operations (a multiplication and an addition are two) of convolutions and matrix products for one image.

    ONNX Runtime runs the network once, as it was written, and tells every shape: the file alone does not.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        session.run(None, {image.name: np.zeros((1, *image.shape[1:]), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(_operations(event.get("args", {})) for event in events) / 1e9


def _operations(node: dict[str, Any]) -> int:
    if node.get("op_name") not in ("Conv", "MatMul", "Gemm"):
        return 0
    inputs, (output, *_) = (
        [next(iter(item.values())) for item in node[f"{side}_type_shape"]] for side in ("input", "output")
    )
    # A convolution's weights are (out, in / groups, rows, columns); a product adds over what its output lacks.
    inner = math.prod(inputs[1][1:]) if node["op_name"] == "Conv" else inputs[0][-1]
    return 2 * math.prod(output) * inner


class ConvolutionLimit:
    """The most that large fp32 convolutions reach in ONNX Runtime, whose kernels are among the fastest on CPUs."""

    def __init__(self, threads: int) -> None:
        self._sessions = [_session(shape, threads) for shape in _SHAPES]
        self._seconds: list[list[float]] = [[] for _ in _SHAPES]

    def measure(self) -> None:
        """Once more for each shape; the first time of a turn does not count."""
        for shape, session, seconds in zip(_SHAPES, self._sessions, self._seconds, strict=True):
            channels, _, height, width = shape
            feed = {"x": np.ones((1, channels, height, width), np.float32)}
            session.run(None, feed)
            for _ in range(3):
                begin = time.perf_counter()
                session.run(None, feed)
                seconds.append(time.perf_counter() - begin)

    @property
    def gflops(self) -> float:
        """10⁹ operations per second of the best shape, by its median."""
        work = [2 * c * c * k * k * h * w / 1e9 for c, k, h, w in _SHAPES]
        return max(done / float(np.median(seconds)) for done, seconds in zip(work, self._seconds, strict=True))


def _session(shape: tuple[int, int, int, int], threads: int) -> onnxruntime.InferenceSession:
    channels, kernel, height, width = shape
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((channels, channels, kernel, kernel)).astype(np.float32)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, height, width])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, height, width])
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)
    graph = helper.make_graph([node], "convolution", [image], [output], [onnx.numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
