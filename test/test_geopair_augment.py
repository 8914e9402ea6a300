"""Augmentation: geometry of a pair agrees, windows stay inside."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core.geopair.augment import AugmentConfig, PairAugmentation, jittered, random_crop
from vgssl_core.imaging import Preprocessing


def ramp(height: int = 48, width: int = 64) -> np.ndarray:
    """Brightness rises from left to right: a flip is seen at once."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.broadcast_to(row, (height, width))[..., None], 3, axis=2).copy()


@given(st.integers(0, 2**32), st.floats(0, 0.3), st.booleans())
def test_both_images_of_a_pair_are_flipped_or_none(seed: int, jitter: float, crop_positive: bool) -> None:
    config = AugmentConfig(jitter=jitter, crop_positive=crop_positive)
    augmentation = PairAugmentation(config, Preprocessing(32, 24))
    x, y, _ = augmentation.query_and_positives(ramp(), [ramp()], np.random.default_rng(seed))
    rising = [image[:, -4:].mean() > image[:, :4].mean() for image in (x, y)]
    assert rising[0] == rising[1]


def test_flips_come_as_often_as_asked() -> None:
    augmentation = PairAugmentation(AugmentConfig(), Preprocessing(16, 12))
    rng = np.random.default_rng(0)
    views = [augmentation.query_and_positives(ramp(12, 16), [ramp(12, 16)], rng)[1] for _ in range(400)]
    assert 160 < sum(view[:, -1].mean() < view[:, 0].mean() for view in views) < 240


@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 200), st.booleans())
def test_crop_lies_inside_and_keeps_the_asked_share(seed: int, height: int, width: int, keeps: bool) -> None:
    config = AugmentConfig(crop_keeps_aspect=keeps)
    top, left, h, w = random_crop(height, width, config, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width
    assert h >= 1 and w >= 1
    if keeps and min(height, width) > 20:
        assert h * w >= 0.70 * height * width


def test_positive_is_only_resized_by_default() -> None:
    config, preprocessing = AugmentConfig(flip=0.0), Preprocessing(32, 24)
    _, y, _ = PairAugmentation(config, preprocessing).query_and_positives(ramp(), [ramp()], np.random.default_rng(1))
    assert np.array_equal(y, preprocessing.resize(ramp()))


def test_swapped_views_change_places_and_nothing_else() -> None:
    def views(swap: float) -> tuple[np.ndarray, np.ndarray]:
        augmentation = PairAugmentation(AugmentConfig(swap=swap, jitter=0.2), Preprocessing(32, 24))
        return augmentation.query_and_positives(ramp(), [255 - ramp()], np.random.default_rng(5))[:2]

    (x, y), (other_x, other_y) = views(0.0), views(1.0)
    assert np.array_equal(x, other_y) and np.array_equal(y, other_x)


def test_jitter_keeps_kind_and_changes_pixels() -> None:
    changed = jittered(ramp(), 0.4, np.random.default_rng(3))
    assert changed.dtype == np.uint8 and changed.shape == ramp().shape
    assert not np.array_equal(changed, ramp())
