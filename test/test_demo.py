"""The whole path in real processes, on a tiny town; and what the demo makes of a user's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from training.demo import DemoConfig, demo, find_own_data
from vgssl_core.bags import BagReader, Geotagging, geotag
from vgssl_core.bags.from_places import write_places_bag
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.places import read_place_set

TINY_TOWN = {"train_size": 3, "val_size": 2, "test_size": 2, "drive_s": 6.0, "width": 96, "height": 72}


def test_from_an_empty_folder_to_a_report_of_answers_over_dds(tmp_path: Path) -> None:
    settings = tmp_path / "town.yaml"
    settings.write_text(yaml.safe_dump({"town": TINY_TOWN}))
    out = tmp_path / "demo"
    arguments = ["--out", out, "--town", settings, "--max-minutes", "0.1", "--rate", "2"]
    command = [sys.executable, "-m", "training.demo", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["frames_total"] == 30
    assert metrics["answered"] >= 0.95 * metrics["frames_total"]
    assert metrics["equal_to_offline"] == metrics["answered"]
    for name in ("hog", "untrained", "trained"):
        assert set(json.loads((out / name / "metrics.json").read_text())["recall"]) == {"1", "5", "10"}
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 10 and "Can it be trusted?" in page and "Worst retrievals" in page
    assert f"Report: {out / 'report.html'}" in done.stdout
    on_the_drive = done.stdout[done.stdout.index("On the drive:") :]
    assert f"  trained            R@1 {metrics['recall']['1']:.1f}" in on_the_drive
    assert "ended by its time limit" in page


def test_a_folder_that_no_demo_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        demo(DemoConfig(out=tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_real_recordings_are_found_in_their_folder(shared_data: Path) -> None:
    own = find_own_data(shared_data)
    assert own.map_bag == shared_data / "bags" / "kitti00_map"
    assert own.query_bag == shared_data / "bags" / "kitti00_query"
    assert find_own_data(shared_data / "kitti00_loop").place_set == shared_data / "kitti00_loop"


@pytest.mark.parametrize("names", [(), ("map_a", "map_b", "query"), ("drive",)])
def test_a_folder_without_one_map_and_one_query_bag_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.yaml").touch()
    with pytest.raises(DataError, match="one map bag and one query bag"):
        find_own_data(tmp_path)


def test_queries_of_a_place_set_become_a_bag_with_their_true_positions(tiny_places: Path, tmp_path: Path) -> None:
    queries = read_place_set(tiny_places).queries
    write_places_bag(queries, tmp_path / "bag")
    frames = geotag(tmp_path / "bag", Geotagging(position_topic="/ground_truth/fix"))
    assert len(frames) == len(queries)
    assert abs(frames.latitude_deg - queries.latitude_deg).max() < 1e-7
    with BagReader(tmp_path / "bag") as bag:
        assert next(bag.frames()).data.tobytes() == queries.paths[0].read_bytes()
