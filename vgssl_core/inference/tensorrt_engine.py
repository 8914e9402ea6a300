"""A TensorRT engine that is ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vgssl_core.errors import BundleError
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.cuda import Buffer, CudaError, Device
from vgssl_core.inference.tensorrt_build import check_tensors, collected_errors, create, in_own_thread, logger, told


class Engine:
    """Turns an input buffer into an output buffer.

    Attributes:
        input: (max_batch, 3, height, width) normalised images; the caller fills ``input.host``.
        output: (max_batch, D); `run` fills ``output.host``.
    """

    def __init__(self, plan: bytes, bundle: Bundle, path: Path, buffers: tuple[Buffer, Buffer], device: Device) -> None:
        """Load a serialised engine.

        Args:
            plan: What TensorRT serialised, from a source that is trusted: it holds native code.
            bundle: The bundle, for the shapes.
            path: The ONNX file, for messages.
            buffers: Input and output.
            device: The GPU; it is made current.

        Raises:
            BundleError: TensorRT refuses the engine, or its shapes are not the manifest's.
            CudaError: The GPU has not enough memory.
        """
        self.input, self.output = buffers
        self._device = device
        self._count = 0
        self._context = self._engine = self._runtime = None
        try:
            in_own_thread(device, lambda: self._load(plan, bundle, path))
        except BaseException:
            self.close()
            raise

    def _load(self, plan: bytes, bundle: Bundle, path: Path) -> None:
        import tensorrt as trt

        with collected_errors() as errors:
            self._runtime = create(trt.Runtime, logger())
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise BundleError(f"TensorRT {trt.__version__} refuses the engine of {path}: {told(errors)}")
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            sides = [
                [name for name in names if self._engine.get_tensor_mode(name) == mode]
                for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT)
            ]
            check_tensors(bundle, path, *([self._shape_and_type(name) for name in side] for side in sides))
            self._input_name, output_name = sides[0][0], sides[1][0]
            self._check_profile(path)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise CudaError(
                    f"The GPU has not enough memory for {path.name} at batches of up to {len(self.input.host)}: "
                    f"{told(errors)} Give a smaller max_batch, or end other programs that hold GPU memory."
                )
            _check(self._context.set_tensor_address(self._input_name, self.input.address))
            _check(self._context.set_tensor_address(output_name, self.output.address))

    def _shape_and_type(self, name: str) -> tuple[Any, Any]:
        return self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name)

    def _check_profile(self, path: Path) -> None:
        smallest, _, largest = (shape[0] for shape in self._engine.get_tensor_profile_shape(self._input_name, 0))
        if smallest > 1 or largest < len(self.input.host):
            raise BundleError(
                f"The engine of {path} takes batches of {smallest} to {largest} images instead of 1 to "
                f"{len(self.input.host)}."
            )

    def run(self, count: int) -> None:
        """Compute the first ``count`` rows; the GPU must be current.

        Raises:
            CudaError: The GPU failed.
        """
        if count != self._count:
            _check(self._context.set_input_shape(self._input_name, (count, *self.input.host.shape[1:])))
            self._count = count
        self._device.copy("gpu", self.input, count)
        _check(self._context.execute_async_v3(self._device.stream))
        self._device.copy("host", self.output, count)
        self._device.synchronize()

    def close(self) -> None:
        """Free what TensorRT holds, in the order that it asks for."""
        with self._device.current():
            self._context = self._engine = self._runtime = None


def _check(success: bool) -> None:
    if not success:
        raise CudaError("TensorRT could not run its engine; its own messages stand before this one in the log.")
