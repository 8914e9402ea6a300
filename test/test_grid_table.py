"""A benchmark's cells as plans, results and a table."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import table_row

from training.benchmark_grid import LeftTime
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.evaluation.grid import CellPlan, CellResult, read_results, write_result
from vgssl_core.evaluation.grid_table import Statistic, markdown, replace_section


def plan(name: str = "simclr", seed: int = 0, **settings: Any) -> CellPlan:
    return CellPlan(name, "street", seed, "/train", "/data", "val", 25.0, {"max_steps": 9, **settings})


def result(name: str, seed: int, recall: float, **figures: Any) -> CellResult:
    recalls = {1: recall, 5: recall, 10: recall, 20: recall}
    return CellResult(plan(name, seed), protocol="P", checkpoint="C", recall=recalls, steps=9, **figures)


def test_any_setting_in_which_two_plans_differ_is_named() -> None:
    assert plan(options={"t": 1}).difference(plan(options={"t": 1})) is None
    assert plan(options={"t": 1}).difference(plan(options={"t": 2})) == "options.t was 2 and is now 1"
    assert plan(lr=0.5).difference(plan()) == "lr was None and is now 0.5"


def test_statistics_are_of_the_sample() -> None:
    assert Statistic.of([1.0, 2.0, 4.0]).text(2) == f"2.33 ± {statistics.stdev([1, 2, 4]):.2f}"
    assert Statistic.of([3.0]).text() == "3.0" and Statistic.of([]).text() == "–"


def test_the_best_of_a_column_is_bold_and_a_collapse_is_marked() -> None:
    table = markdown([result("a", 0, 10.0), result("a", 1, 30.0), result("b", 0, 19.0, collapse="one point")])
    assert table_row(table, "a")[1] == "**20.0 ± 14.1**" and table_row(table, "b†")[1] == "19.0"
    assert "† b seed 0 had collapsed at the end: one point." in table


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    written = result("a", 0, 10.0, last={"loss": 0.25}, versions={"commit": None}, machine={"cpu": "x", "cores": 2})
    write_result(tmp_path, written)
    assert read_results(tmp_path) == [written]
    (written.plan.folder(tmp_path) / "result.yaml").write_text("rows: 3\n")
    with pytest.raises(DataError, match="another version of the benchmark"):
        read_results(tmp_path)


def test_a_section_of_a_document_is_replaced_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "top\n<!-- benchmark:x -->\n<!-- /benchmark:x -->\n<!-- benchmark:y -->\nb\n<!-- /benchmark:y -->\n"
    )
    replace_section(path, "x", r"one \1")
    once = path.read_text()
    replace_section(path, "x", r"one \1")
    assert path.read_text() == once
    assert "<!-- benchmark:x -->\none \\1\n<!-- /benchmark:x -->" in once and "\nb\n" in once
    with pytest.raises(ConfigError, match="has not one section"):
        replace_section(path, "z", "one")


def test_the_time_left_is_that_of_the_trainings_to_come() -> None:
    baseline = replace(plan(), settings={})
    left = LeftTime([baseline, *(plan(seed=seed) for seed in range(5))], jobs=2)
    left.finished(baseline, 1000.0)
    assert left.text() == ""
    left.finished(plan(), 120.0)
    assert left.text() == ", about 4 min left"
