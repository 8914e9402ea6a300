"""The figure of a benchmark: Recall@1 of every row, one panel for each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vgssl_core.evaluation.figures import INK, MAP, STYLE
from vgssl_core.evaluation.grid_table import Row
from vgssl_core.storage import atomic_file

_TRAINED = "#1c64f2"


def write_figure(paths: Sequence[Path], tables: Mapping[str, Sequence[Row]]) -> None:
    """Draw means with their standard deviations, and each seed as a point.

    Args:
        paths: Files to write; the suffix names the format.
        tables: Set → its rows; rows without figures are left out.
    """
    panels = {name: [row for row in rows if row.measured] for name, rows in tables.items()}
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return
    with rc_context(STYLE):
        height = 0.9 + 0.34 * max(map(len, panels.values()))
        figure = Figure(figsize=(4.6 * len(panels), height), layout="constrained")
        for axes, (name, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            _panel(axes, name, rows)
        for path in paths:
            with atomic_file(path) as aside:
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(aside, dpi=150, metadata=metadata)


def _panel(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.recall(1).mean)
    places = np.arange(len(rows))
    statistics = [row.recall(1) for row in rows]
    deviations = [statistic.std if statistic.count > 1 else 0.0 for statistic in statistics]
    colours = [MAP if row.measured[0].plan.is_baseline else _TRAINED for row in rows]
    axes.barh(places, [statistic.mean for statistic in statistics], 0.7, color=colours)
    for place, row, statistic, deviation in zip(places, rows, statistics, deviations, strict=True):
        if statistic.count > 1:
            axes.errorbar(statistic.mean, place, xerr=deviation, color=INK, capsize=3, lw=1)
            seeds = [result.recall[1] for result in row.measured]
            axes.plot(seeds, [place] * len(seeds), "o", ms=3, mfc="white", mec=INK, mew=0.7)
        axes.annotate(
            statistic.text(),
            (max([statistic.mean + deviation, *(result.recall[1] for result in row.measured)]), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(yticks=places, yticklabels=[row.name for row in rows], xlabel="Recall@1 [%]", title=name)
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
