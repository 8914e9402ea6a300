"""The default engine: ONNX Runtime on the CPU, fp32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Image
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.shapes import check_shapes, network_input


class Embedder:
    """Embeds images with a bundle's fp32 network.

    Attributes:
        package: What must be installed.
        name: Engine and version, for logs and reports.
        model_id, dimension, preprocessing: The bundle's.
    """

    package = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Open the network.

        Args:
            bundle: A checked bundle.
            threads: Threads of the engine; they sleep while they have no work.

        Raises:
            BundleError: The file is no usable network, or its shapes are not the manifest's.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would burn the cores that the robot needs for other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = bundle.model_path("fp32")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # The binding raises its own types, which share no base but Exception.
            raise BundleError(f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {problem}") from problem
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_shapes(bundle, path, [value.shape for value in inputs], [value.shape for value in outputs])
        self._input = inputs[0].name
        self.name = f"onnxruntime {onnxruntime.__version__} (CPU, fp32, {threads} threads)"
        self.model_id, self.dimension, self.preprocessing = bundle.model_id, bundle.dimension, bundle.preprocessing

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        return self._session.run(None, {self._input: network_input(images, self.preprocessing)})[0]
