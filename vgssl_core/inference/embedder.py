"""What turns images into descriptors, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image, Preprocessing


class Embedder(Protocol):
    """One interface for ONNX Runtime, OpenVINO, torch and hand-made baselines.

    Attributes:
        model_id: Hash of weights, architecture and preprocessing; maps carry it and refuse another.
        dimension: D, length of a descriptor.
        preprocessing: From an RGB image of any size to the network's input.
    """

    model_id: str
    dimension: int
    preprocessing: Preprocessing

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size."""
        ...
