"""Images are decoded as rarely as memory allows, ahead of whom they are for, and looked at once in advance."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_place_set
from train_support import arguments, configuration, make_data

from training import train
from vgssl_core.errors import DataError
from vgssl_core.geopair import images
from vgssl_core.geopair.decoded_cache import DecodedCache
from vgssl_core.geopair.images import ImageMemory, ImageStore
from vgssl_core.geopair.setup import build_trainer
from vgssl_core.imaging import Preprocessing, read_image
from vgssl_core.places import read_place_set

#: Three images of it are one MiB and a little.
SIZE = Preprocessing(400, 300)
SIX = np.arange(6)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was decoded."""
    seen: Counter[Path] = Counter()

    def noted(path: Path, least_size: tuple[int, int] | None) -> np.ndarray:
        seen[path] += 1
        return read_image(path, least_size)

    monkeypatch.setattr(images, "read_image", noted)
    return seen


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, ...]:
    return tuple(read_place_set(make_place_set(tmp_path / "places", count=6, queries=2)).database.paths)


def test_stores_share_the_memory_in_their_order(paths: tuple[Path, ...], decoded: Counter[Path]) -> None:
    memory = ImageMemory(2)  # 5 images
    first, second, third = (ImageStore(part, SIZE, memory, 1) for part in (paths[:2], paths, paths[:2]))
    assert memory.free_bytes == 2 * 2**20 - 5 * 400 * 300 * 3
    decoded.clear()
    for store in (first, second, third):
        for index, path in enumerate(store.paths):
            np.testing.assert_array_equal(store[index], SIZE.resize(read_image(path)))
    assert decoded == Counter([*paths[3:], *paths[:2]])


def test_no_memory_keeps_nothing(paths: tuple[Path, ...], decoded: Counter[Path]) -> None:
    store = ImageStore(paths, SIZE, ImageMemory(0), 1)
    for _ in range(2):
        assert store[0].shape == (300, 400, 3)
    assert decoded[paths[0]] == 3


def test_memory_holds_what_the_cache_has_no_room_for(
    paths: tuple[Path, ...], tmp_path: Path, decoded: Counter[Path]
) -> None:
    store = ImageStore(paths, SIZE, ImageMemory(1), 1, DecodedCache(tmp_path / "cache", 1))  # 2 images each
    decoded.clear()
    pixels = np.concatenate(list(store.batches(SIX, 4)))
    assert decoded == Counter(paths[4:])
    np.testing.assert_array_equal(pixels, [SIZE.resize(read_image(path)) for path in paths])


def test_processes_share_the_look_in_advance_and_keep_what_they_use(
    paths: tuple[Path, ...], decoded: Counter[Path]
) -> None:
    first, second = (ImageStore(paths, SIZE, ImageMemory(16), 1, part=slice(rank, None, 2)) for rank in range(2))
    assert decoded == Counter(paths)
    for _ in range(2):
        assert all(np.array_equal(first[index], second[index]) for index in SIX)
    assert decoded == Counter(2 * paths)


def test_each_process_names_the_damaged_files_of_its_part(paths: tuple[Path, ...]) -> None:
    paths[3].write_bytes(b"no image")
    ImageStore(paths, SIZE, ImageMemory(0), 1, part=slice(0, None, 2))
    with pytest.raises(DataError, match="1 of 6 images cannot be used: "):
        ImageStore(paths, SIZE, ImageMemory(0), 1, part=slice(1, None, 2))


@pytest.mark.parametrize("memory_mib", [0, 16])
def test_a_run_that_goes_on_looks_at_no_image_in_advance(
    tmp_path: Path, decoded: Counter[Path], memory_mib: int
) -> None:
    given = [*arguments("vicreg", make_data(tmp_path / "data")), "--out", str(tmp_path / "run")]
    given += ["--memory_mib", str(memory_mib), "--max_steps"]
    assert train.main([*given, "2"]) == 0
    decoded.clear()
    build_trainer(configuration([*given, "3", "--resume", "true"]))
    assert not decoded


def test_batches_are_decoded_ahead_by_the_threads_of_the_store(
    paths: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(paths, SIZE, ImageMemory(0), 2)
    together = threading.Barrier(2, timeout=20)  # passed only by two at the same time

    def noted(path: Path, least_size: tuple[int, int] | None) -> np.ndarray:
        together.wait()
        return read_image(path, least_size)

    monkeypatch.setattr(images, "read_image", noted)
    assert [len(batch) for batch in store.batches(SIX, 4)] == [4, 2]
    assert not list(store.batches(SIX[:0], 4))


def test_a_file_that_no_longer_decodes_ends_the_batches(paths: tuple[Path, ...]) -> None:
    store = ImageStore(paths, SIZE, ImageMemory(0), 2)
    paths[5].unlink()
    batches = store.batches(SIX, 2)
    assert len(next(batches)) == 2
    with pytest.raises(DataError, match=paths[5].name):
        list(batches)


def test_mining_embeds_in_the_precision_of_the_training_and_validation_in_float32(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    trainer = build_trainer(configuration([*arguments("triplet", data, "--precision", "bf16"), "--out", str(tmp_path)]))
    network, seen = trainer.method.network, []
    network.backbone.layer1.register_forward_hook(lambda *call: seen.append((call[0].training, call[2].dtype)))
    trainer.method.train()
    trainer._make_pairs(trainer._data.chunks(0)[0])
    assert set(seen) == {(False, torch.bfloat16)}
    seen.clear()
    trainer._validation.recall(network, trainer._processes)
    assert set(seen) == {(False, torch.float32)}
    assert network.training and network.autocast_dtype == torch.bfloat16
