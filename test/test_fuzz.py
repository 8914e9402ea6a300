"""Damaged and hostile files: our own error or a correct load, never a crash, a hang or a blow-up of memory.

Each mutation is seeded by its number. Half of them keep the checksums of the whole file, half have them made anew as a
hostile author would.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import SOAK
from mutations import damaged_bytes, hostile_values
from tiny import make_bundle

from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap import MapPositions, build_map
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.geomap.manifest import MANIFEST as MAP_MANIFEST
from vgssl_core.inference.bundle import MANIFEST as BUNDLE_MANIFEST
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

#: One damaged file must never take so long, on a machine that does much else.
ANSWER_S = 240
#: What a worker may have in memory at its worst, with everything imported.
PEAK_KB = 700_000
GOOD = ("loaded", "refused: ")


class Worker:
    """The process that loads what is damaged; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        tests = Path(__file__).parent
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(tests / "fuzz_worker.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def use(self, what: str, folder: Path) -> str:
        """``loaded``, ``refused: …``; anything else is a fault of ours."""
        outcome = self._use(what, folder)
        if not outcome.startswith(GOOD):
            self.close()
            self._start()
        return outcome

    def _use(self, what: str, folder: Path) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"use": what, "folder": str(folder)}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        if not select.select([self._process.stdout], [], [], ANSWER_S)[0]:
            return f"hangs for {ANSWER_S} s"
        line = self._process.stdout.readline()
        if not line:
            return f"crashes with {self._process.wait()}"
        answer = json.loads(line)
        if answer["peak_kb"] > PEAK_KB:
            return f"takes {answer['peak_kb']} kB"
        return answer["outcome"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


#: Kind of sound folder → what the worker does with it. Verification reads every index in a child process again, which
#: takes a hundred times longer than all else.
USE = {"map": "map", "fp16 map": "map", "bundle": "bundle"} | dict.fromkeys(
    ("hnsw", "ivf_pq", "outlined"), "indexed map"
)


@dataclass(frozen=True)
class Target:
    """A kind of file to damage.

    Attributes:
        sound: Which of the `sound` folders.
        pattern: Of the files in it.
        mutations, in_soak: How many.
    """

    sound: str
    pattern: str
    mutations: int
    in_soak: int

    @property
    def manifest(self) -> str:
        """Of the folder."""
        return BUNDLE_MANIFEST if self.sound == "bundle" else MAP_MANIFEST

    @property
    def use(self) -> str:
        """What the worker does with the folder."""
        return USE[self.sound]


def repair(folder: Path, path: Path, manifest: str) -> None:
    """Make all checksums fit a changed file, as a hostile author would."""
    content = yaml.safe_load((folder / manifest).read_text())
    content.pop(SEAL)
    files = dict(content.get("files", {}))
    for segment in content.get("segments", []):
        files |= {f"segments/{segment['id']}/{file}": entry for file, entry in segment["files"].items()}
    index = content.get("index", {})
    files[index.get("file")] = index
    if "outline" in index:
        files[index["outline"]["file"]] = index["outline"]
    files[path.relative_to(folder).as_posix()].update(sha256=sha256(path), bytes=path.stat().st_size)
    write_sealed(folder / manifest, content)


#: Files that native code reads in a child process take a hundred times longer than the others.
TARGETS = {
    "map records": Target("map", "segments/*/records.parquet", 44, 600),
    "map poses": Target("map", "segments/*/poses.npy", 27, 300),
    "map descriptors": Target("map", "segments/*/descriptors.npy", 18, 300),
    "half descriptors": Target("fp16 map", "segments/*/descriptors.npy", 9, 300),
    "index graph": Target("hnsw", "index-*.faiss", 4, 100),
    "index lists": Target("ivf_pq", "index-*.faiss", 4, 100),
    "outlines": Target("outlined", "outline-*.npy", 27, 300),
    "bundle network": Target("bundle", "model.onnx", 6, 200),
    "bundle samples": Target("bundle", "samples/*", 24, 250),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that are as they should be: a bundle, and maps by the kind of their search."""
    root = tmp_path_factory.mktemp("sound")
    build(root / "map", 30, 8)
    build(root / "fp16 map", 30, 8, "fp16")
    make_bundle(root / "bundle", dimension=8, width=16, height=12)
    if load_faiss() is not None:
        for kind in ("hnsw", "ivf_pq"):
            build(root / kind, 200, 16)
            reindex(root / kind, kind)
        build(root / "outlined", 200, 128, near_axes=20)
        reindex(root / "outlined", "hnsw")
    return {name: root / name for name in USE}


def build(folder: Path, count: int, dimension: int, precision: str = "fp32", near_axes: int | None = None) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, dimension)).astype(np.float32)
    if near_axes is not None:
        rows[:, near_axes:] *= 0.01
    places = MapPositions(
        50 + rng.uniform(0, 1e-3, count),
        14 + rng.uniform(0, 1e-3, count),
        np.where(np.arange(count) % 3, 200.0, np.nan),
        rng.uniform(0, 360, count),
        np.arange(count, dtype=np.int64),
        tuple(f"photos/{number}.jpg" for number in range(count)),
    )
    build_map(folder, rows / np.linalg.norm(rows, axis=1, keepdims=True), "model", places, precision)


def failures_of(outcomes: dict[str, str]) -> dict[str, str]:
    return {name: outcome for name, outcome in outcomes.items() if not outcome.startswith(GOOD)}


@pytest.mark.parametrize("name", USE)
def test_what_is_sound_is_loaded(name: str, sound: dict[str, Path], worker: Worker) -> None:
    if not sound[name].is_dir():
        pytest.skip("FAISS is not installed")
    assert worker.use(USE[name], sound[name]) == "loaded"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_or_loaded_right(
    name: str, sound: dict[str, Path], tmp_path: Path, worker: Worker
) -> None:
    target = TARGETS[name]
    if not sound[target.sound].is_dir():
        pytest.skip("FAISS is not installed")
    outcomes: dict[str, str] = {}
    for number in range(target.in_soak if SOAK else target.mutations):
        rng = np.random.default_rng([number, *name.encode()])
        folder = Path(shutil.copytree(sound[target.sound], tmp_path / "damaged"))
        files = sorted(folder.glob(target.pattern))
        path = files[int(rng.integers(len(files)))]
        before = path.read_bytes()
        path.write_bytes(damaged_bytes(before, rng))
        repaired = number % 2 == 1
        if repaired:
            repair(folder, path, target.manifest)
        outcome = worker.use(target.use, folder)
        if outcome == "loaded" and not repaired and path.read_bytes() != before:
            outcome = "is loaded though its checksum is stale"
        outcomes[f"{name} {number}"] = outcome
        shutil.rmtree(folder)
        if failures_of(outcomes):
            break
    assert not failures_of(outcomes)
    # Mutations that never reach beyond the checksum, or that never do harm, would prove nothing.
    words = Counter("checksum" in outcome or "bytes instead of" in outcome for outcome in outcomes.values())
    assert words[True] >= len(outcomes) // 4
    assert words[False] >= len(outcomes) // 4


@pytest.mark.parametrize(
    ("use", "name", "share"), [("hnsw", MAP_MANIFEST, 32), ("bundle", BUNDLE_MANIFEST, 32)], ids=["map", "bundle"]
)
def test_damaged_manifests_are_refused_or_loaded_right(
    use: str, name: str, share: int, sound: dict[str, Path], tmp_path: Path, worker: Worker
) -> None:
    source = sound[use] if sound[use].is_dir() else sound["map"]  # without FAISS no index
    outcomes: dict[str, str] = {}
    for number in range(share * 10 if SOAK else share):
        rng = np.random.default_rng([number, *use.encode()])
        folder = Path(shutil.copytree(source, tmp_path / "damaged"))
        text = (folder / name).read_bytes()
        if number % 2:
            content: dict[str, Any] = yaml.safe_load(text)
            content.pop(SEAL)
            write_sealed(folder / name, hostile_values(content, rng), as_json=bool(rng.integers(2)))
        else:
            (folder / name).write_bytes(damaged_bytes(text, rng))
        outcomes[f"{use} {number}"] = worker.use(USE[use], folder)
        shutil.rmtree(folder)
        if failures_of(outcomes):
            break
    assert not failures_of(outcomes)
    assert sum(outcome.startswith("refused") for outcome in outcomes.values()) >= len(outcomes) // 2
