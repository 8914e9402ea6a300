"""Augmentation: geometry of a pair agrees, windows stay inside, effects do what their names say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import picture

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.appearance import EFFECTS, Effect, jittered, recoloured, with_effects
from vgssl_core.geopair.augment import AugmentConfig, PairAugmentation, random_crop, tilted_corners, warped
from vgssl_core.imaging import Image, Preprocessing


def ramp(height: int = 48, width: int = 64) -> np.ndarray:
    """Brightness rises from left to right: a flip is seen at once."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.broadcast_to(row, (height, width))[..., None], 3, axis=2).copy()


@given(st.integers(0, 2**32), st.floats(0, 0.3), st.booleans())
def test_both_images_of_a_pair_are_flipped_or_none(seed: int, jitter: float, crop_positive: bool) -> None:
    config = AugmentConfig(jitter=jitter, crop_positive=crop_positive)
    augmentation = PairAugmentation(config, Preprocessing(32, 24))
    x, y, _ = augmentation.query_and_others(ramp(), ramp(), [], np.random.default_rng(seed))
    rising = [image[:, -4:].mean() > image[:, :4].mean() for image in (x, y)]
    assert rising[0] == rising[1]


def test_flips_come_as_often_as_asked() -> None:
    augmentation = PairAugmentation(AugmentConfig(), Preprocessing(16, 12))
    rng = np.random.default_rng(0)
    views = [augmentation.query_and_others(ramp(12, 16), ramp(12, 16), [], rng)[1] for _ in range(400)]
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
    _, y, _ = PairAugmentation(config, preprocessing).query_and_others(ramp(), ramp(), [], np.random.default_rng(1))
    assert np.array_equal(y, preprocessing.resize(ramp()))


def test_swapped_views_change_places_and_nothing_else() -> None:
    def views(swap: float) -> tuple[np.ndarray, np.ndarray]:
        augmentation = PairAugmentation(AugmentConfig(swap=swap, jitter=0.2), Preprocessing(32, 24))
        return augmentation.query_and_others(ramp(), 255 - ramp(), [], np.random.default_rng(5))[:2]

    (x, y), (other_x, other_y) = views(0.0), views(1.0)
    assert np.array_equal(x, other_y) and np.array_equal(y, other_x)


def test_jitter_keeps_kind_and_changes_pixels() -> None:
    changed = jittered(ramp(), 0.4, np.random.default_rng(3))
    assert changed.dtype == np.uint8 and changed.shape == ramp().shape
    assert not np.array_equal(changed, ramp())


def photograph(height: int = 240, width: int = 320) -> Image:
    """Coarse and fine structure, neither dark nor bright."""
    fine = np.random.default_rng(7).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.addWeighted(picture(3, width, height), 0.5, fine, 0.3, 30)


def gradient_energy(image: Image) -> float:
    return float(sum(np.square(np.diff(image.astype(float), axis=axis)).mean() for axis in (0, 1)))


def effect(name: str, seed: int, image: Image | None = None, strength: float = 1.0) -> Image:
    return EFFECTS[name](photograph() if image is None else image, strength, np.random.default_rng(seed))


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_keeps_kind_size_and_its_input_and_repeats_with_its_draws(name: str) -> None:
    for height, width in ((240, 320), (32, 64), (5, 3), (1, 1)):
        image = photograph(240, 320)[:height, :width]
        kept = image.copy()
        made, again = (effect(name, 3, image) for _ in range(2))
        assert made.shape == image.shape and made.dtype == np.uint8
        assert np.array_equal(made, again) and np.array_equal(image, kept)
    assert not np.array_equal(effect(name, 3), photograph())
    assert not np.array_equal(effect(name, 3), effect(name, 4))


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_of_strength_zero_is_the_image_itself(name: str) -> None:
    for seed in range(3):
        assert np.array_equal(effect(name, seed, strength=0.0), photograph())


@pytest.mark.parametrize("seed", range(5))
def test_effects_do_what_their_names_say(seed: int) -> None:
    image = photograph()
    assert effect("night", seed).mean() < 0.8 * image.mean()
    assert effect("fog", seed).std() < 0.8 * image.std() and effect("fog", seed).mean() > image.mean()
    for name in ("blur", "motion_blur"):
        assert gradient_energy(effect(name, seed)) < 0.9 * gradient_energy(image)
        assert abs(effect(name, seed).mean() - image.mean()) < 2
    snowed = effect("snow", seed)
    assert snowed[-60:].mean() > 1.2 * image[-60:].mean() and abs(snowed[:60].mean() - image[:60].mean()) < 10
    changed = (effect("erase", seed, strength=0.3) != image).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert 0 < len(rows) * len(columns) <= 0.31 * changed.size


def test_rain_draws_bright_streaks_that_are_taller_than_wide() -> None:
    grey = np.full((240, 320, 3), 60, np.uint8)
    streaks = (effect("rain", 1, grey).astype(int).mean(axis=2) > 110).astype(np.uint8)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(streaks)
    assert count > 50 and np.median(boxes[1:, cv2.CC_STAT_HEIGHT]) > 2 * np.median(boxes[1:, cv2.CC_STAT_WIDTH])


