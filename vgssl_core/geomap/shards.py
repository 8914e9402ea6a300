"""Shards: finished parts of an embedding, each written once and checked before it is taken over."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap.rows import save_rows
from vgssl_core.storage import atomic_folder, sha256

_RECORD, _DESCRIPTORS = "shard.json", "descriptors.npy"
_log = logging.getLogger(__name__)


class Failure(NamedTuple):
    """An image that does not decode: its index among the images of the build, its name, and why."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """The images from ``begin`` up to ``end`` of a build; `Rows` that are read when they are asked for.

    Attributes:
        path: Its folder.
        begin, end: Which images.
        dimension: D, length of a row.
        failures: Those that do not decode; the others have a row each, in their order.
    """

    path: Path
    begin: int
    end: int
    dimension: int
    failures: tuple[Failure, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return self.end - self.begin - len(self.failures)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self), self.dimension

    def __getitem__(self, chosen: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """Rows of a slice or of an array of indices."""
        # Opened anew each time: hundreds of shards would be hundreds of open files.
        return self._stored()[chosen]

    @property
    def kept(self) -> NDArray[np.int64]:
        """Index of each row's image among the images of the build."""
        return np.setdiff1d(np.arange(self.begin, self.end), [failure.index for failure in self.failures])

    def _stored(self) -> NDArray[np.float32]:
        # An empty file cannot be mapped.
        return np.load(self.path / _DESCRIPTORS, mmap_mode="r" if len(self) else None, allow_pickle=False)

    def check(self) -> None:
        """Compare the file's shape with what the shard should have.

        Raises:
            ValueError: They differ, or it is no such file.
        """
        if self._stored().shape != self.shape:
            raise ValueError("it holds other images")


def shard_path(folder: Path, number: int) -> Path:
    """Where the shard of this number lies in a build's work folder."""
    return folder / f"shard-{number:06d}"


def write_shard(path: Path, begin: int, end: int, rows: NDArray[np.float32], failures: Sequence[Failure]) -> Shard:
    """Write a shard aside, sync it, and rename it into place; what is there already is replaced.

    Args:
        path: Its folder.
        begin: First of its images.
        end: The one after its last.
        rows: (end - begin - failures, D) descriptors.
        failures: The images without row.

    Raises:
        OSError: The disk is full or cannot be written to.
    """
    with atomic_folder(path, replace=True) as aside:
        save_rows(aside / _DESCRIPTORS, rows, np.dtype("<f4"))
        content = {"begin": begin, "end": end, "failures": failures, "sha256": sha256(aside / _DESCRIPTORS)}
        (aside / _RECORD).write_text(json.dumps({"content": content, "sha256": _checksum(content)}))
    return Shard(path, begin, end, rows.shape[1], tuple(failures))


def read_shard(path: Path, begin: int, end: int, dimension: int) -> Shard | None:
    """The shard of these images; None where it is not there, or is not what was written (then the log says so)."""
    if not path.exists():
        return None
    try:
        record = json.loads((path / _RECORD).read_text())
        content = record["content"]
        failures = tuple(Failure(*item) for item in content["failures"])
        shard = Shard(path, content["begin"], content["end"], dimension, failures)
        if record["sha256"] != _checksum(content) or content["sha256"] != sha256(path / _DESCRIPTORS):
            raise ValueError("its checksum does not match")
        if (shard.begin, shard.end) != (begin, end):
            raise ValueError("it holds other images")
        shard.check()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        _log.warning("%s is not taken over: %s %s.", path, type(problem).__name__, problem)
        return None
    return shard


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
