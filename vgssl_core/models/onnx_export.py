"""From a torch network to ONNX, checked against torch on real images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import onnxscript.ir
import onnxscript.optimizer
import torch
from numpy.typing import NDArray

from vgssl_core.errors import BundleError
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.models.embedder import TorchEmbedder
from vgssl_core.models.foreign import ForeignNet
from vgssl_core.models.network import DescriptorNet

OPSET = 18
INPUT, OUTPUT = "image", "descriptor"
#: The exported network must agree with torch at least this well on every image.
MINIMUM_COSINE = 0.9999


def export_onnx(network: DescriptorNet | ForeignNet, preprocessing: Preprocessing) -> bytes:
    """The network as one ONNX file: (batch, 3, height, width) float32 to (batch, D), batch dynamic.

    Every weight stays in it under its name of torch, so that a bundle can be trained on (`initial`): engines fold batch
    norms and transposes themselves when they load it.

    Args:
        network: On the CPU.
        preprocessing: Its size is the input's.

    Raises:
        BundleError: The network does what ONNX cannot express.
    """
    example = torch.zeros(2, 3, preprocessing.height, preprocessing.width)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as problem:
            reason = " ".join(str(problem.__cause__ or problem).split())[:300]
            raise BundleError(f"The network cannot be written as ONNX ({reason}): try another one.") from problem
        assert program is not None
        _fold_constants(program.model, set(network.state_dict()))
        path = Path(folder) / "model.onnx"
        program.save(path, external_data=False)
        return path.read_bytes()


def _fold_constants(model: onnxscript.ir.Model, weights: set[str]) -> None:
    """Compute what is the same for every image, such as biases of zeros, but nothing that would replace a weight."""

    def should_fold(node: onnxscript.ir.Node) -> bool | None:
        reads_weight = any(value is not None and value.name in weights for value in node.inputs)
        return False if reads_weight and node.op_type != "Shape" else None

    onnxscript.optimizer.fold_constants(model, should_fold=should_fold, onnx_shape_inference=True)
    onnxscript.optimizer.remove_unused_nodes(model)


def verified_descriptors(
    onnx: bytes, network: DescriptorNet | ForeignNet, preprocessing: Preprocessing, images: Sequence[Image]
) -> tuple[NDArray[np.float32], float]:
    """Compare ONNX Runtime with torch, image by image and as one batch.

    Args:
        onnx: The exported network.
        network: What it was exported from.
        preprocessing: From image to network input.
        images: Real images.

    Returns:
        Torch's (N, D) descriptors, and the lowest cosine between the two.

    Raises:
        BundleError: The exported network does not run, or a cosine is below `MINIMUM_COSINE`.
    """
    expected = TorchEmbedder(network, preprocessing).embed(images)
    pixels = np.stack([preprocessing(image) for image in images])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        single = [session.run([OUTPUT], {INPUT: pixels[i : i + 1]})[0] for i in range(len(pixels))]
        given = np.concatenate([*single, session.run([OUTPUT], {INPUT: pixels})[0]])
    except Exception as problem:  # the binding raises its own types, which share no base but Exception
        raise BundleError(
            f"The exported network does not run in ONNX Runtime ({problem}): try another network (--backbone)."
        ) from problem
    if given.shape != (2 * len(images), expected.shape[1]):
        raise BundleError(
            f"The exported network gives descriptors of shape {given.shape}: try another network (--backbone)."
        )
    lowest = float(np.sum(given * np.tile(expected, (2, 1)), axis=1).min())
    # Written so that NaN fails too.
    if not lowest >= MINIMUM_COSINE:
        raise BundleError(
            f"The exported network differs from torch (cosine {lowest:.6f} < {MINIMUM_COSINE} on {len(images)} real "
            "images): nothing was written. Try another network (--backbone), and report this."
        )
    return expected, lowest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports its own progress and deprecations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
