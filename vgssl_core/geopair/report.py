"""What a running training shows: a progress bar and TensorBoard's scalars, by the first process alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vgssl_core.geopair.budget import Budget

#: Where time is limited, the bar's own guess by steps would contradict what is left.
_TIMED_BAR = "{desc}: {n_fmt} steps [{elapsed}, {rate_fmt}{postfix}]"


class Report:
    """Progress bar and TensorBoard log of one training, to be used in a ``with`` block.

    Args:
        folder: Of the run; None for a process that shows nothing.
        title: Of the bar.
        step: Where the training stands.
        budget: What it may take.
    """

    def __init__(self, folder: Path | None, title: str, step: int, budget: Budget) -> None:
        self._budget = budget
        timed = math.isfinite(budget.left_s)
        self._bar = tqdm(
            total=budget.steps,
            initial=step,
            unit="step",
            desc=title,
            disable=folder is None,
            bar_format=_TIMED_BAR if timed else None,
        )
        self._log = None if folder is None else SummaryWriter(str(folder), purge_step=step)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None):
        self._bar.close()
        if self._log is not None:
            self._log.close()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Write figures to TensorBoard."""
        if self._log is not None:
            for name, value in values.items():
                self._log.add_scalar(f"{group}/{name}", value, step)

    def show(self, figures: Mapping[str, float], step: int, best: Mapping[int, float]) -> None:
        """Move the bar on, with the figures that matter most."""
        parts = [f"loss {figures['loss']:.3f}"]
        if "images_per_s" in figures:
            parts.append(f"{figures['images_per_s']:.0f} images/s, {100 * figures['data_wait']:.0f} % waiting for data")
        if best:
            parts.append(f"best R@5 {best[5]:.1f}")
        if math.isfinite(self._budget.left_s):
            parts.append(f"{self._budget.left_s / 60:.1f} min left")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(step - self._bar.n)
