"""The descriptors of a map, segment by segment, which stay on disk and are read as they are needed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.open_files import cannot_read

#: fp16 becomes fp32 in parts that fit a core's cache.
_HALF_BYTES_AT_ONCE = 1 << 21


def to_float32(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """The same finite values as float32; float32 is returned as it is.

    A half's exponent and fraction are shifted to a float's places, and the bias of the exponent is a factor of 2^112,
    which is exact for subnormals too. numpy's own conversion takes value by value and a hundred times as long.
    """
    if rows.dtype != np.float16:
        return np.asarray(rows, np.float32)
    bits = np.ascontiguousarray(rows).view(np.int16).astype(np.int32)
    np.left_shift(bits, 13, out=bits)
    # The shift has dragged copies of the sign over three bits of the exponent.
    np.bitwise_and(bits, np.int32(~0x70000000), out=bits)
    values = bits.view(np.float32)
    return np.multiply(values, np.float32(2.0**112), out=values)


class Blocks:
    """N descriptors in arrays one after the other, fp32 or fp16, memory-mapped or not; nothing is copied.

    Attributes:
        arrays: The (N_i, D) arrays.
        starts: Index of the first row of each array, and at the end N.
        dimension: D.
    """

    def __init__(self, arrays: Sequence[NDArray[np.floating]]) -> None:
        # As plain arrays, because slicing a np.memmap takes microseconds.
        self.arrays = tuple(np.asarray(array) for array in arrays)
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        # As Python's integers, because searching them takes a tenth of the time.
        self._bounds: list[int] = self.starts.tolist()
        self.dimension = int(self.arrays[0].shape[1])

    def __len__(self) -> int:
        return self._bounds[-1]

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """(..., D) float32 descriptors of indices of any shape."""
        if len(self.arrays) == 1:
            return to_float32(self._take_from(0, indices))
        rows = np.empty((*indices.shape, self.dimension), np.float32)
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(owner):
            chosen = owner == number
            rows[chosen] = to_float32(self._take_from(number, indices[chosen] - self.starts[number]))
        return rows

    def _take_from(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        return self.arrays[number][rows]

    def parts(
        self, begin: int = 0, end: int | None = None, most: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Rows from ``begin`` to ``end`` as contiguous float32 parts, each with the index of its first row.

        Args:
            begin: First row.
            end: Behind the last row; None goes on to N.
            most: Rows of a part at most; None takes fp32 blocks whole, as views, and fp16 in parts.
        """
        end = len(self) if end is None else end
        for number in range(max(bisect_right(self._bounds, begin) - 1, 0), len(self.arrays)):
            array, start = self.arrays[number], self._bounds[number]
            if start >= end:
                return
            low, high = max(begin - start, 0), min(end - start, len(array))
            step = high - low
            if array.dtype == np.float16:
                step = max(_HALF_BYTES_AT_ONCE // (2 * self.dimension), 1)
            step = max(min(step, most or step), 1)
            for at in range(low, high, step):
                yield start + at, to_float32(array[at : min(at + step, high)])


class StoredBlocks(Blocks):
    """Memory-mapped descriptors of which `take` reads single rows from the files.

    Rows of a memory map that were touched once count as the process's memory, in the end the whole map; read from the
    file they are in the system's cache only.
    """

    def __init__(self, arrays: Sequence[np.memmap]) -> None:
        """Open the files behind memory-mapped arrays.

        Raises:
            MapError: One is gone.
        """
        super().__init__(arrays)
        try:
            # Python closes them with the last reference to this object.
            self._files: list[BinaryIO] = [open(array.filename, "rb", buffering=0) for array in arrays]  # noqa: SIM115
        except OSError as problem:
            raise MapError(cannot_read(problem.filename, problem, "Load the map again.")) from problem
        self._offsets = [array.offset for array in arrays]

    def _take_from(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        array = self.arrays[number]
        size, offset = array.itemsize * self.dimension, self._offsets[number]
        file = self._files[number].fileno()
        # Joined afterwards, because reading into views of one array takes twice as long.
        taken = bytearray().join([os.pread(file, size, offset + row * size) for row in rows.ravel().tolist()])
        if len(taken) != size * rows.size:
            raise MapError(f"{self._files[number].name} was truncated while it was open. Load the map again.")
        return np.frombuffer(taken, array.dtype).reshape(*rows.shape, self.dimension)
