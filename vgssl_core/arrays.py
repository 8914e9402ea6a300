"""``.npy`` files from elsewhere, memory-mapped after their header has been compared with what it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import VgsslError
from vgssl_core.open_files import cannot_read


def open_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], error: type[VgsslError], remedy: str) -> NDArray:
    """Memory-map an array read-only; nothing is allocated, and no pickled object is ever read.

    Args:
        path: The file.
        dtype: What it must hold.
        shape: What it must hold, every length at least 1; in C order.
        error: Exception type to raise.
        remedy: What to do, for the message.

    Raises:
        error: No such file, or it holds something else.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"it has the header version {version}")
            header = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
        size, needed = path.stat().st_size, offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if header != (shape, False, dtype) or size != needed:
            order = " in Fortran order" if header[1] else ""
            raise ValueError(f"it holds {header[2]} {header[0]}{order} in {size} bytes instead of {dtype} {shape}")
        return np.memmap(path, dtype, "r", offset, shape)
    except OSError as problem:
        raise error(cannot_read(path, problem, remedy)) from problem
    except Exception as problem:  # On a damaged header numpy's parser raises what it happens upon.
        raise error(f"{path} is damaged: {str(problem)[:300]}. {remedy}") from problem
