"""What all programs' command lines have in common."""

from __future__ import annotations

import pytest

from training.benchmark import BenchmarkConfig
from vgssl_core.command_line import parse


def test_values_of_a_list_follow_its_flag() -> None:
    for given in (["a", "b"], ["[a, b]"], []):
        parsed = parse(
            BenchmarkConfig, ["--methods", *given, "--out", "x", "--data=y", "--seeds", "2"], "vgssl benchmark"
        )
        assert (parsed.methods, parsed.data, parsed.seeds) == (["a", "b"] if given else [], ["y"], 2)


def test_help_names_settings_as_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(BenchmarkConfig, ["--help"], "vgssl benchmark")
    said = capsys.readouterr().out
    assert stop.value.code == 0 and said.startswith("usage: vgssl benchmark --out OUT [--SETTING VALUE] ...")
    assert "--methods VALUE ..." in said and "the folder of\n                        --out." in said and "`" not in said
