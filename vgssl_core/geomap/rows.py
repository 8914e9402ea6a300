"""Descriptors as rows that need not lie in memory: looked at and written a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError

_ROWS_AT_ONCE = 4096
_UNIT_TOLERANCE = 1e-3


class Rows(Protocol):
    """(N, D) float32 rows: a NumPy array, or what reads them from files when ``np.asarray`` asks for them.

    Attributes:
        shape: (N, D).
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Any) -> Any:
        """Rows again: those of a slice, or of an array of indices in its order."""
        ...


def blocks(rows: Rows) -> Iterator[NDArray[np.float32]]:
    """The rows as arrays, one after the other, each small enough for any memory."""
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        yield np.asarray(rows[begin : begin + _ROWS_AT_ONCE], np.float32)


def check_unit_rows(rows: Rows, names: Sequence[str]) -> None:
    """Refuse descriptors that are not of unit length.

    Args:
        rows: (N, D) descriptors.
        names: What each belongs to, for the message.

    Raises:
        DataError: Some are longer, shorter or not finite; counts them and names the first.
    """
    lengths = np.concatenate([np.zeros(0), *(np.linalg.norm(block, axis=1) for block in blocks(rows))])
    good = np.abs(lengths - 1.0) <= _UNIT_TOLERANCE
    if not good.all():
        first = int(np.argmin(good))
        raise DataError(
            f"{len(good) - int(good.sum())} of {len(good)} descriptors are not of unit length or not finite, the first "
            f"is that of {names[first]} (length {lengths[first]:g}): the network does not fit these images."
        )


def save_rows(path: Path, rows: Rows, dtype: np.dtype, progress: Callable[[int], object] | None = None) -> None:
    """Write rows as a ``.npy`` file, a block at a time; the same bytes as `numpy.save`.

    Args:
        path: The file.
        rows: (N, D).
        dtype: What it holds.
        progress: Is told the number of rows after each block.

    Raises:
        OSError: The disk is full or cannot be written to.
    """
    save_blocks(path, rows.shape, blocks(rows), dtype, progress)


def save_blocks(
    path: Path,
    shape: tuple[int, ...],
    parts: Iterable[NDArray],
    dtype: np.dtype,
    progress: Callable[[int], object] | None = None,
) -> None:
    """`save_rows` of blocks that are made while they are written, together of the given shape."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(int(length) for length in shape)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in parts:
            # Not ndarray.tofile: its error does not tell why.
            file.write(np.ascontiguousarray(block, dtype).data)
            if progress is not None:
                progress(len(block))
