"""The first reading of a network file from elsewhere, in a child process, remembered by the file's checksum."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vgssl_core.errors import BundleError
from vgssl_core.guarded import ChildError, limit_memory, run_guarded
from vgssl_core.inference.onnx_file import check_onnx_file
from vgssl_core.remembered import remember, remembers

#: ONNX Runtime holds the weights several times while it rearranges them, and the activations.
_BYTES_PER_BYTE, _SPARE_BYTES, _FLOATS_PER_PIXEL = 6, 1 << 30, 2048
#: A network that is larger or slower than this for one image is no network for a robot.
_START_S, _BYTES_PER_S = 120, 5_000_000
#: fp16 and int8 networks normalise less exactly.
_UNIT_TOLERANCE = 1e-2
_REMEDY = "Export the bundle again, or get it from where you trust it."


def try_network(path: Path, dimension: int, height: int, width: int, sha256: str) -> None:
    """Require that ONNX Runtime opens a network file and gets a finite unit descriptor from it.

    Call it after `require_unaltered`: the outcome is remembered for these bytes, this ONNX Runtime and these numbers.

    Args:
        path: The file.
        dimension: D.
        height: Of the network's input, in pixels.
        width: Of the network's input, in pixels.
        sha256: The file's checksum.

    Raises:
        BundleError: It is none, crashes or hangs its reader, needs far more memory than its size explains, or gives
            no descriptors.
    """
    import onnxruntime

    subject = f"network {sha256}"
    state = f"{dimension} {height} {width} onnxruntime {onnxruntime.__version__}"
    if remembers(subject, state):
        return
    check_onnx_file(path)
    limit_s = _START_S + os.path.getsize(path) // _BYTES_PER_S
    arguments = {"path": str(path), "dimension": dimension, "height": height, "width": width}
    try:
        run_guarded(f"{__name__}:read_here", arguments, cpu_s=limit_s, wall_s=4 * limit_s)
    except ChildError as problem:
        raise BundleError(f"{path} is no usable network: {problem}. {_REMEDY}") from problem
    remember(subject, state)


def read_here(path: str, dimension: int, height: int, width: int) -> None:
    """Open a network and embed noise in this process, which may be killed by it; raises an error that says why."""
    import onnxruntime

    limit_memory(_BYTES_PER_BYTE * os.path.getsize(path) + 4 * _FLOATS_PER_PIXEL * height * width + _SPARE_BYTES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs instead of one of each")
    # Not zeros: a network that centres its input may rightly have no direction for them.
    noise = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    descriptor = session.run(None, {inputs[0].name: noise})[0]
    shape = getattr(descriptor, "shape", None)
    if shape != (1, dimension):
        raise ValueError(f"it gives {shape} for one image instead of {(1, dimension)}")
    length = float(np.linalg.norm(descriptor.astype(np.float64)))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:
        raise ValueError(f"it gives a descriptor of length {length:g} for one image instead of 1")
