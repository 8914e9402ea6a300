"""Figures of the report, each as a self-contained SVG text (matplotlib, no window system)."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vgssl_core.evaluation.intervals import Share, clopper_pearson
from vgssl_core.evaluation.risk_coverage import RiskCoverage
from vgssl_core.localization.reliability import Reliability

TRUTH, GOOD, BAD, MAP, INK = "#1f2a37", "#0e9f6e", "#e02424", "#c3cad3", "#374151"
_SERIES = ("#9ca3af", "#f59e0b", "#1c64f2", "#0e9f6e")
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.hashsalt": "vgssl",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def track_map(
    database_m: NDArray[np.float64],
    truth_m: NDArray[np.float64],
    estimate_m: NDArray[np.float64],
    radius_m: float,
) -> str:
    """Map seen from above: database images, the true track, and every estimate joined to its truth.

    Args:
        database_m: (N, 2) east and north of the map's images.
        truth_m: (F, 2) true positions of the frames, in time order.
        estimate_m: (F, 2) estimates, NaN where a frame has none.
        radius_m: Estimates nearer to the truth than this are drawn as right.
    """
    with rc_context(STYLE):
        figure, axes = _axes(10.4, 6.8)
        axes.scatter(*database_m.T, s=12, c=MAP, linewidths=0, label="map images")
        axes.plot(*truth_m.T, color=TRUTH, lw=1.6, label="true track")
        right = np.linalg.norm(estimate_m - truth_m, axis=1) <= radius_m
        wrong = ~right & np.isfinite(estimate_m[:, 0])
        for truth, estimate in zip(truth_m[wrong], estimate_m[wrong], strict=True):
            axes.plot(*np.stack([truth, estimate]).T, color=BAD, lw=0.5, alpha=0.3)
        axes.scatter(*estimate_m[wrong].T, s=14, c=BAD, linewidths=0, label=f"estimate beyond {radius_m:g} m")
        axes.scatter(*estimate_m[right].T, s=14, c=GOOD, linewidths=0, label=f"estimate within {radius_m:g} m")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel="east [m]", ylabel="north [m]")
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.08), ncol=4, fontsize=8)
        return _svg(figure)


def recall_bars(results: Mapping[str, Mapping[int, float]], place: str = "") -> str:
    """Recall@N of several descriptors side by side.

    Args:
        results: Name → (N → percent).
        place: What it was measured on, below the axis.
    """
    with rc_context(STYLE):
        figure, axes = _axes(5.2, 3.2)
        width = 0.8 / len(results)
        for row, (name, recall) in enumerate(results.items()):
            places = np.arange(len(recall)) + (row - (len(results) - 1) / 2) * width
            bars = axes.bar(places, list(recall.values()), width * 0.94, color=_SERIES[row % len(_SERIES)], label=name)
            axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=1, color=INK)
        ns = list(next(iter(results.values())))
        axes.set(
            ylim=(0, 108), ylabel="recall [%]", xlabel=place, xticks=range(len(ns)), xticklabels=[f"R@{n}" for n in ns]
        )
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.17), ncol=len(results), fontsize=8)
        return _svg(figure)


def cumulative(values: NDArray[np.floating], label: str, mark: float | None = None) -> str:
    """Share of frames at or below each value, on a logarithmic axis; values that are not finite never arrive.

    Args:
        values: (F,) values, NaN for a frame without one.
        label: What is shown, with its unit.
        mark: Value to mark with a vertical line.
    """
    with rc_context(STYLE):
        figure, axes = _axes(5.2, 3.2)
        ordered = np.sort(np.maximum(values[np.isfinite(values)], 1e-2))
        axes.step(ordered, 100.0 * np.arange(1, len(ordered) + 1) / max(len(values), 1), where="post", color=_SERIES[2])
        if mark is not None:
            axes.axvline(mark, color=BAD, lw=0.8, ls="--")
        axes.set(xscale="log", ylim=(0, 102), xlabel=label, ylabel="frames [%]")
        axes.grid(alpha=0.25)
        return _svg(figure)


def reliability_diagram(measured: Reliability) -> str:
    """Share of frames that were right, by their predicted probability; how many frames stand behind it below."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes, below = figure.subplots(2, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        filled = measured.counts > 0
        right = measured.right[filled]
        intervals = [clopper_pearson(round(r * n), int(n)) for r, n in zip(right, measured.counts[filled], strict=True)]
        reach = np.abs([[r - i.low, i.high - r] for r, i in zip(right, intervals, strict=True)]).T
        axes.plot([0, 1], [0, 1], color=MAP, lw=1.2)
        predicted = measured.predicted[filled]
        axes.errorbar(predicted, right, reach, fmt="o-", ms=4, lw=1.2, elinewidth=0.8, color=_SERIES[2])
        axes.set(ylim=(-0.02, 1.02), ylabel="right [share]")
        axes.set_title(f"expected calibration error {measured.expected_error:.3f}", fontsize=9, color=INK)
        edges = np.linspace(0, 1, len(measured.counts) + 1)
        below.bar(edges[:-1], measured.counts, np.diff(edges), align="edge", color=MAP, edgecolor="white")
        below.set(xlim=(-0.02, 1.02), xlabel="P(correct)", ylabel="frames")
        return _svg(figure)


def risk_coverage_curve(curve: RiskCoverage, fixes: Share, right: Share) -> str:
    """Share of wrong fixes against share of frames with a fix, over all thresholds.

    Args:
        curve: All thresholds.
        fixes: Frames with a fix at the threshold in force.
        right: Right ones of these; the point is drawn with the interval of both.
    """
    with rc_context(STYLE):
        figure, axes = _axes(5.2, 4.2)
        axes.step(100 * curve.coverage, 100 * curve.risk, where="post", color=_SERIES[2])
        if fixes.percent is not None and right.percent is not None:
            x, y = fixes.percent, 100.0 - right.percent
            reach = np.clip([[y - 100 * (1 - right.high)], [100 * (1 - right.low) - y]], 0, None)
            axes.errorbar([x], [y], reach, fmt="o", ms=6, color=BAD, label="threshold in force")
            axes.legend(frameon=False, loc="upper left", fontsize=8)
        axes.set(xlim=(0, 102), ylim=(0, None), xlabel="frames with a fix [%]", ylabel="wrong fixes [%]")
        axes.grid(alpha=0.25)
        return _svg(figure)


def histogram(values: NDArray[np.floating], label: str) -> str:
    """Distribution of a quantity over frames."""
    with rc_context(STYLE):
        figure, axes = _axes(5.2, 3.2)
        axes.hist(values[np.isfinite(values)], bins=40, color=_SERIES[2])
        axes.set(xlabel=label, ylabel="frames")
        return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
