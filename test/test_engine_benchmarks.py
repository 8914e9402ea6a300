"""The benchmarks of engines, of the whole path and of memory run, and their tables have every row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import table_row

from vgssl_core.inference import available_backends

ROOT = Path(__file__).resolve().parents[1]


def printed(program: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / program), *map(str, arguments), "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_engine_stands_in_the_table_and_agrees_with_the_original(tiny_bundle: Path, tmp_path: Path) -> None:
    document = tmp_path / "engines.md"
    document.write_text("# Engines\n<!-- benchmark:embed -->\n<!-- /benchmark:embed -->\n")
    arguments = ["--bundles", tiny_bundle, "--torch", "false", "--rounds", 1, "--images", 2, "--docs", document]
    text = printed("embed.py", *arguments)
    for backend in [name for name, there in available_backends("fp32").items() if there]:
        cells = table_row(text, f"{backend} | fp32")
        assert float(cells[4]) > 0 and float(cells[7]) > 0.999
    assert "int8: the bundle has no such network" in text
    assert text.strip() in document.read_text()


def test_the_pipelines_stages_are_all_there_for_every_input(tiny_bundle: Path) -> None:
    text = printed("pipeline.py", "--bundle", tiny_bundle, "--images", 300, "--index", "exact", "--frames", 1)
    for image in ("640x480 JPEG", "640x480 bgr8", "1920x1080 JPEG", "1920x1080 bgr8"):
        for name in (image, f"peers: {image}"):
            assert len(table_row(text, name)) == 10


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells a process's memory")
def test_a_maps_memory_is_measured_in_processes_of_their_own(tiny_bundle: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--sizes", 200, "--index", "exact", "--dimension", 32, "--frames", 1]
    text = printed("memory.py", *arguments)
    assert float(table_row(text, "200 x 32, ours")[1]) > 0
    assert "flat index" in text
