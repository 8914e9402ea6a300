"""OpenVINO on the CPU, fp32 (``pip install 'vgssl_ros[openvino]'``); faster than ONNX Runtime on transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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

    package = "openvino"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Compile the network.

        Args:
            bundle: A checked bundle.
            threads: Threads of the engine.

        Raises:
            BundleError: The file is no usable network, or its shapes are not the manifest's.
        """
        import openvino

        path = bundle.model_path("fp32")
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = openvino.Core().read_model(str(path))
            shapes = [
                [[length.get_length() if length.is_static else None for length in port.partial_shape] for port in ports]
                for ports in (model.inputs, model.outputs)
            ]
            check_shapes(bundle, path, *shapes)
            self._network = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as problem:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot open {path}: {problem}") from problem
        version = openvino.__version__.split("-")[0]
        self.name = f"openvino {version} (CPU, fp32, {threads} threads)"
        self.model_id, self.dimension, self.preprocessing = bundle.model_id, bundle.dimension, bundle.preprocessing

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        return np.array(self._network(network_input(images, self.preprocessing))[0])
