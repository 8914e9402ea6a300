"""What all programs' command lines have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from training.benchmark import BenchmarkConfig
from vgssl_core.command_line import choose, parse


def test_values_of_a_list_follow_its_flag() -> None:
    for given in (["a", "b"], ["[a, b]"], []):
        parsed = parse(
            BenchmarkConfig, ["--methods", *given, "--out", "x", "--data=y", "--seeds", "2"], "vgssl benchmark"
        )
        assert (parsed.methods, parsed.data, parsed.seeds) == (["a", "b"] if given else [], ["y"], 2)


def test_values_of_a_list_that_may_be_left_out_follow_its_flag_too() -> None:
    @dataclass
    class Config:
        """Some settings."""

        topics: list[str] | None = None

    assert parse(Config, ["--topics", "/odom", "/fix"], "replay").topics == ["/odom", "/fix"]
    assert parse(Config, [], "replay").topics is None


def test_help_names_settings_as_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(BenchmarkConfig, ["--help"], "vgssl benchmark")
    said = capsys.readouterr().out
    assert stop.value.code == 0 and said.startswith("usage: vgssl benchmark --out OUT [--SETTING VALUE] ...")
    assert "--methods VALUE ..." in said and "the folder of\n                        --out." in said and "`" not in said


@pytest.mark.parametrize(
    ("given", "meant"), [("--seed", "seeds"), ("--method", "methods"), ("--cpu-minute", "cpu_minutes")]
)
def test_a_misspelt_setting_is_answered_with_the_nearest(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(BenchmarkConfig, ["--out", "x", f"{given}x", "1"], "vgssl benchmark")
    assert stop.value.code == 2 and f"Do you mean {meant}?" in capsys.readouterr().err


def test_a_misspelt_key_of_a_file_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("mthods: [a]\n")
    with pytest.raises(SystemExit):
        parse(BenchmarkConfig, ["--out", "x", "--config", str(tmp_path / "settings.yaml")], "vgssl benchmark")
    assert "Do you mean methods?" in capsys.readouterr().err


def test_the_first_argument_chooses_and_the_rest_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    helps = {"fly": "leave the ground", "land": "come back"}
    assert choose("robot", "A robot.", "action", helps, ["land", "--at", "home"]) == ("land", ["--at", "home"])
    with pytest.raises(SystemExit) as stop:
        choose("robot", "A robot.", "action", helps, ["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "actions:\n  fly   leave the ground\n" in said and "`robot ACTION --help`" in said
