"""What counts as agreement between an engine and the network."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vgssl_core.inference.tensorrt_check import MINIMUM_COSINE, agreement


def unit(rows: NDArray) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def streets(places: int, apart: float, dimension: int = 256) -> NDArray[np.float32]:
    """Two views of each place; ``apart`` is how much the views of one differ."""
    generator = np.random.default_rng(1)
    centres = np.repeat(unit(generator.standard_normal((places, dimension))), 2, axis=0)
    return unit(centres + apart * unit(generator.standard_normal(centres.shape)))


def noisy(rows: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Rows with exactly this cosine to the given ones."""
    noise = np.random.default_rng(2).standard_normal(rows.shape)
    noise = unit(noise - np.sum(noise * rows, axis=1, keepdims=True) * rows)
    return unit(cosine * rows + np.sqrt(1 - cosine**2) * noise)


def directions(*degrees: float) -> NDArray[np.float32]:
    return np.array([[np.cos(angle), np.sin(angle)] for angle in np.radians(degrees)], np.float32)


@pytest.mark.parametrize("precision", MINIMUM_COSINE)
def test_equal_descriptors_agree(precision: str) -> None:
    for rows in (streets(8, 0.5), streets(1, 0.5)[:1], np.repeat(streets(1, 0.1), 3, axis=0)):
        assert agreement(rows, rows).suffices(precision)


@pytest.mark.parametrize(("precision", "accepted", "refused"), [("fp32", 0.99995, 0.9998), ("fp16", 0.9995, 0.998)])
def test_a_cosine_below_the_precisions_own_is_refused(precision: str, accepted: float, refused: float) -> None:
    rows = streets(8, 0.5)
    assert agreement(noisy(rows, accepted), rows).suffices(precision)
    assert not agreement(noisy(rows, refused), rows).suffices(precision)


def test_int8_is_judged_by_ranking_and_not_by_its_cosine() -> None:
    rows = streets(8, 0.5)
    coarse = agreement(noisy(rows, 0.95), rows)
    assert coarse.cosine < MINIMUM_COSINE["fp16"] and coarse.suffices("int8")
    # A better cosine, but the nearest of the first sample, at 30 degrees, is no longer nearer than that at -40.
    wrong = agreement(directions(-12, 30, -40), directions(0, 30, -40))
    assert wrong.cosine > coarse.cosine and wrong.found == 1.0 and wrong.ranking == pytest.approx(2 / 3)
    assert not wrong.suffices("int8")
    # 30 and -31 degrees were as good as equal.
    assert agreement(directions(-4, 30, -31), directions(0, 30, -31)).suffices("int8")


def test_a_sample_that_finds_another_first_is_refused_even_where_cosines_are_high() -> None:
    # All places alike, as a collapsed network makes them: exchanging two is a matter of 1e-3 in the cosine.
    rows = streets(4, 0.06)[:2]
    mixed = agreement(rows[::-1], rows)
    assert mixed.cosine > MINIMUM_COSINE["int8"] and mixed.found == 0.0
    assert not mixed.suffices("int8")


@pytest.mark.parametrize("precision", MINIMUM_COSINE)
def test_no_numbers_and_other_shapes_are_refused(precision: str) -> None:
    rows = streets(2, 0.5)
    broken = rows.copy()
    broken[3, 7] = np.nan
    for given in (broken, rows * np.inf, rows[:3], rows[:, :10], np.zeros_like(rows), rows / 2):
        with np.errstate(invalid="ignore"):
            assert not agreement(given, rows).suffices(precision)
