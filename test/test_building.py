"""Builds that go on: what finished shards are good for, and for whom."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import picture

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap import MapPositions, build_map, builder, check_output, load_map, verify_map
from vgssl_core.geomap.building import EmbeddedShards, embedded_in_shards
from vgssl_core.geomap.map_images import MapImages, images_of_files
from vgssl_core.geomap.map_rows import DescriptorRows
from vgssl_core.geomap.rows import save_rows
from vgssl_core.geomap.shards import Failure, read_shard, write_shard
from vgssl_core.imaging import Image, Preprocessing

COUNT, SHARD = 23, 5


class Counting:
    """An engine that counts what it embeds, and stops with an error where it is told to."""

    name = "counting 1.0 (CPU, 2 threads)"
    dimension = 8

    def __init__(self, model_id: str = "model", stop_after: int | None = None) -> None:
        self.model_id, self.stop_after = model_id, stop_after
        self.preprocessing = Preprocessing(64, 48)
        self.embedded = 0

    def embed(self, images: Sequence[Image]) -> np.ndarray:
        if self.stop_after is not None and self.embedded + len(images) > self.stop_after:
            raise KeyboardInterrupt
        self.embedded += len(images)
        rows = np.stack([np.resize(image.astype(np.float32).mean((0, 1)), 8) - 100 for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def local_positions(count: int) -> MapPositions:
    unknown = np.full(count, np.nan)
    planar = np.random.default_rng(0).uniform(0, 1000, (count, 2))
    names = tuple(f"image {number}" for number in range(count))
    return MapPositions(unknown, unknown, unknown, unknown, np.arange(count), names, planar)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:02d}.raw").write_bytes(picture(number).tobytes())
    return sorted(folder.iterdir())


def images(files: Sequence[Path]) -> MapImages:
    """Files of pixels, so that no decoder is needed; those that do not load are damaged."""

    def load(path: Path) -> Image:
        try:
            return np.frombuffer(path.read_bytes()[: 48 * 64 * 3], np.uint8).reshape(48, 64, 3)
        except (ValueError, OSError) as problem:
            raise DataError(f"{path} does not decode.") from problem

    items = ((str(path), lambda path=path: load(path)) for path in files)
    return replace(images_of_files(files, local_positions(len(files)), "a test"), items=items)


def embed(out: Path, embedder: Counting, given: MapImages, **options: Any) -> EmbeddedShards:
    """Embed and build, as the program does."""
    options = {"batch_size": 2, "shard_images": SHARD, **options}
    with embedded_in_shards(out, embedder, given, **options) as embedded:  # type: ignore[arg-type]
        build_map(out, embedded.descriptors, embedder.model_id, given.positions.subset(embedded.kept))
    return embedded


def stopped(out: Path, files: Sequence[Path], after: int = 13, **options: Any) -> Path:
    """A build that is interrupted after so many images; returns its work folder."""
    with pytest.raises(KeyboardInterrupt):
        embed(out, Counting(stop_after=after), images(files), **options)
    (folder,) = work_folders(out)
    return folder


def work_folders(out: Path) -> list[Path]:
    inside = out.iterdir() if out.is_dir() else ()
    beside = [item for item in out.parent.iterdir() if item.name.startswith(f".building-{out.name}-")]
    return [*(item for item in inside if item.name.startswith(".building-")), *beside]


def same(first: Path, second: Path) -> None:
    a, b = verify_map(first), verify_map(second)
    np.testing.assert_array_equal(a.descriptors(slice(None)), b.descriptors(slice(None)))
    assert a.poses.tobytes() == b.poses.tobytes()
    assert a.sources == b.sources


def test_a_build_goes_on_after_its_finished_shards(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    embed(tmp_path / "whole", Counting(), images(files))
    stopped(tmp_path / "map", files)
    assert "10 of 23 images are done and kept" in caplog.text
    assert not (tmp_path / "map").exists()
    embedder = Counting()
    embed(tmp_path / "map", embedder, images(files))
    assert "Goes on with 2 of 5 shards (10 of 23 images)" in caplog.text
    assert embedder.embedded == COUNT - 10
    same(tmp_path / "whole", tmp_path / "map")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_the_progress_bar_goes_on_at_the_right_number(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(tmp_path / "map", files)
    capsys.readouterr()
    embed(tmp_path / "map", Counting(), images(files))
    bar = capsys.readouterr().err
    assert "10/23" in bar
    assert "23/23" in bar


def test_where_a_map_is_the_shards_lie_in_it_and_it_stays_whole(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "map"
    embed(out, Counting("old"), images(files[:7]))
    folder = stopped(out, files)
    assert folder.parent == out
    assert verify_map(out).model_id == "old"
    check_output(out)
    embed(out, Counting(), images(files))
    assert verify_map(out).model_id == "model"
    assert sorted(os.listdir(out)) == ["map.yaml", "segments"]


def test_a_map_that_was_moved_is_gone_on_with(files: list[Path], tmp_path: Path) -> None:
    embed(tmp_path / "map", Counting("old"), images(files[:7]))
    stopped(tmp_path / "map", files)
    (tmp_path / "map").rename(tmp_path / "moved")
    embedder = Counting()
    embed(tmp_path / "moved", embedder, images(files))
    assert embedder.embedded == COUNT - 10
    assert work_folders(tmp_path / "moved") == []


def test_an_empty_folder_that_was_given_is_gone_on_with(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "map"
    out.mkdir()
    assert stopped(out, files).parent == out
    with pytest.raises(MapError, match="no map"):
        load_map(out)
    embedder = Counting()
    embed(out, embedder, images(files))
    assert embedder.embedded == COUNT - 10


def touched(files: list[Path]) -> dict[str, Any]:
    os.utime(files[20], ns=(1, 1))
    return {}


def grown(files: list[Path]) -> dict[str, Any]:
    stamp = files[0].stat()
    files[0].write_bytes(files[0].read_bytes() + b"x")
    os.utime(files[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return {}


@pytest.mark.parametrize(
    "change",
    [
        touched,
        grown,
        lambda files: files[22].unlink() or {"on_error": "skip"},
        lambda files: {"files": files[:-1]},
        lambda files: {"files": [*files[1:], files[0]]},
        lambda files: {"embedder": Counting("other")},
        lambda files: {"shard_images": SHARD - 1},
    ],
    ids=["touched", "grown", "removed", "fewer", "reordered", "another model", "other shards"],
)
def test_a_build_of_anything_else_takes_nothing_over_and_sweeps(
    change: Callable[[list[Path]], dict[str, Any]], files: list[Path], tmp_path: Path
) -> None:
    stopped(tmp_path / "map", files)
    stopped(tmp_path / "map2", files)
    changes = change(files)
    chosen, embedder = changes.pop("files", files), changes.pop("embedder", Counting())
    there = [path for path in chosen if path.exists()]
    embed(tmp_path / "map", embedder, images(chosen), **changes)
    assert embedder.embedded == len(there)
    assert load_map(tmp_path / "map").model_id == embedder.model_id
    assert work_folders(tmp_path / "map") == []
    assert len(work_folders(tmp_path / "map2")) == 1


def test_other_threads_batches_and_corrected_positions_take_the_shards_over(files: list[Path], tmp_path: Path) -> None:
    stopped(tmp_path / "map", files)
    given = images(files)
    corrected = replace(given.positions, planar_m=given.positions.planar_m + 1.0)  # type: ignore[operator]
    embedder = Counting()
    embedder.name = "counting 1.0 (CPU, 1 thread)"
    embed(tmp_path / "map", embedder, replace(given, positions=corrected), batch_size=3)
    assert embedder.embedded == COUNT - 10
    np.testing.assert_allclose(
        np.sort(load_map(tmp_path / "map").positions_m[:, 0]), np.sort(corrected.planar_m[:, 0]), atol=1e-9
    )


def damage_bytes(shard: Path) -> None:
    data = bytearray((shard / "descriptors.npy").read_bytes())
    data[-1] ^= 1
    (shard / "descriptors.npy").write_bytes(data)


def damage_record(shard: Path) -> None:
    record = json.loads((shard / "shard.json").read_text())
    record["content"]["failures"] = [[0, "a", "b"]]
    (shard / "shard.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        damage_record,
        lambda shard: (shard / "shard.json").write_text("{"),
        lambda shard: (shard / "shard.json").write_text("[]"),
        lambda shard: (shard / "descriptors.npy").write_bytes(b""),
        lambda shard: (shard / "descriptors.npy").unlink(),
        lambda shard: shutil.rmtree(shard) or shutil.copytree(shard.with_name("shard-000001"), shard),
    ],
    ids=["bytes", "record", "torn record", "no record", "empty", "missing", "another shard"],
)
def test_a_damaged_shard_is_embedded_again(
    damage: Callable[[Path], None], files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed(tmp_path / "whole", Counting(), images(files))
    shard = stopped(tmp_path / "map", files) / "shard-000000"
    damage(shard)
    embedder = Counting()
    embed(tmp_path / "map", embedder, images(files))
    assert embedder.embedded == COUNT - SHARD
    assert "shard-000000 is not taken over" in caplog.text
    same(tmp_path / "whole", tmp_path / "map")


def test_images_that_do_not_decode_are_counted_over_all_shards(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 5, 6, 7, 8, 9, 22):  # The second shard has no image left.
        files[number].write_bytes(b"x")
    with pytest.raises(DataError, match=r"7 of 23 images do not decode: .*01\.raw.*--skip-damaged"):
        embed(tmp_path / "map", Counting(), images(files))
    assert not (tmp_path / "map").exists()
    embedder = Counting()
    embedded = embed(tmp_path / "map", embedder, images(files), on_error="skip")
    assert embedder.embedded == 0, "what was embedded before the refusal is taken over"
    assert [failure.index for failure in embedded.failures] == [1, 5, 6, 7, 8, 9, 22]
    assert "7 of 23 images do not decode and were left out" in caplog.text
    assert sorted(load_map(tmp_path / "map").sources) == [str(files[n]) for n in embedded.kept]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_build_without_any_image_leaves_nothing(on_error: str, files: list[Path], tmp_path: Path) -> None:
    for path in files:
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="23 of 23 images do not decode"):
        embed(tmp_path / "map", Counting(), images(files), on_error=on_error)
    assert sorted(os.listdir(tmp_path)) == ["images"]


def test_descriptors_that_are_not_of_unit_length_stop_the_build_at_once(files: list[Path], tmp_path: Path) -> None:
    embedder = Counting()
    embed_well = embedder.embed
    embedder.embed = lambda images: embed_well(images) * np.float32(np.nan)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"5 of 5 descriptors are not of unit length.*00\.raw"):
        embed(tmp_path / "map", embedder, images(files))
    assert embedder.embedded == SHARD
    assert work_folders(tmp_path / "map") == []


def test_a_source_that_gives_fewer_images_than_it_promised_is_refused(files: list[Path], tmp_path: Path) -> None:
    given = images(files)
    items = iter([("a", lambda: picture(0))] * 7)
    with pytest.raises(DataError, match="has changed while it was read"):
        embed(tmp_path / "map", Counting(), replace(given, items=items))


def test_two_builds_of_the_same_do_not_meet(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "map"
    with embedded_in_shards(out, Counting(), images(files), shard_images=SHARD) as embedded:  # type: ignore[arg-type]
        with pytest.raises(MapError, match="Another process builds"):
            embed(out, Counting(), images(files))
        # A build of something else leaves alone what is at work.
        embed(out, Counting("other"), images(files))
        assert len(np.asarray(embedded.descriptors)) == COUNT
        assert len(work_folders(out)) == 1
    assert work_folders(out) == []


def test_a_bag_is_gone_on_with_without_decoding_its_beginning_again(files: list[Path], tmp_path: Path) -> None:
    stopped(tmp_path / "map", files)
    opened: list[int] = []

    def items() -> Iterator[tuple[str, Callable[[], Image]]]:
        for number in range(COUNT):
            yield str(number), lambda number=number: opened.append(number) or picture(number)  # type: ignore[func-returns-value]

    embed(tmp_path / "map", Counting(), replace(images(files), items=items()))
    assert sorted(opened) == list(range(10, COUNT))


# --- rows in files


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6), data=st.data())
def test_rows_of_shards_are_those_of_one_array(
    lengths: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    whole = np.random.default_rng(0).standard_normal((sum(lengths), 3)).astype(np.float32)
    ends = np.cumsum(lengths)
    shards = [
        write_shard(folder / str(number), int(end - length), int(end), whole[end - length : end], [])
        for number, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    rows = DescriptorRows(shards)
    assert rows.shape == whole.shape
    np.testing.assert_array_equal(np.asarray(rows), whole)
    indices = np.array(data.draw(st.lists(st.integers(0, max(len(whole) - 1, 0)), max_size=8 * bool(len(whole)))), int)
    begin, end = sorted(data.draw(st.tuples(st.integers(0, 20), st.integers(0, 20))))
    np.testing.assert_array_equal(np.asarray(rows[indices]), whole[indices])
    np.testing.assert_array_equal(np.asarray(rows[indices][begin:end]), whole[indices][begin:end])


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_rows_are_written_as_numpy_writes_them(dtype: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9001, 3)).astype(np.float32)
    save_rows(tmp_path / "ours.npy", rows, np.dtype(dtype))
    np.save(tmp_path / "numpy.npy", rows.astype(dtype))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_a_shard_tells_which_images_its_rows_are(tmp_path: Path) -> None:
    failures = [Failure(11, "b\udcff", "torn\nline"), Failure(13, "d", "no image")]
    write_shard(tmp_path / "s", 10, 15, np.eye(3, dtype=np.float32), failures)
    shard = read_shard(tmp_path / "s", 10, 15, 3)
    assert shard is not None
    assert (shard.kept.tolist(), list(shard.failures)) == ([10, 12, 14], failures)
    assert read_shard(tmp_path / "s", 10, 14, 3) is read_shard(tmp_path / "s", 10, 15, 4) is None


def test_the_map_is_written_without_a_copy_of_all_descriptors_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "load_map", lambda *_, **__: None)  # What searching takes is not the question here.
    monkeypatch.setattr("vgssl_core.geomap.rows._ROWS_AT_ONCE", 512)
    rng, count, dimension = np.random.default_rng(0), 40_000, 256
    shards = []
    for begin in range(0, count, 8000):
        block = rng.standard_normal((8000, dimension)).astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        shards.append(write_shard(tmp_path / str(begin), begin, begin + 8000, block, []))
    del block
    positions = local_positions(count)
    tracemalloc.start()
    try:
        build_map(tmp_path / "map", DescriptorRows(shards), "model", positions)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What remains are the images' positions, poses and records, which are kept whole.
    assert peak < 0.6 * count * dimension * 4
    assert len(load_map(tmp_path / "map", verify=False)) == count
