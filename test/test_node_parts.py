"""The node's parts that need no process: parameter table, latest-only slot, worker, health."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core.localization import LocalizerConfig
from vgssl_ros import parameters
from vgssl_ros.health import SILENCE_S, Statistics, judge
from vgssl_ros.latest_slot import LatestSlot, Worker

CONFIG = Path(__file__).resolve().parent.parent / "config" / "localize.yaml"
TOPIC = "/camera/image_raw"


def test_the_shipped_file_holds_exactly_the_defaults_of_the_table():
    shipped = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    assert shipped == {item.name: item.default for item in parameters.PARAMETERS}
    assert {name: type(value) for name, value in shipped.items()} == {
        item.name: type(item.default) for item in parameters.PARAMETERS
    }


def test_every_parameter_is_described_and_its_default_is_good():
    for item in parameters.PARAMETERS:
        assert item.description and item.problem_with(item.default) is None
        descriptor = item.descriptor()
        assert descriptor.description == item.description and descriptor.read_only == item.read_only
        for limits in (*descriptor.integer_range, *descriptor.floating_point_range):
            assert limits.from_value <= item.default <= limits.to_value


def test_the_localizer_is_configured_by_the_parameters_of_its_names():
    defaults = {item.name: item.default for item in parameters.PARAMETERS}
    assert parameters.localizer_config(defaults) == LocalizerConfig()
    assert parameters.localizer_config({**defaults, "k": 7}) == replace(LocalizerConfig(), k=7)


def test_changes_are_refused_with_a_reason():
    assert "clean up first" in parameters.refusal("bundle_path", "elsewhere", is_configured=True)
    assert parameters.refusal("bundle_path", "elsewhere", is_configured=False) is None
    assert parameters.refusal("map_path", "for ~/reload_map", is_configured=True) is None
    assert parameters.refusal("altitude_default_m", 100.0, is_configured=True) is None
    assert "finite" in parameters.refusal("altitude_default_m", float("nan"), is_configured=True)
    assert "one of raw, compressed" in parameters.refusal("image_transport", "theora", is_configured=False)
    assert "must have 6 for each camera" in parameters.refusal("camera_extrinsics", [0.0] * 5, is_configured=False)
    assert parameters.refusal("use_sim_time", True, is_configured=True) is None


@given(items=st.lists(st.integers(), min_size=1))
def test_the_slot_keeps_the_newest_and_tells_what_it_overwrote(items: list[int]):
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(item) for item in items] == [False] + [True] * (len(items) - 1)
    assert slot.take() == items[-1]
    assert slot.put(1) is False
    slot.close()
    assert slot.take() is None


def test_each_source_has_a_slot_of_its_own_and_the_one_that_waits_longest_is_taken_first():
    slot: LatestSlot[str] = LatestSlot()
    assert [slot.put(f"{source}{n}", source) for n, source in enumerate("abaab")] == [False, False, True, True, True]
    assert slot.take() == "a3"
    slot.put("a5", "a")
    assert [slot.take(), slot.take()] == ["b4", "a5"]
    slot.put("a6", "a")
    slot.clear()
    assert slot.put("a7", "a") is False


def test_a_busy_worker_gets_the_newest_item_next_and_ends_when_it_is_stopped():
    slot: LatestSlot[int] = LatestSlot()
    begun, go, last = threading.Event(), threading.Event(), threading.Event()
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        begun.set()
        assert go.wait(10)
        if item == 4:
            last.set()

    worker = Worker(slot, work, "worker")
    slot.put(1)
    assert begun.wait(10)
    overwritten = [slot.put(item) for item in (2, 3, 4)]
    go.set()
    assert last.wait(10)
    assert worker.stop(10)
    assert seen == [1, 4] and overwritten == [False, True, True]


def test_the_counters_add_up_and_the_latency_percentiles_are_those_of_the_window():
    statistics = Statistics()
    for number in range(10):
        statistics.received(TOPIC, overwrote=number % 2 == 1)
    for latency in range(1, 6):
        statistics.answered(float(latency), 0, latency > 2, "LOCALIZED")
    statistics.undecodable("no end marker")
    figures = statistics.read()
    assert (figures.received, figures.overwritten, figures.processed, figures.undecodable) == (10, 5, 5, 1)
    assert figures.latency_p50_ms == 3.0 and figures.latency_p95_ms == pytest.approx(4.8)
    assert figures.last_error == "no end marker" and not figures.last_frame_ok
    assert figures.rate_hz > 0
    assert statistics.read().rate_hz == 0


def test_the_cause_of_a_silence_is_told():
    quiet = replace(Statistics().read(), silent_s=SILENCE_S + 1)
    assert judge(quiet, "inactive", TOPIC, 0).summary == "inactive"
    stopping = judge(quiet, "stopping", TOPIC, 1)
    assert not stopping.is_ok and "does not end" in stopping.summary
    assert "no publisher on /camera/image_raw" in judge(quiet, "active", TOPIC, 0).summary
    assert "no frame for 4 s" in judge(quiet, "active", TOPIC, 1).summary
    damaged = replace(quiet, silent_s=0.1, last_frame_ok=False, last_error="cut off")
    assert judge(damaged, "active", TOPIC, 1).summary == "cut off"
    well = judge(replace(quiet, silent_s=0.1, rate_hz=9.96), "active", TOPIC, 1)
    assert well.is_ok and well.summary == "answers 10.0 images per second"
    assert not judge(quiet, "active", TOPIC, 1).is_ok
