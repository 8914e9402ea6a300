"""Positives where a street was driven once and there are no queries: every image looks for another of its place.

Views that overlap are positives; those that differ most are preferred, because what all images of a drive share (light,
weather, the frame before) teaches nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from vgssl_core.bags.track import thinned
from vgssl_core.geopair.pair_config import PairConfig
from vgssl_core.places import UNKNOWN_STAMP_NS, Places, within_radius

#: Headings further apart show a place from another side.
_OTHER_HEADING_DEG = 15.0


def own_positives(places: Places, config: PairConfig) -> csr_matrix:
    """Positives of every image among the others of the same drive.

    Of the images within the positive radius whose views overlap, each image gets the best kind that it has: those of
    another pass and from another side, of another pass, from another side, of the same pass, and near-identical
    neighbours of the same pass last. An unknown heading is no preference, and overlaps.

    Args:
        places: N images.
        config: Radius and limits.

    Returns:
        (N, N) boolean CSR matrix with sorted indices; its diagonal is empty.
    """
    near = within_radius(places.planar_m, places.planar_m, config.positive_radius_m).tocoo()
    turn_deg = np.abs((places.heading_deg[near.row] - places.heading_deg[near.col] + 180) % 360 - 180)
    usable = (near.row != near.col) & ~(turn_deg > config.heading_limit_deg)
    image, other, turn_deg = near.row[usable], near.col[usable], turn_deg[usable]
    same_pass = ~_in_other_pass(places, image, other, config)
    same_side = ~(turn_deg > _OTHER_HEADING_DEG)
    distance_m = np.linalg.norm(places.planar_m[image] - places.planar_m[other], axis=1)
    rank = 2 * same_pass + same_side + (same_pass & same_side & (distance_m < config.near_identical_m))
    best = np.full(len(places), rank.max(initial=0))
    np.minimum.at(best, image, rank)
    chosen = rank == best[image]
    matrix = csr_matrix((np.ones(chosen.sum(), bool), (image[chosen], other[chosen])), shape=near.shape)
    matrix.sort_indices()
    return matrix


def _in_other_pass(
    places: Places, image: NDArray[np.integer], other: NDArray[np.integer], config: PairConfig
) -> NDArray[np.bool_]:
    """Whether the vehicle left the place between two images and came back: by its way, and by time where known."""
    has_stamps = bool((places.stamp_ns != UNKNOWN_STAMP_NS).all())
    order = np.argsort(places.stamp_ns, kind="stable") if has_stamps else np.arange(len(places))
    ordered_m = places.planar_m[order]
    steps_m = np.linalg.norm(np.diff(ordered_m, axis=0), axis=1)
    if not has_stamps and not (len(steps_m) and np.median(steps_m) <= config.positive_radius_m):
        return np.zeros(len(image), bool)  # the order of the files is no drive: passes are not known
    way_m = np.empty(len(places))
    way_m[order] = _way_m(ordered_m, config.near_identical_m)
    apart = np.abs(way_m[image] - way_m[other]) > 2 * config.positive_radius_m
    if has_stamps:
        apart &= np.abs(places.stamp_ns[image] - places.stamp_ns[other]) > config.pass_gap_s * 1e9
    return apart


def _way_m(ordered_m: NDArray[np.float64], spacing_m: float) -> NDArray[np.float64]:
    """(N,) metres driven up to each image; steps below the spacing count as noise of the positions."""
    knots = thinned(ordered_m, spacing_m)
    driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ordered_m[knots], axis=0), axis=1))])
    return driven[np.searchsorted(knots, np.arange(len(ordered_m)), side="right") - 1]
