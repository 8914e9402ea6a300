"""What turns images into descriptors, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.inference.bundle import Bundle


class Embedder(Protocol):
    """One interface for ONNX Runtime, OpenVINO, TensorRT, torch and hand-made baselines.

    Attributes:
        model_id: Hash of weights, architecture and preprocessing; maps carry it and refuse another.
        dimension: D, length of a descriptor.
        preprocessing: From an RGB image of any size to the network's input.
    """

    model_id: str
    dimension: int
    preprocessing: Preprocessing

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size; new memory at each call."""
        ...


class Engine(Embedder, Protocol):
    """An embedder that runs a bundle: the class ``Embedder`` of the module ``vgssl_core.inference.NAME``.

    Engines keep the memory of one image's input and output. They may be called from several threads, and then work
    for one at a time.

    Attributes:
        package: What must be installed.
        precisions: Those that it can compute in.
        precision: The one that it was opened with.
        name: Engine, version, device, precision and threads, for logs and reports.
    """

    package: str
    precisions: tuple[str, ...]
    precision: str
    name: str

    def __init__(self, bundle: Bundle, threads: int, precision: str) -> None:
        """Open the bundle's network of a precision.

        Raises:
            BundleError: The file is no usable network, or its shapes are not the manifest's.
        """
        ...

    @classmethod
    def obstacle(cls, precision: str) -> str | None:
        """Why it cannot compute on this machine in one of its precisions, and what to do; None where it can.

        The package is there when this is called, and it may be imported.
        """
        ...
