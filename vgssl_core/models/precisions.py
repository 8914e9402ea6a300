"""The precisions of one export: made, measured beside fp32, and one of them the default."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Preprocessing, read_image

#: Points of Recall@1 that int8 may cost where it is to be what the robot takes unasked.
LARGEST_COST = 1.0
_log = logging.getLogger(__name__)


def low_precisions(
    network: bytes, names: Sequence[str], preprocessing: Preprocessing, calibration: Sequence[Path]
) -> dict[str, bytes]:
    """The network in other precisions than fp32.

    Args:
        network: The fp32 ONNX file.
        names: ``fp16`` and ``int8``; ``fp32`` is left out.
        preprocessing: From an image to the network's input.
        calibration: Image files that int8 takes its scales from.

    Returns:
        Precision → ONNX file.

    Raises:
        BundleError: The network cannot be converted.
        DataError: A calibration image does not decode.
    """
    from vgssl_core.models.low_precision import half, int8

    made = {}
    if "fp16" in names:
        made["fp16"] = half(network)
    if "int8" in names:
        _log.info("int8: scales from %d images.", len(calibration))
        made["int8"] = int8(network, _inputs(calibration, preprocessing))
    return made


def check_default(default: str, recall: Mapping[str, Mapping[int, float]]) -> None:
    """Refuse int8 as default where it costs too much, or where nobody knows what it costs.

    Args:
        default: The precision that is to be the default.
        recall: Precision → N → Recall@N in percent, measured on one set; may be empty.

    Raises:
        ConfigError: Names the cost.
    """
    if default != "int8":
        return
    if "int8" not in recall or "fp32" not in recall:
        raise ConfigError("int8 becomes the default only where its recall is known: give --data, a place set.")
    cost = recall["fp32"][1] - recall["int8"][1]
    if cost > LARGEST_COST:
        raise ConfigError(
            f"int8 costs {cost:.1f} points of Recall@1 ({recall['fp32'][1]:.1f} to {recall['int8'][1]:.1f}); "
            f"as default it may cost {LARGEST_COST:g}: leave --default_precision out or try other --calibration."
        )


def _inputs(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[NDArray[np.float32]]:
    for path in tqdm(paths, desc="calibrate int8", unit="image"):
        yield preprocessing(read_image(path))[None]
