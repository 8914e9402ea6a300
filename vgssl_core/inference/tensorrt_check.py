"""Whether an engine computes what its network says: the bundle's own samples, through the engine and without it.

Measured thresholds are not to be had before engines have run on many GPUs; these follow from the number formats.

- fp32: engine and ONNX Runtime differ in the order of sums only; fp32 engines agree to a cosine of 1.000000. 0.9999
  leaves room, and is what the export demands of the ONNX file itself.
- fp16: rounds to 11 bits. Engines that round to 8 bits (bf16) reach a cosine of 0.9989 on our networks, and the loss
  goes with the square of the rounding, so that 0.99998 is expected. 0.999 refuses an overflow or a wrong layer, and no
  honest engine.
- int8: a cosine says little about how well places are told apart. 0.9 only refuses rubbish; the ranking decides: for
  every sample, the most similar other one must be the one that it is in fp32, or as similar within 0.02. One sample
  in ten may fail (with fewer than ten: none).

In every precision each sample must find itself first among the samples' fp32 descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vgssl_core.errors import BundleError, DataError
from vgssl_core.imaging import Image
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.embedder import Embedder

#: Precision → the lowest cosine of any sample.
MINIMUM_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.9}
#: Precision → the lowest share of samples whose nearest other sample stays it.
MINIMUM_RANKING = {"fp32": 0.0, "fp16": 0.0, "int8": 0.9}
_SELF_MARGIN, _RANKING_MARGIN = 1e-3, 0.02


@dataclass(frozen=True)
class Agreement:
    """How well descriptors agree with those that were expected.

    Attributes:
        cosine: The lowest cosine of any sample; NaN where a number is none.
        found: Share of samples that find themselves first among the expected ones.
        ranking: Share of samples whose nearest other sample stays it; 1 for a single sample.
    """

    cosine: float
    found: float
    ranking: float

    def __str__(self) -> str:
        return f"cosine ≥ {self.cosine:.6f}, found {self.found:.0%}, ranking {self.ranking:.0%}"

    def suffices(self, precision: str) -> bool:
        """Whether an engine of this precision may be used; NaN may not."""
        return (
            self.cosine >= MINIMUM_COSINE[precision]
            and self.found == 1.0
            and self.ranking >= MINIMUM_RANKING[precision]
        )


def agreement(given: NDArray[np.float32], expected: NDArray[np.float32]) -> Agreement:
    """Compare (S, D) unit rows with those that were expected."""
    if given.shape != expected.shape or not np.isfinite(given).all():
        return Agreement(float("nan"), 0.0, 0.0)
    across = given @ expected.T
    found = np.diagonal(across) >= across.max(1) - _SELF_MARGIN
    ranking = 1.0
    if len(given) > 1:
        others, similar = given @ given.T, expected @ expected.T
        np.fill_diagonal(others, -np.inf)
        np.fill_diagonal(similar, -np.inf)
        chosen = np.take_along_axis(similar, others.argmax(1)[:, None], 1)[:, 0]
        ranking = float(np.mean(chosen >= similar.max(1) - _RANKING_MARGIN))
    return Agreement(float(np.diagonal(across).min()), float(found.mean()), ranking)


def check_cached(embedder: Embedder, bundle: Bundle, precision: str) -> Agreement:
    """Compare an engine that was checked when it was built with the samples' fp32 descriptors.

    Raises:
        BundleError: It is not to be used.
    """
    images, expected = bundle.samples()
    return _demand(_both_ways(embedder, images), expected, precision, f"bundle {bundle.path} holds")


def check_new(embedder: Embedder, bundle: Bundle, precision: str) -> Agreement:
    """Compare an engine with ONNX Runtime on the same file, and with the samples' fp32 descriptors.

    Returns:
        The agreement with the fp32 descriptors.

    Raises:
        BundleError: It is not to be used; tells whether the engine or the file is at fault.
    """
    path = bundle.model_path(precision)
    images, expected = bundle.samples()
    given = _both_ways(embedder, images)
    by_onnxruntime = _onnxruntime(bundle, precision, images)
    _demand(given, by_onnxruntime, precision, f"ONNX Runtime computes from {path}")
    return _demand(given, expected, precision, f"bundle {bundle.path} holds")


def _both_ways(embedder: Embedder, images: Sequence[Image]) -> NDArray[np.float32]:
    """(2 S, D): one at a time as the robot does, then in batches as the building of maps does."""
    try:
        return np.concatenate([*(embedder.embed([image]) for image in images), embedder.embed(images)])
    except DataError as problem:
        raise BundleError(f"The engine is not used: {problem}") from problem


def _onnxruntime(bundle: Bundle, precision: str, images: Sequence[Image]) -> NDArray[np.float32]:
    path = bundle.model_path(precision)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        rows = [session.run(None, {name: bundle.preprocessing(image)[None]})[0] for image in images]
    except Exception as problem:  # The binding raises its own types, which share no base but Exception.
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {path}, and so the engine cannot be checked: {problem}"
        ) from problem
    return np.concatenate(rows)


def _demand(given: NDArray[np.float32], expected: NDArray[np.float32], precision: str, source: str) -> Agreement:
    ways = [agreement(half, expected) for half in np.split(given, 2)]
    for way in ways:
        if not way.suffices(precision):
            raise BundleError(
                f"The {precision} engine is not used, because it computes other descriptors than {source} ({way}; "
                f"needed: cosine ≥ {MINIMUM_COSINE[precision]}, found 100%, ranking ≥ "
                f"{MINIMUM_RANKING[precision]:.0%}). Export the bundle again, or use another precision or backend."
            )
    return min(ways, key=lambda way: way.cosine)
