"""Which input size suits a set of images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgssl_core.errors import DataError
from vgssl_core.imaging import read_image

logger = logging.getLogger(__name__)


def input_size(paths: Sequence[Path], pixels: int, multiple: int = 16) -> tuple[int, int]:
    """Network input size for a set: the images' aspect, about ``pixels`` in all, sides divisible by ``multiple``.

    Args:
        paths: Images; the median aspect of a few of them is taken.
        pixels: Width times height to aim at.
        multiple: Divisor of both sides.

    Returns:
        Width, height.

    Raises:
        DataError: None of the images that were looked at decodes.
    """
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, 9).astype(int))]
    aspects = []
    for path in chosen:
        try:
            height, width = read_image(path).shape[:2]
        except DataError as problem:
            logger.debug("size of %s unknown: %s", path, problem)
            continue
        aspects.append(width / height)
    if not aspects:
        raise DataError(f"{len(chosen)} of {len(chosen)} images of {paths[0].parent} do not decode: replace them.")
    aspect = float(np.median(aspects))
    height = max(1, round((pixels / aspect) ** 0.5 / multiple)) * multiple
    width = max(1, round(height * aspect / multiple)) * multiple
    return width, height
