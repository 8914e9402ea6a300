"""Building a TensorRT engine from an ONNX file: what TensorRT says and does in the minutes that it takes.

Only names that the Python bindings of 10.3 and 11 share are used (``test/data/tensorrt_api.json`` is the record). The
network is strongly typed: precisions are those of the ONNX file, and none of TensorRT's choosing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.cuda import Device
from vgssl_core.inference.shapes import check_shapes

#: A robot embeds one image at a time, so one is what the engine is tuned for.
_TUNED_BATCH = 1
_MESSAGE_INTERVAL_S = 10.0
_NAMED_ERRORS = 5
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@functools.cache
def logger() -> Any:
    """What TensorRT tells, as records of this module.

    One for the process: TensorRT itself keeps the first logger that it was given for everything that follows.
    """
    import tensorrt as trt

    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            # The binding refuses objects whose base was not initialised by its own name.
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in levels:  # without VERBOSE, which is tens of thousands of lines
                _log.log(levels[severity], "TensorRT: %s", msg.strip())

    return Logger()


@contextlib.contextmanager
def collected_errors() -> Iterator[list[str]]:
    """The errors that TensorRT tells while the block runs; its functions return only None or false."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collector(logging.ERROR)
    _log.addHandler(handler)
    try:
        yield messages
    finally:
        _log.removeHandler(handler)


def told(messages: list[str]) -> str:
    """The first errors, as the end of a sentence."""
    return " ".join(messages[:_NAMED_ERRORS]) or "TensorRT told no reason."


def in_own_thread(device: Device, call: Callable[[], _Result], cancel: Callable[[], None] = lambda: None) -> _Result:
    """Run a call with the GPU current, in a thread of its own.

    TensorRT calls back into Python. Signals reach Python in the main thread only, so that Ctrl-C never becomes an
    exception in a callback, where TensorRT would swallow it; it is raised here, after ``cancel`` and the call's end.
    """

    def with_gpu() -> _Result:
        with device.current():
            return call()

    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt") as pool:
        try:
            return pool.submit(with_gpu).result()
        except BaseException:
            cancel()
            raise


def build(bundle: Bundle, path: Path, model: bytes, max_batch: int, workspace_mib: int, device: Device) -> bytes:
    """Build an engine for batches of 1 to ``max_batch`` images.

    Args:
        bundle: The bundle, for the shapes.
        path: The ONNX file, for messages.
        model: Its content.
        max_batch: Images in the largest batch.
        workspace_mib: GPU memory in MiB that a layer may use for its work.
        device: The GPU; it is made current.

    Returns:
        The serialised engine.

    Raises:
        BundleError: TensorRT cannot read the file or build it, or its shapes are not the manifest's.
        ConfigError: TensorRT cannot use the GPU.
    """
    started = time.monotonic()
    _log.info(
        "Building a TensorRT engine of %s for %s, batches of 1 to %d. This takes minutes, once.",
        path.name,
        device.description,
        max_batch,
    )
    monitor = _monitor(started)
    plan = in_own_thread(
        device, lambda: _build(bundle, path, model, max_batch, workspace_mib, monitor), monitor.request_cancel
    )
    _log.info("Built in %.0f s: %.1f MiB.", time.monotonic() - started, len(plan) / 2**20)
    return plan


def _build(bundle: Bundle, path: Path, model: bytes, max_batch: int, workspace_mib: int, monitor: Any) -> bytes:
    import tensorrt as trt

    with collected_errors() as errors:
        builder = create(trt.Builder, logger())
        network = builder.create_network(1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED.value)
        parser = trt.OnnxParser(network, logger())
        if not parser.parse(model):
            raise BundleError(f"TensorRT {trt.__version__} cannot read {path}: {_parser_errors(parser)}")
        _check_network(bundle, path, network)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
        # Without this, fp32 products would be rounded to 10 bits of mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        tensor = network.get_input(0)
        shapes = [(count, *tuple(tensor.shape)[1:]) for count in (1, _TUNED_BATCH, max_batch)]
        profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BundleError(
                f"TensorRT {trt.__version__} could not build an engine of {path}: {told(errors)} If memory was short: "
                f"end other programs, or give a smaller workspace_mib than {workspace_mib} or max_batch than "
                f"{max_batch}."
            )
        return bytes(memoryview(plan))


def create(kind: Callable[[Any], _Result], *arguments: Any) -> _Result:
    """Make one of TensorRT's objects.

    Raises:
        ConfigError: TensorRT cannot use the GPU; the binding then raises a TypeError that names no cause.
    """
    with collected_errors() as errors:
        try:
            return kind(*arguments)
        except TypeError as problem:
            raise ConfigError(
                f"TensorRT cannot use the GPU: {told(errors)} Check that its CUDA release is one that the driver "
                "(nvidia-smi) can run, or use the backend onnxruntime."
            ) from problem


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(min(parser.num_errors, _NAMED_ERRORS))]
    lines = [f"{error.desc()} (node {error.node_name()!r}, operator {error.node_operator()!r})" for error in errors]
    more = f"; and {parser.num_errors - len(errors)} more" if parser.num_errors > len(errors) else ""
    return "; ".join(lines) + more + "." if lines else "it told no reason."


def _check_network(bundle: Bundle, path: Path, network: Any) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    check_tensors(bundle, path, *([(tensor.shape, tensor.dtype) for tensor in group] for group in (inputs, outputs)))


def check_tensors(bundle: Bundle, path: Path, inputs: list[tuple[Any, Any]], outputs: list[tuple[Any, Any]]) -> None:
    """Compare the shapes and types that TensorRT sees with the bundle's manifest.

    Args:
        bundle: The bundle.
        path: The ONNX file, for messages.
        inputs: Shape and type of each input; a dynamic length is -1.
        outputs: Shape and type of each output.

    Raises:
        BundleError: They do not fit, or are not float32.
    """
    import tensorrt as trt

    shapes = [[[None if length < 0 else length for length in shape] for shape, _ in side] for side in (inputs, outputs)]
    check_shapes(bundle, path, *shapes)
    if wrong := [kind for _, kind in (*inputs, *outputs) if kind != trt.DataType.FLOAT]:
        raise BundleError(
            f"{path} has an input or output of type {wrong[0]}: both must be float32, whatever the precision inside. "
            "Export the bundle again."
        )


def _monitor(started: float) -> Any:
    """Tells in the log, now and then, how far the build is."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._next_message = started + _MESSAGE_INTERVAL_S
            self._cancelled = False

        def request_cancel(self) -> None:
            self._cancelled = True

        # TensorRT calls the following from several threads, one phase inside another.

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if now >= self._next_message:
                self._next_message = now + _MESSAGE_INTERVAL_S
                steps = self._steps.get(phase_name, 0)
                _log.info("Still building, %.0f s: %s, step %d of %d.", now - started, phase_name, step + 1, steps)
            return not self._cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
