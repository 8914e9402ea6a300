"""Shares with the interval that their count allows to claim."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import betaincinv

#: Of all intervals in the reports.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """How many of a number of frames, and where the true share lies with 95 % confidence.

    Attributes:
        count, total: So many of so many.
        low, high: Ends of the interval as fractions; 0 and 1 where there was nothing to count.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def percent(self) -> float | None:
        """The share; None of nothing."""
        return 100.0 * self.count / self.total if self.total else None

    def content(self) -> dict[str, float | int | None]:
        """Plain values for ``metrics.json``, in percent."""
        percent = self.percent
        return {
            "percent": None if percent is None else round(percent, 4),
            "low": round(100.0 * self.low, 4),
            "high": round(100.0 * self.high, 4),
            "count": self.count,
            "total": self.total,
        }

    def __str__(self) -> str:
        """``98.3 % (97.1–99.1 %)``; a dash of nothing."""
        return "–" if self.percent is None else f"{self.percent:.1f} % ({self.interval})"

    @property
    def interval(self) -> str:
        """``97.1–99.1 %``, with a second digit where an end lies that near to 0 or 100."""
        near = self.low > 0.995 or self.high < 0.01
        return f"{100 * self.low:.{1 + near}f}–{100 * self.high:.{1 + near}f} %"


def clopper_pearson(count: int, total: int, confidence: float = CONFIDENCE) -> Share:
    """The exact interval of Clopper and Pearson (1934): never narrower than it claims, for independent frames.

    Args:
        count: Successes.
        total: Trials; 0 gives the interval from 0 to 1.
        confidence: Of the two-sided interval.

    Returns:
        The share.
    """
    tail = (1.0 - confidence) / 2.0
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 1.0 - tail)) if count < total else 1.0
    return Share(count, total, low, high)
