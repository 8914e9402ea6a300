"""Random streams of a training, one for each purpose, so that no two draw the same numbers."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What random numbers are for; the first word of their seed."""

    ORDER = 1
    MINING = 2
    AUGMENTATION = 3
    CLUSTERS = 4


def generator(purpose: Stream, *numbers: int) -> np.random.Generator:
    """Source of the draws for one purpose at one place of the training.

    Args:
        purpose: What the draws are for.
        numbers: The training's seed, then where in the training it stands; as many for each call of one purpose.
    """
    return np.random.default_rng((int(purpose), *numbers))
