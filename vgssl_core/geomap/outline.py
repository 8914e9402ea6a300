"""Outlines: a few numbers of each descriptor that bound every distance from below, so that a search may skip the rest.

Descriptors of trained networks lie near few axes. An outline holds the coordinates along 47 of these and the length of
all that is left. Of two descriptors q and x with coordinates a, b and lengths r, s

    |q - x|^2 = |a - b|^2 + |rest of q - rest of x|^2 >= |a - b|^2 + (r - s)^2,

which is the squared distance of their outlines: an image whose outline is farther away than the k-th best is not among
the k nearest, and its descriptor need not be read.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.arrays import open_array
from vgssl_core.errors import MapError
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.index.entry import OutlineEntry
from vgssl_core.geomap.rows import save_blocks
from vgssl_core.storage import atomic_file, sha256
from vgssl_core.verified import require_inside, require_unaltered

#: Numbers of an outline.
COLUMNS = 48
#: Outlines of shorter descriptors would save little.
_LEAST_DIMENSION = 2 * COLUMNS
#: Of the variance that the axes must hold: with less, the bounds exclude too few images.
_LEAST_SHARE = 0.95
#: Rows from which the axes come, fewer where descriptors are long, and steps of the iteration.
_SAMPLE, _SAMPLE_VALUES, _STEPS = 8192, 1 << 26, 6
_VALUES_AT_ONCE = 1 << 21
#: More than the rounding of bounds and distances in float32, for descriptors of about unit length.
_ROUNDING = 1e-5
#: Outlines that each load compares with the descriptors, and by how much a number may differ.
_LOOKED_AT, _SAME = 64, 1e-5
_REMEDY = "Make the index anew with `vgssl map index MAP`."


class Outline:
    """Outlines of a map's first N images.

    Attributes:
        rows: (N, 48) float32.
    """

    def __init__(self, turn: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
        """Take what a file holds.

        Args:
            turn: (D, 48): the mean, and 47 axes that are orthonormal but for rounding, which is undone here.
            rows: (N, 48) float32.
        """
        self._mean = turn[:, 0].astype(np.float64)
        axes, triangle = np.linalg.qr(turn[:, 1:].astype(np.float64))
        self._axes = axes * np.sign(np.diag(triangle))
        # As a plain array, because slicing a np.memmap takes microseconds.
        self.rows = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, descriptors: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, 48) float32 outlines of (n, D) descriptors."""
        centred = descriptors - self._mean
        along = centred @ self._axes
        rest = np.einsum("nd,nd->n", centred, centred) - np.einsum("nd,nd->n", along, along)
        return np.concatenate([along, np.sqrt(np.maximum(rest, 0.0))[:, None]], axis=1, dtype=np.float32)


def slack(outline: NDArray[np.float32]) -> float:
    """By how much rounding may lift the bound of a squared distance from a query, given its outline."""
    return _ROUNDING * (1.0 + float(outline @ outline))


def write_outline(blocks: Blocks, path: Path, seed: int = 0) -> OutlineEntry | None:
    """Write the outlines of all descriptors, aside and renamed; or nothing, where they would not help.

    Args:
        blocks: The descriptors.
        path: File to write: a ``.npy`` of (D + N, 48) float32, whose first D rows hold the mean and the axes.
        seed: Of the sample from which the axes come.

    Returns:
        What the manifest says about the file; None where descriptors are short, or spread over too many axes.
    """
    if blocks.dimension < _LEAST_DIMENSION:
        return None
    rng = np.random.default_rng(seed)
    wanted = min(_SAMPLE, len(blocks), max(_SAMPLE_VALUES // blocks.dimension, COLUMNS))
    sample = blocks.take(np.sort(rng.choice(len(blocks), wanted, replace=False)))
    mean = sample.mean(axis=0)
    sample -= mean
    axes = _principal_axes(sample, rng)
    along = sample @ axes
    if np.einsum("nd,nd", along, along) < _LEAST_SHARE * np.einsum("nd,nd", sample, sample):
        return None
    turn = np.concatenate([mean[:, None], axes], axis=1)
    outline = Outline(turn, np.empty((0, COLUMNS), np.float32))
    outlines = (outline.of(rows) for _, rows in blocks.parts(most=max(_VALUES_AT_ONCE // blocks.dimension, 1)))
    with atomic_file(path) as aside:
        shape = (len(turn) + len(blocks), COLUMNS)
        save_blocks(aside, shape, itertools.chain([turn], outlines), np.dtype(np.float32))
        return OutlineEntry(path.name, sha256(aside), aside.stat().st_size)


def _principal_axes(centred: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(D, 47) orthonormal axes that hold about as much of the variance as any, by subspace iteration."""
    axes = rng.standard_normal((centred.shape[1], COLUMNS - 1), np.float32)
    for _ in range(_STEPS):
        axes = np.linalg.qr(centred.T @ (centred @ axes))[0]
    return axes


def open_outline(folder: Path, entry: OutlineEntry, count: int, blocks: Blocks, verify: bool = False) -> Outline:
    """Memory-map a map's outlines, after comparing some of them with the descriptors.

    Args:
        folder: The map's folder.
        entry: What the manifest says.
        count: Images that it covers, the map's first ones.
        blocks: The map's descriptors.
        verify: Compare all of them, and the file's sha256 whatever is remembered of it.

    Raises:
        MapError: Missing, truncated or altered, or outlines of other descriptors: a search would miss images.
    """
    path, dimension = folder / entry.file, blocks.dimension
    require_inside(folder, path, MapError, _REMEDY)
    require_unaltered(path, entry.bytes, entry.sha256, MapError, _REMEDY, verify)
    stored = open_array(path, np.dtype(np.float32), (dimension + count, COLUMNS), MapError, _REMEDY)
    turn = np.array(stored[:dimension])
    if not (np.isfinite(turn).all() and np.allclose(turn[:, 1:].T @ turn[:, 1:], np.eye(COLUMNS - 1), atol=1e-3)):
        raise MapError(f"{path} is damaged: its axes are not orthonormal. {_REMEDY}")
    outline = Outline(turn, stored[dimension:])
    looked_at = np.arange(count) if verify else np.linspace(0, count - 1, _LOOKED_AT).astype(np.int64)
    at_once = max(_VALUES_AT_ONCE // dimension, 1)
    for begin in range(0, len(looked_at), at_once):
        rows = looked_at[begin : begin + at_once]
        if not np.allclose(outline.rows[rows], outline.of(blocks.take(rows)), rtol=0.0, atol=_SAME):
            raise MapError(f"{path} holds outlines of other descriptors than the map's. {_REMEDY}")
    return outline
