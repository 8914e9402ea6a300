"""The table of a benchmark: means and deviations over seeds as Markdown, every cell as CSV."""

from __future__ import annotations

import csv
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.grid import NS, CellResult
from vgssl_core.storage import atomic_file

_MISSING = "–"


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation.

    Attributes:
        mean: NaN without values.
        std: With n - 1 below the root; NaN for fewer than two values.
        count: Number of values.
    """

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Statistic:
        """Of a sample."""
        sample = list(values)
        return cls(
            statistics.fmean(sample) if sample else math.nan,
            statistics.stdev(sample) if len(sample) > 1 else math.nan,
            len(sample),
        )

    def text(self, digits: int = 1) -> str:
        """``mean ± std``, or what of it there is."""
        if not self.count:
            return _MISSING
        return f"{self.mean:.{digits}f}" + (f" ± {self.std:.{digits}f}" if self.count > 1 else "")


@dataclass(frozen=True)
class Row:
    """All seeds of one method or baseline on one set.

    Attributes:
        name: Of the row.
        results: By seed, at least one.
    """

    name: str
    results: Sequence[CellResult]

    @property
    def measured(self) -> list[CellResult]:
        """Those with figures."""
        return [result for result in self.results if not result.failure]

    def recall(self, n: int) -> Statistic:
        """Recall@n over seeds, in percent."""
        return self.over(lambda result: result.recall[n])

    def over(self, figure: Callable[[CellResult], float]) -> Statistic:
        """Any figure over seeds."""
        return Statistic.of(map(figure, self.measured))


def rows_by_set(results: Sequence[CellResult]) -> dict[str, list[Row]]:
    """Set → its rows, both in the order of ``results``, which `read_results` gives."""
    tables: dict[str, list[Row]] = {}
    for (place_set, name), group in itertools.groupby(results, lambda r: (r.plan.place_set, r.plan.row)):
        tables.setdefault(place_set, []).append(Row(name, list(group)))
    return tables


def markdown(results: Sequence[CellResult]) -> str:
    """One table for each set, and below it everything that is needed to read and to check it."""
    parts = [_table(place_set, rows) for place_set, rows in rows_by_set(results).items()]
    return "\n".join(parts) if parts else "No cell is finished.\n"


def _table(place_set: str, rows: Sequence[Row]) -> str:
    heads = [place_set, *(f"R@{n}" for n in NS), "steps", "queries seen", "CPU min", "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    best = {n: max((row.recall(n).mean for row in rows if row.measured), default=math.nan) for n in NS}
    lines += ["| " + " | ".join(_cells(row, best)) + " |" for row in rows]
    notes = _notes([result for row in rows for result in row.results])
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _cells(row: Row, best: Mapping[int, float]) -> list[str]:
    marks = "†" * any(result.collapse for result in row.measured) + "‡" * any(r.failure for r in row.results)
    recalls = [
        f"**{row.recall(n).text()}**" if row.measured and row.recall(n).mean == best[n] else row.recall(n).text()
        for n in NS
    ]
    if all(result.plan.is_baseline for result in row.results):
        effort = [_MISSING] * 3
    else:
        effort = [
            row.over(lambda result: result.steps).text(0),
            row.over(lambda result: result.queries_seen).text(0),
            row.over(lambda result: result.cpu_minutes).text(),
        ]
    return [row.name + marks, *recalls, *effort, str(len(row.measured))]


def _notes(results: Sequence[CellResult]) -> list[str]:
    measured = [result for result in results if not result.failure]
    trained = [result for result in measured if not result.plan.is_baseline]
    notes = ["Recall@N in percent: mean ± sample standard deviation over the seeds; the best of each column in bold."]
    # The size of the input is part of the protocol's name, and the baselines have sizes of their own.
    notes += [f"Protocol ({names}): {text}." for text, names in _named(measured, lambda result: result.protocol)]
    notes += [f"{text} ({names})." for text, names in _named(trained, lambda result: result.checkpoint)]
    notes += [f"Budget of a training ({names}): {text}." for text, names in _named(trained, _budget)]
    notes += [f"Machine ({names}): {text}." for text, names in _named(measured, _machine)]
    notes += [f"Code ({names}): {text}." for text, names in _named(measured, _code)]
    notes += [
        f"† {r.plan.row} seed {r.plan.seed} had collapsed at the end: {r.collapse}." for r in trained if r.collapse
    ]
    notes += [f"‡ {r.plan.row} seed {r.plan.seed} failed and is left out: {r.failure}" for r in results if r.failure]
    return notes


def _named(results: Sequence[CellResult], text: Callable[[CellResult], str]) -> list[tuple[str, str]]:
    """Each text that occurs, with the rows that it holds for ("all" where there is no other)."""
    rows: dict[str, list[str]] = {}
    for result in results:
        names = rows.setdefault(text(result), [])
        if result.plan.row not in names:
            names.append(result.plan.row)
    return [(key, "all rows" if len(rows) == 1 else ", ".join(names)) for key, names in rows.items()]


def _budget(result: CellResult) -> str:
    units = {"max_cpu_minutes": "CPU minutes", "max_minutes": "minutes", "max_steps": "steps"}
    budgets = [f"{result.plan.settings[key]:g} {unit}" for key, unit in units.items() if result.plan.settings.get(key)]
    return " or ".join(budgets) or "none"


def _machine(result: CellResult) -> str:
    return ", ".join(f"{value}" if key == "cpu" else f"{key} {value}" for key, value in result.machine.items())


def _code(result: CellResult) -> str:
    versions = {**result.versions, "commit": (result.versions.get("commit") or "unknown")[:10]}
    return ", ".join(f"{key} {value}" for key, value in versions.items())


def write_csv(path: Path, results: Sequence[CellResult]) -> None:
    """Every cell with all of its figures, one line each."""
    rows = [_csv_row(result) for result in results]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _csv_row(result: CellResult) -> dict[str, Any]:
    plan = result.plan
    return {
        **{"row": plan.row, "set": plan.place_set, "split": plan.split, "seed": plan.seed},
        **{f"R@{n}": result.recall.get(n) for n in NS},
        **{"queries": result.queries, "queries_total": result.queries_total, "database": result.database},
        **{"steps": result.steps, "queries_seen": result.queries_seen, "resumed": result.resumed},
        **{"cpu_minutes": result.cpu_minutes, "wall_minutes": result.wall_minutes, "collapse": result.collapse},
        **{"failure": result.failure, "protocol": result.protocol, "checkpoint": result.checkpoint},
        **{f"last {key}": value for key, value in result.last.items()},
        **dict(result.versions),
        **dict(result.machine),
    }


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the lines ``<!-- benchmark:NAME -->`` and ``<!-- /benchmark:NAME -->`` of a document.

    Raises:
        ConfigError: The document cannot be read, or has not exactly one such pair.
    """
    begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
    try:
        document = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"--docs {path} cannot be read ({problem}): give a Markdown file.") from problem
    pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ConfigError(f"--docs {path} has not one section between {begin} and {end}: write both lines into it.")
    with atomic_file(path) as aside:
        aside.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", document), encoding="utf-8")
