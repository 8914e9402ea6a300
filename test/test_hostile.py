"""Maps and bundles that an author made to do harm, with good checksums: refused with one error, at no cost."""

from __future__ import annotations

import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from test_fuzz import build, repair
from tiny import make_bundle

from vgssl_core.errors import BundleError, DataError, MapError, VgsslError
from vgssl_core.geomap import load_map, verify_map
from vgssl_core.geomap.manifest import MANIFEST as MAP_MANIFEST
from vgssl_core.geomap.records import COLUMNS, check_sources
from vgssl_core.inference.bundle import MANIFEST as BUNDLE_MANIFEST
from vgssl_core.inference.bundle import load_bundle
from vgssl_core.plain_yaml import load_plain
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import read_yaml

COUNT = 30


@pytest.fixture(scope="module")
def sound_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "map"
    build(folder, COUNT, 8)
    return folder


@pytest.fixture
def folder(sound_map: Path, tmp_path: Path) -> Path:
    """A map that a test may spoil."""
    return Path(shutil.copytree(sound_map, tmp_path / "map"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    return make_bundle(tmp_path / "bundle", dimension=8, width=16, height=12).path


def file_of(folder: Path, name: str) -> Path:
    return next((folder / "segments").glob(f"*/{name}"))


def edit(folder: Path, manifest: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load((folder / manifest).read_text())
    del content[SEAL]
    change(content)
    write_sealed(folder / manifest, content)


# --- records


def records(**changes: Any) -> pyarrow.Table:
    values = {name: np.zeros(COUNT) for name in COLUMNS} | {"stamp_ns": np.zeros(COUNT, np.int64)}
    values["source"] = [f"{number}.jpg" for number in range(COUNT)]
    return pyarrow.table({name: value for name, value in (values | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (records(source=["x" * 5000] * COUNT), "longer than 4096"),
        (records(source=["x" * 4000_0] * COUNT), "longer than 4096|would unpack"),
        (records(source=[os.urandom(40_000).hex() for _ in range(COUNT)]), "would unpack to"),
        (records(source=pyarrow.nulls(COUNT, pyarrow.string())), "unknown"),
        (records(source=list(range(COUNT))), "columns are"),
        (records(source=[b"\xff\xfe"] * COUNT), "columns are"),
        (records(heading_deg=None), "columns are"),
        (records(more=np.zeros(COUNT)), "columns are"),
        (records(stamp_ns=np.zeros(COUNT)), "columns are"),
        (records(latitude_deg=[None] * COUNT), "columns are|unknown"),
        (records().slice(0, COUNT - 1), f"holds {COUNT - 1} records"),
        (pyarrow.concat_tables([records()] * 2), f"holds {2 * COUNT} records"),
        (records(latitude_deg=np.full(COUNT, 1e300)), "not on Earth"),
        (records(), "elsewhere than its pose"),
    ],
)
def test_records_that_no_build_writes_are_refused(table: pyarrow.Table, words: str, folder: Path) -> None:
    path = file_of(folder, "records.parquet")
    pyarrow.parquet.write_table(table, path, compression="zstd")
    repair(folder, path, MAP_MANIFEST)
    with pytest.raises(MapError, match=words) as caught:
        verify_map(folder)
    assert len(str(caught.value)) < 1500


def test_a_text_that_stands_once_in_the_file_and_in_every_row_does_not_fill_the_memory(folder: Path) -> None:
    # Without a limit a million rows of it would be a terabyte, and the file holds it once.
    path = file_of(folder, "records.parquet")
    table = records(source=["x" * 1_000_000] * COUNT)
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=True)
    repair(folder, path, MAP_MANIFEST)
    assert path.stat().st_size < 20_000
    with pytest.raises(MapError, match=r"longer than 4096|would unpack"):
        _ = load_map(folder).sources


def test_sources_that_no_reader_accepts_are_not_written() -> None:
    check_sources(["ä.jpg"] * 3)
    for sources, words in ((["x" * 5000], "longer"), (["x" * 4000] * 1000, "together"), (["\udc80"], "Unicode")):
        with pytest.raises(DataError, match=words):
            check_sources(sources)


# --- links and names


@pytest.mark.parametrize("what", ["map.yaml", "segments", "segments/*", "segments/*/poses.npy"])
def test_a_map_does_not_lead_out_of_its_folder(what: str, folder: Path, tmp_path: Path) -> None:
    (path,) = folder.glob(what)
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(MapError, match="leads out"):
        load_map(folder)


@pytest.mark.parametrize("what", ["bundle.yaml", "model.onnx", "samples", "samples/0000.png"])
def test_a_bundle_does_not_lead_out_of_its_folder(what: str, bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(bundle / what, outside)
    (bundle / what).symlink_to(outside)
    with pytest.raises(BundleError, match="leads out"):
        load_bundle(bundle)


@pytest.mark.parametrize("what", ["segments/*/poses.npy", "map.yaml"])
def test_a_pipe_in_the_place_of_a_file_does_not_wait(what: str, folder: Path) -> None:
    (path,) = folder.glob(what)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MapError):
        load_map(folder)


def test_a_link_to_a_map_is_a_map(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert len(verify_map(tmp_path / "link")) == COUNT


# --- numbers that lie


@pytest.mark.parametrize(
    "change",
    [
        lambda m: (m.update(count=10**9), m["segments"][0].update(count=10**9)),
        lambda m: m.update(dimension=65536),
        lambda m: (m.update(precision="fp16"), m.update(dimension=16)),
        lambda m: m["datum"].update(latitude_deg=m["datum"]["latitude_deg"] + 0.001),
    ],
    ids=["count", "dimension", "precision", "datum"],
)
def test_numbers_of_a_manifest_are_compared_before_anything_is_allocated(change: Callable, folder: Path) -> None:
    edit(folder, MAP_MANIFEST, change)
    tracemalloc.start()
    try:
        with pytest.raises(MapError):
            verify_map(folder)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("manifest", "key"), [(MAP_MANIFEST, "latitude_deg"), (BUNDLE_MANIFEST, "mean")])
def test_one_wrong_digit_of_a_manifest_is_noticed(manifest: str, key: str, folder: Path, bundle: Path) -> None:
    place = folder if manifest == MAP_MANIFEST else bundle
    lines = (place / manifest).read_text().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if key in line) + (manifest == BUNDLE_MANIFEST)
    digit = next(c for c in reversed(lines[number]) if c.isdigit())
    lines[number] = lines[number][::-1].replace(digit, str((int(digit) + 1) % 10), 1)[::-1]
    (place / manifest).write_text("".join(lines))
    with pytest.raises(VgsslError, match="does not match its own checksum"):
        load_map(place) if manifest == MAP_MANIFEST else load_bundle(place)


def test_a_bundle_of_the_first_releases_has_no_checksum_of_its_manifest(bundle: Path) -> None:
    lines = (bundle / BUNDLE_MANIFEST).read_text().splitlines(keepends=True)
    (bundle / BUNDLE_MANIFEST).write_text("".join(line for line in lines if not line.startswith(SEAL)))
    assert load_bundle(bundle).dimension == 8


# --- samples


def png(width: int, height: int) -> bytes:
    """A PNG whose few compressed bytes are a picture of any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(30_000, 30_000), "pixels together"),
        (png(2**31 - 1, 2**31 - 1), "pixels together"),
        (png(0, 5), "no PNG"),
        (b"", "no PNG"),
        (b"GIF89a" + bytes(100), "no PNG"),
        (png(100, 100)[:60], "does not decode"),
    ],
)
def test_a_sample_that_would_unpack_to_gigabytes_is_not_decoded(content: bytes, words: str, bundle: Path) -> None:
    (bundle / "samples" / "0000.png").write_bytes(content)
    repair(bundle, bundle / "samples" / "0000.png", BUNDLE_MANIFEST)
    with pytest.raises(BundleError, match=words):
        load_bundle(bundle).samples()


def test_a_network_for_enormous_images_is_refused(bundle: Path) -> None:
    edit(bundle, BUNDLE_MANIFEST, lambda m: m["preprocessing"].update(width=16384, height=16384))
    with pytest.raises(BundleError, match="pixels"):
        load_bundle(bundle)


# --- YAML


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "anchor or alias"),
        ("a: !!int ''", "tag"),
        ("a: !!python/name:os.system ", "tag"),
        ("[" * 100_000, "nested"),
        ("{" * 100_000, "nested|YAML"),
        ('{"a":' * 100_000, "nested"),
        ("- " * 100_000, "nested"),
        ("[" + "1," * 150_000 + "1]", "more than"),
        ('{"a": [' + "1," * 1_100_000 + "1]}", "more than"),
        ("a: 1" + ":1" * 30_000, "digits"),
        ("a: 1" + ":1" * 30_000 + ".5", "digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ('{"a": ' + "9" * 4000 + "}", "digits"),
        ("a: " + "x" * 100_000, "characters"),
    ],
)
def test_yaml_that_would_take_for_ever_is_refused_at_once(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(MapError, match=words) as caught:
        read_yaml(tmp_path / "a.yaml", MapError, "a map's manifest")
    assert len(str(caught.value)) < 1000


def test_json_and_yaml_say_the_same() -> None:
    assert load_plain('{"a": [1, 2.5, null, "x"]}') == load_plain("a: [1, 2.5, null, x]")
    assert load_plain("{a: 1}") == {"a": 1}
