"""Input and output of a network file, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vgssl_core.errors import BundleError
from vgssl_core.inference.bundle import Bundle


def check_shapes(bundle: Bundle, path: Path, inputs: Sequence[Sequence[Any]], outputs: Sequence[Sequence[Any]]) -> None:
    """Compare what the network file says with the bundle's manifest.

    Args:
        bundle: The bundle.
        path: The network file, for the message.
        inputs: Shapes of its inputs; a dynamic length is anything but an int.
        outputs: Shapes of its outputs.

    Raises:
        BundleError: Not one input (batch, 3, height, width) and one output (batch, D), batch dynamic.
    """
    expected_input = [3, bundle.preprocessing.height, bundle.preprocessing.width]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs instead of one of each.")
    for what, shape, expected in (("input", inputs[0], expected_input), ("output", outputs[0], [bundle.dimension])):
        fits = len(shape) == len(expected) + 1 and not isinstance(shape[0], int)
        # A length may be left open by the exporter; then the samples decide.
        fits = fits and all(not isinstance(a, int) or a == b for a, b in zip(shape[1:], expected, strict=True))
        if not fits:
            raise BundleError(
                f"{path} has an {what} of shape {list(shape)}, and the bundle's manifest says "
                f"{['batch', *expected]}: they do not belong together. Export the bundle again."
            )
