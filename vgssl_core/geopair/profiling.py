"""Where the time of a step goes, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from vgssl_core.storage import atomic_file

TRACE, TABLE = "trace.json", "profile.txt"
#: Steps that are thrown away, since the first ones allocate; and steps that are measured.
_WARMUP, _MEASURED = 2, 3
_ROWS = 20


def profiled(step: Callable[[], None], device: torch.device, folder: Path | None) -> str:
    """Measure a few steps.

    Args:
        step: Makes one.
        device: On which it runs.
        folder: Takes the table and a trace for https://ui.perfetto.dev; None keeps nothing.

    Returns:
        The most expensive operations as a table.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    for _ in range(_WARMUP):
        step()
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(_MEASURED):
            step()
    table = profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=_ROWS)
    if folder is not None:
        with atomic_file(folder / TRACE) as aside:
            profiler.export_chrome_trace(str(aside))
        with atomic_file(folder / TABLE) as aside:
            aside.write_text(table, encoding="utf-8")
    return table
