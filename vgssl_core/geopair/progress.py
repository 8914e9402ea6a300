"""Where a training stands."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch

from vgssl_core.geopair.pairs import PairList


@dataclass
class Progress:
    """Where a training stands; all of it is in the checkpoint.

    Attributes:
        epoch, chunk, chunk_step: Position in the data: chunks lie between refreshes of the mining.
        step: Steps of the optimiser so far.
        elapsed_s: Training time so far, over all resumes.
        cpu_s: CPU time so far, over all resumes.
        reserved_s: What both clocks of the `Budget` keep for the last validation.
        processes: That trained together up to here.
        pairs: The current chunk's pairs; None before they are made.
        best: Recall of the best checkpoint by N, empty before the first validation.
        stale: Validations since the best one.
        rows: Figures of each epoch so far.
    """

    epoch: int = 0
    chunk: int = 0
    chunk_step: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    reserved_s: tuple[float, ...] = (0.0, 0.0)
    processes: int = 1
    pairs: PairList | None = None
    best: dict[int, float] = field(default_factory=dict)
    stale: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values."""
        names = [item.name for item in fields(PairList)]
        pairs = None if self.pairs is None else {n: torch.from_numpy(getattr(self.pairs, n)) for n in names}
        return {**vars(self), "pairs": pairs, "best": dict(self.best), "rows": [dict(row) for row in self.rows]}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Progress:
        """Inverse of `to_plain`."""
        pairs = values["pairs"]
        return cls(
            **{**values, "pairs": pairs and PairList(**{key: item.cpu().numpy() for key, item in pairs.items()})}
        )
