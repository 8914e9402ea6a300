"""OpenVINO on the CPU (``pip install 'vgssl_ros[openvino]'``): bfloat16, int8, and fast transformers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Image
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.cpu import has_bf16
from vgssl_core.inference.input_buffer import InputBuffer
from vgssl_core.inference.shapes import check_shapes

_BF16 = "bf16"


class Embedder:
    """Embeds images with a bundle's network; see `vgssl_core.inference.embedder.Engine`.

    bf16 computes the fp32 network's matrix products in bfloat16; int8 needs the bundle's int8 network.
    """

    package = "openvino"
    precisions = ("fp32", _BF16, "int8")

    def __init__(self, bundle: Bundle, threads: int, precision: str = "fp32") -> None:
        """Compile the network.

        Args:
            bundle: A checked bundle.
            threads: Threads of the engine; they sleep while they have no work.
            precision: One of `precisions`.

        Raises:
            BundleError: The bundle has no network of that precision, the file is no usable network, or its shapes are
                not the manifest's.
        """
        import openvino

        path = bundle.model_path("fp32" if precision == _BF16 else precision)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == _BF16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            shapes = [
                [[length.get_length() if length.is_static else None for length in port.partial_shape] for port in ports]
                for ports in (model.inputs, model.outputs)
            ]
            check_shapes(bundle, path, *shapes)
            self._network = core.compile_model(model, "CPU", settings)
        except RuntimeError as problem:
            raise BundleError(f"OpenVINO {openvino.__version__} cannot open {path}: {problem}") from problem
        self._buffer, self._lock = InputBuffer(bundle.preprocessing), threading.Lock()
        self._request = self._network.create_infer_request()
        version = openvino.__version__.split("-")[0]
        self.name = f"openvino {version} (CPU, {precision}, {threads} threads)"
        self.precision = precision
        self.model_id, self.dimension, self.preprocessing = bundle.model_id, bundle.dimension, bundle.preprocessing

    @classmethod
    def obstacle(cls, precision: str) -> str | None:
        """Why it cannot compute in a precision on this CPU; None where it can."""
        if precision != _BF16:
            return None
        import openvino

        return bf16_obstacle(has_bf16(), openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        with self._lock:
            batch = self._buffer.fill(images)
            return np.array(self._request.infer([batch], share_inputs=True, share_outputs=True)[0])


def bf16_obstacle(cpu_has_it: bool, capabilities: Sequence[str]) -> str | None:
    """Why bfloat16 is not to be used: neither emulation nor another precision in its place is what was asked for.

    Args:
        cpu_has_it: Whether the CPU has the instructions.
        capabilities: What OpenVINO says that it computes in on this CPU.
    """
    if not cpu_has_it:
        return "this CPU has no bfloat16 instructions (AVX512_BF16, AMX or Arm's BF16): take fp32 or int8"
    if "BF16" not in capabilities:
        return "this OpenVINO does not compute in bfloat16 on this CPU: update it, or take fp32 or int8"
    return None
