"""The default engine: ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Image
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.input_buffer import InputBuffer
from vgssl_core.inference.shapes import check_shapes


class Embedder:
    """Embeds images with a bundle's network; see `vgssl_core.inference.embedder.Engine`."""

    package = "onnxruntime"
    #: A CPU has no arithmetic in fp16: it is there to measure what a GPU will recall.
    precisions = ("fp32", "fp16", "int8")

    def __init__(self, bundle: Bundle, threads: int, precision: str = "fp32") -> None:
        """Open the network.

        Args:
            bundle: A checked bundle.
            threads: Threads of the engine; they sleep while they have no work.
            precision: One of `precisions`.

        Raises:
            BundleError: The bundle has no network of that precision, the file is no usable network, or its shapes are
                not the manifest's.
        """
        path = bundle.model_path(precision)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), _options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # The binding raises its own types, which share no base but Exception.
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {problem}") from problem
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_shapes(bundle, path, [value.shape for value in inputs], [value.shape for value in outputs])
        self._input = inputs[0].name
        self._buffer, self._lock = InputBuffer(bundle.preprocessing), threading.Lock()
        self.name = f"onnxruntime {onnxruntime.__version__} (CPU, {precision}, {threads} threads)"
        self.precision = precision
        self.model_id, self.dimension, self.preprocessing = bundle.model_id, bundle.dimension, bundle.preprocessing

    @classmethod
    def obstacle(cls, precision: str) -> str | None:
        """None: it runs on every CPU."""
        return None

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        with self._lock:
            return self._session.run(None, {self._input: self._buffer.fill(images)})[0]


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Spinning threads would burn the cores that the robot needs for other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
