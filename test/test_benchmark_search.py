"""The simulated maps are what they are said to be, and the benchmark of search measures what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import search  # noqa: E402
from simulated_map import DRIVES, KINDS, STREET_IMAGES, simulate  # noqa: E402


@pytest.mark.parametrize("kind", [*KINDS, "uniform"])
def test_a_simulated_map_is_drawn_again_from_its_seed(kind: str) -> None:
    first, again, other = (simulate(kind, 700, 16, 5, seed) for seed in (1, 1, 2))
    for name in ("descriptors", "planar_m", "queries", "query_planar_m"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(other, name)).any()
    np.testing.assert_allclose(np.linalg.norm(first.descriptors, axis=1), 1, atol=1e-5)
    assert first.descriptors.shape == (700, 16) and first.descriptors.dtype == np.float32
    with pytest.raises(ValueError, match="no kind"):
        simulate("spiral", 10, 4, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_trajectories_have_the_spectrum_and_correlations_of_their_law(kind: str) -> None:
    law = KINDS[kind]
    rows = simulate(kind, 20_000, 64, 1).descriptors
    mean = rows.mean(axis=0)
    # Unit length draws what varies together.
    assert mean @ mean == pytest.approx(law.mean_share, abs=0.08)
    spectrum = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    # The direction of the mean hardly varies, because rows have unit length.
    slope = np.polyfit(np.log(np.arange(2, 33)), np.log(spectrum[1:32]), 1)[0]
    assert slope == pytest.approx(-law.exponent, abs=0.2)
    streets = (rows - mean).reshape(-1, DRIVES, STREET_IMAGES, 64)
    variance = (streets**2).sum(axis=-1).mean()

    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        return float((first * second).sum(axis=-1).mean() / variance)

    for lag in (1, 5):
        expected = law.correlation * np.exp(-2 * lag / law.length_m)
        assert correlation(streets[:, :, lag:], streets[:, :, :-lag]) == pytest.approx(expected, abs=0.05)
    assert correlation(streets[:, 0], streets[:, 1]) == pytest.approx(law.correlation, abs=0.05)


def test_exact_and_regional_search_miss_nothing_in_the_benchmark(tmp_path: Path) -> None:
    config = search.Config(sizes=[900], dimension=16, queries=12, region=100)
    search.make_map(tmp_path, "trajectories-1", 900, config)
    reference, exact, near = (work(tmp_path, config) for work in (search.peers, search.ours, search.region))
    for found, truth in (
        (reference, exact.distances),
        (exact, exact.distances),
        (near, search.true_region_distances(tmp_path, config)),
    ):
        cells = search.row("a map", found, truth, reference)
        assert cells[-2:] == ["1.000", "1.000"]
        assert (found.times_ms > 0).all() and found.load_ms > 0
    counts = np.isfinite(near.distances).sum(axis=1)
    assert counts.min() > 0
