"""Sequence matching without metric positions: the order of the map's images is all there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from map_support import make_images
from numpy.typing import NDArray

from vgssl_core.geomap import build_map
from vgssl_core.localization import DEFAULT
from vgssl_core.localization.sequence import SequenceFilter, sequence_places
from vgssl_core.localization.states import State

IMAGES = 400


def matches(right: int, is_right: bool, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Twenty matches: where the query is recognised its image and those beside it come first."""
    others = rng.permutation(IMAGES)[:20]
    near = np.clip([right, right + 1, right - 1], 0, IMAGES - 1) if is_right else others[:3]
    indices = np.concatenate([near, others[3:]])
    distances = np.concatenate([[0.5, 0.6, 0.65], np.linspace(0.9, 1.0, 17)]) if is_right else np.linspace(0.9, 1, 20)
    return indices.astype(np.int64), distances.astype(np.float32)


def follow(truth: NDArray[np.int64], places: NDArray[np.float64], share_right: float, seed: int = 0) -> list:
    rng, followed = np.random.default_rng(seed), SequenceFilter(places, DEFAULT)
    return [followed.update(*matches(int(image), rng.random() < share_right, rng)) for image in truth]


def test_a_sequence_is_followed_though_half_of_the_queries_are_not_recognised() -> None:
    truth = 50 + 2 * np.arange(120)
    answers = follow(truth, np.arange(IMAGES, dtype=float), 0.5)
    error = np.abs([answer.image for answer in answers] - truth)
    assert np.mean(error[20:] <= 3) > 0.9
    assert np.mean([answer.state is State.LOCALIZED for answer in answers[40:]]) > 0.5
    assert (error[[answer.is_accepted for answer in answers]] <= 5).all()
    for answer in answers:
        assert 0.0 <= answer.probability <= 1.0


def test_a_sequence_is_followed_backwards_and_in_any_order_of_the_map_s_rows() -> None:
    rows = np.random.default_rng(1).permutation(IMAGES)
    places = np.empty(IMAGES)
    places[rows] = np.arange(IMAGES)
    along = 350 - 2 * np.arange(100)
    rng, followed = np.random.default_rng(2), SequenceFilter(places, DEFAULT)
    answers = []
    for place in along:
        indices, distances = matches(int(place), rng.random() < 0.7, rng)
        answers.append(followed.update(rows[indices], distances))
    found = np.array([places[answer.image] for answer in answers])
    assert np.mean(np.abs(found - along)[20:] <= 2) > 0.95


def test_queries_that_cannot_be_used_are_bridged() -> None:
    followed, rng = SequenceFilter(np.arange(IMAGES, dtype=float), DEFAULT), np.random.default_rng(0)
    for image in range(50, 110, 2):
        followed.update(*matches(image, True, rng))
    for _ in range(3):
        bridged = followed.update(None)
    assert bridged.image is not None and abs(bridged.image - 114) <= 2
    followed.reset()
    assert followed.update(None).image is None


def test_places_follow_stamps_and_drives_lie_apart(tmp_path: Path) -> None:
    stamps = np.array([5, 1, 4, 2, 103, 101]) * 10**9
    geomap = build_map(tmp_path / "map", *_parts(stamps))
    order = {
        int(source.rsplit(" ", 1)[1]): place
        for source, place in zip(geomap.sources, sequence_places(geomap), strict=True)
    }
    assert [order[number] for number in (1, 3, 2, 0)] == [0, 1, 2, 3]
    assert order[5] - order[0] > 100 and order[4] == order[5] + 1


def test_places_follow_names_where_a_stamp_is_unknown(tmp_path: Path) -> None:
    geomap = build_map(tmp_path / "map", *_parts(np.array([5, -1, 4, 2, 103, 101])))
    order = {source: place for source, place in zip(geomap.sources, sequence_places(geomap), strict=True)}
    assert [order[source] for source in sorted(order)] == list(range(6))


def _parts(stamps: NDArray[np.int64]) -> tuple:
    images = make_images(len(stamps), stamp_ns=stamps.astype(np.int64))
    return images.descriptors, "model", images.positions