def test_colour_changes_are_those_asked_for() -> None:
    image = np.clip(photograph(), 60, 160)
    grey = image.astype(float) @ [0.299, 0.587, 0.114]

    def after(**changes: float) -> np.ndarray:
        return recoloured(image, **{"brightness": 1, "contrast": 1, "saturation": 1, "hue_turns": 0, **changes})

    np.testing.assert_allclose(after(brightness=1.3), np.clip(image * 1.3, 0, 255), atol=1)
    np.testing.assert_allclose(after(contrast=0.5), (image - grey.mean()) * 0.5 + grey.mean(), atol=1)
    np.testing.assert_allclose(after(saturation=0), np.repeat(grey[..., None], 3, axis=2), atol=1)
    np.testing.assert_allclose(after(hue_turns=1 / 3), image[..., [2, 0, 1]], atol=1)
    assert np.array_equal(after(), image)


def test_effects_come_as_often_as_asked_and_those_that_are_off_draw_nothing() -> None:
    effects = {name: Effect() for name in EFFECTS} | {"fog": Effect(1.0, 0.25)}
    image, rng = photograph(12, 16), np.random.default_rng(0)
    assert 70 < sum(not np.array_equal(with_effects(image, effects, rng), image) for _ in range(400)) < 130
    before = rng.bit_generator.state
    with_effects(image, {name: Effect(0.0, 1.0) for name in EFFECTS}, rng)
    assert rng.bit_generator.state == before


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_perspective_moves_corners_inwards_within_its_limit(seed: int, strength: float) -> None:
    corners = tilted_corners(strength, np.random.default_rng(seed))
    whole = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    assert np.abs(corners - whole).max() <= strength / 4
    assert corners.min() >= 0 and corners.max() <= 1
    assert cv2.isContourConvex((corners * 1000).astype(np.float32)) or strength == 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("width", "height"), [(320, 240), (400, 300), (80, 60)])
def test_a_warp_of_the_whole_image_is_its_resize(width: int, height: int, flip: bool) -> None:
    preprocessing, smooth = Preprocessing(width, height), picture(3, 320, 240)
    whole = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    expected = preprocessing.resize(smooth)
    expected = expected[:, ::-1] if flip else expected
    assert np.abs(warped(smooth, whole, preprocessing, flip).astype(int) - expected).max() <= 3


def test_a_warp_brings_the_asked_corners_to_the_corners() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    corners = np.array([[0.1, 0.2], [0.9, 0.1], [0.8, 0.9], [0.2, 0.8]])
    for value, (x, y) in zip((50, 100, 150, 200), corners * (200, 100), strict=True):
        cv2.circle(image, (round(x), round(y)), 6, (value,) * 3, -1)
    made = warped(image, corners, Preprocessing(200, 100), flip=False)
    assert [int(made[y, x, 0]) for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))] == [50, 100, 150, 200]


def test_a_warp_that_shrinks_much_does_not_alias() -> None:
    board = np.indices((400, 400)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    corners = tilted_corners(0.3, np.random.default_rng(0))
    assert warped(image, corners, Preprocessing(100, 100), flip=False).std() < 2


@given(st.integers(0, 2**32))
def test_a_pair_with_everything_on_still_flips_together(seed: int) -> None:
    effects = {name: Effect(0.3, 0.5) for name in ("perspective", *EFFECTS) if name != "erase"}
    augmentation = PairAugmentation(AugmentConfig(crop_positive=True, jitter=0.2, **effects), Preprocessing(32, 24))
    x, y, further = augmentation.query_and_others(ramp(), ramp(), [ramp()], np.random.default_rng(seed))
    assert len(further) == 1
    assert len({image[:, -8:].mean() > image[:, :8].mean() for image in (x, y, *further)}) == 1


def test_nothing_but_the_place_tells_a_negative_from_a_positive() -> None:
    """Else the triplet loss falls to nothing, by the brightness of a crop, and the network learns no places."""
    augmentation = PairAugmentation(AugmentConfig(crop_positive=True, jitter=0.2), Preprocessing(32, 24))
    rng, image = np.random.default_rng(3), ramp()
    views = [augmentation.query_and_others(image, image, [image], rng)[1:] for _ in range(600)]
    for figure in (np.mean, np.std):
        positive, negative = (
            [figure(view) for view in column] for column in zip(*[(y, n[0]) for y, n in views], strict=True)
        )
        error = np.hypot(np.std(positive), np.std(negative)) / np.sqrt(len(views))
        assert abs(np.mean(positive) - np.mean(negative)) < 4 * error
        assert np.std(positive) == pytest.approx(np.std(negative), rel=0.15) and np.std(negative) > 1


def test_further_positives_leave_the_first_pair_as_it_is() -> None:
    augmentation = PairAugmentation(AugmentConfig(crop_positive=True, swap=0.5, jitter=0.2), Preprocessing(32, 24))
    for seed in range(5):
        x, y, _ = augmentation.query_and_others(ramp(), ramp(), [], np.random.default_rng(seed))
        a, b, further = augmentation.query_and_others(ramp(), ramp(), [ramp()], np.random.default_rng(seed))
        assert np.array_equal(x, a) and np.array_equal(y, b) and further[0].shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (AugmentConfig(fog=Effect(1.5)), r"augment\.fog\.strength is 1\.5"),
        (AugmentConfig(perspective=Effect(0.5, -0.1)), r"augment\.perspective\.probability is -0\.1"),
        (AugmentConfig(jitter=float("nan")), r"augment\.jitter is nan"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(config: AugmentConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.check()
