"""The result of an evaluation, as one line for people and ``metrics.json`` for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.storage import atomic_file

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Metrics:
    """Figures of one evaluation.

    Attributes:
        protocol: What was measured and how, in words: two results compare only under the same protocol.
        recall: N → Recall@N in percent, over ``queries``.
        queries: Queries with at least one database image within the radius.
        queries_total: All queries.
        database: Database images.
        details: Further named figures (pose error, latency, …), plain values.
    """

    protocol: str
    recall: Mapping[int, float]
    queries: int
    queries_total: int
    database: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """``R@1 … R@5 … R@10 …`` in percent."""
        return " ".join(f"R@{n} {value:.1f}" for n, value in self.recall.items())

    def write(self, folder: str | Path) -> Path:
        """Write ``metrics.json`` into a folder, in one atomic step."""
        content = {
            "protocol": self.protocol,
            "recall": {str(n): round(value, 4) for n, value in self.recall.items()},
            "queries": self.queries,
            "queries_total": self.queries_total,
            "database": self.database,
            **self.details,
        }
        return write_metrics(folder, content)


def write_metrics(folder: str | Path, content: Mapping[str, Any]) -> Path:
    """Write plain values as ``metrics.json`` into a folder, in one atomic step."""
    path = Path(folder) / METRICS_FILE
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def error_summary(errors: NDArray[np.floating], unit: str) -> dict[str, float | int | None]:
    """Median, 90th percentile and count of the finite values, under names that carry the unit; None where empty."""
    finite = np.asarray(errors)[np.isfinite(errors)]
    values = [round(float(v), 4) for v in np.percentile(finite, [50, 90])] if len(finite) else [None, None]
    return {f"median_{unit}": values[0], f"p90_{unit}": values[1], "count": len(finite)}
