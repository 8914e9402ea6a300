"""Exact search among the images around a place: a prior position makes it faster than searching the whole map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import SPARE_CANDIDATES, rank
from vgssl_core.geomap.outline import COLUMNS, Outline, slack
from vgssl_core.geomap.positions import CELL_M

#: Values of which the smallest is looked at first.
_STRETCH = 64
#: So many times the wanted ones are looked at first.
_NEAREST_FIRST = 4
#: Where the bound lets more pass than this many times the wanted ones, they are selected one by one.
_MOST_PLACES = 8
#: Where outlines leave more than so many, all descriptors are compared instead: reading single rows is slow.
_MOST_CANDIDATES = 512
_NO_OUTLINES = np.empty((0, COLUMNS), np.float32)
#: More than the relative error of a few sums and products.
_ROUNDING = 1e-13


class CellDirectory:
    """Which rows lie in which square of ``CELL_M``: rows of one square that follow each other are one run.

    Segments are ordered by square, so that a region is a few long runs; in any other order it would only be more.
    """

    def __init__(self, poses: NDArray[np.void]) -> None:
        """Find the runs.

        Args:
            poses: (N,) of ``POSE_DTYPE``.
        """
        squares = _squares(np.floor(poses["y"] / CELL_M), np.floor(poses["x"] / CELL_M))
        begins = np.flatnonzero(np.concatenate([[True], squares[1:] != squares[:-1]]))
        ends = np.append(begins[1:], len(poses))
        order = np.argsort(squares[begins], kind="stable")
        self._squares = squares[begins][order]
        self._begins, self._ends = begins[order], ends[order]
        self._lines = np.unique(self._squares.real)
        # A map of one segment: then squares that follow each other in a line are one slice.
        self._is_ordered = bool((np.diff(self._begins) > 0).all())

    def slices(self, x_m: float, y_m: float, radius_m: float) -> list[tuple[int, int]]:
        """Rows of all squares that a circle touches, as ascending slices that do not touch each other."""
        # Too many squares cost little, and rounding must not leave out one with an image on its border.
        radius_m += _ROUNDING * (1.0 + radius_m + abs(x_m) + abs(y_m))
        low = np.searchsorted(self._lines, np.floor((y_m - radius_m) / CELL_M))
        high = np.searchsorted(self._lines, np.floor((y_m + radius_m) / CELL_M), side="right")
        lines = self._lines[low:high]
        # How far the circle reaches to both sides within a line of squares.
        beside = np.maximum(np.maximum(lines * CELL_M - y_m, y_m - (lines + 1) * CELL_M), 0.0)
        reach = np.sqrt(np.maximum(radius_m**2 - beside**2, 0.0))
        first = np.searchsorted(self._squares, _squares(lines, np.floor((x_m - reach) / CELL_M)))
        last = np.searchsorted(self._squares, _squares(lines, np.floor((x_m + reach) / CELL_M)), side="right")
        if self._is_ordered:
            some = last > first
            return _joined(self._begins[first[some]], self._ends[last[some] - 1])
        runs = [np.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True) if b > a]
        if not runs:
            return []
        chosen = np.concatenate(runs)
        return _joined(np.sort(self._begins[chosen]), np.sort(self._ends[chosen]))


def _joined(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending slices, of which those that touch each other become one."""
    if not len(begins):
        return []
    # np.append would take several times as long.
    apart = np.ones(len(begins) + 1, np.bool_)
    np.not_equal(begins[1:], ends[:-1], out=apart[1:-1])
    return list(zip(begins[apart[:-1]].tolist(), ends[apart[1:]].tolist(), strict=True))


def _squares(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Squares as complex numbers, which sort by their real part and then by the imaginary one."""
    squares = np.empty(len(y), np.complex128)
    squares.real, squares.imag = y, x
    return squares


class _Region:
    """A circle, and the slices of rows among which its images are."""

    def __init__(self, slices: list[tuple[int, int]], x_m: float, y_m: float, radius_m: float) -> None:
        self.slices, self.x_m, self.y_m, self.radius_m = slices, x_m, y_m, radius_m
        self._begins, ends = np.array(slices).T
        self._starts = np.cumsum(ends - self._begins) - (ends - self._begins)

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of places in the slices, which are counted through."""
        owners = np.searchsorted(self._starts, places, side="right") - 1
        return self._begins[owners] + places - self._starts[owners]


class RegionSearch:
    """Exact search among the images within a radius of a place.

    Where the map has outlines, the descriptors of only those images are read whose outlines are near enough.
    """

    def __init__(
        self, blocks: Blocks, poses: NDArray[np.void], use_faiss: bool | None = None, outline: Outline | None = None
    ) -> None:
        """Prepare the directory of squares.

        Args:
            blocks: The map's descriptors.
            poses: (N,) of ``POSE_DTYPE``.
            use_faiss: None takes FAISS where it is installed.
            outline: Of the map's first images.
        """
        self._blocks, self._poses, self._outline = blocks, poses, outline
        self._directory = CellDirectory(poses)
        self._faiss = None if use_faiss is False else load_faiss()

    def search(
        self, queries: NDArray[np.float32], k: int, x_m: float, y_m: float, radius_m: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest images, by descriptor, of those within the radius of a place.

        Args:
            queries: (Q, D) float32.
            k: At least 1.
            x_m: The place, in the map's frame.
            y_m: The same.
            radius_m: Positive; horizontal.

        Returns:
            (Q, m) indices and (Q, m) L2 distances as exact search gives them; m is k, or the number of images within
            the radius where that is smaller.
        """
        slices = self._directory.slices(x_m, y_m, radius_m)
        if not slices:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        asked = _Region(slices, x_m, y_m, radius_m)
        candidates = [self._candidates(query, asked, k)[None] for query in queries]
        ranked = [
            rank(self._blocks, queries[number : number + 1], rows, min(k, rows.shape[1]))
            for number, rows in enumerate(candidates)
        ]
        return np.concatenate([rows for rows, _ in ranked]), np.concatenate([distances for _, distances in ranked])

    def _candidates(self, query: NDArray[np.float32], region: _Region, k: int) -> NDArray[np.int64]:
        """Rows within the region among which the k nearest are, in any order."""
        if self._outline is not None:
            rows = self._near_outlines(self._outline, query, region, k)
            if rows is not None:
                return rows
        return self._nearest_inside(self._compare_all(query, region.slices), region, k + SPARE_CANDIDATES)

    def _near_outlines(
        self, outlines: Outline, query: NDArray[np.float32], region: _Region, k: int
    ) -> NDArray[np.int64] | None:
        """Rows within the region among which the k nearest are; None where outlines exclude too little to help."""
        outline = outlines.of(query[None])[0]
        bounds = self._compare_all(query, region.slices, outline, outlines.rows)
        rows = self._nearest_inside(bounds, region, k)
        if len(rows) < k:
            return None
        # The k nearest are not farther than these k, whichever they are.
        differences = self._blocks.take(rows) - query
        farthest = np.einsum("nd,nd->n", differences, differences).max()
        places = np.flatnonzero(bounds <= farthest + slack(outline))
        if len(places) > _MOST_CANDIDATES:
            return None
        rows = region.rows(places)
        rows = rows[self._is_inside(rows, region)]
        return rows if len(rows) >= k else None  # Fewer only where outlines are not those of the descriptors.

    def _nearest_inside(self, squares: NDArray[np.float32], region: _Region, wanted: int) -> NDArray[np.int64]:
        """The ``wanted`` rows with the smallest values within the region, or all that lie there, in any order."""
        # Where each image lies is asked of the nearest ones first: most of them lie in the circle.
        for enough in (_NEAREST_FIRST * wanted, len(squares)):
            places = _smallest(squares, min(enough, len(squares)))
            rows = region.rows(places)
            inside = self._is_inside(rows, region)
            if np.count_nonzero(inside) >= wanted:
                break
        rows, values = rows[inside], squares[places[inside]]
        return rows if len(rows) <= wanted else rows[np.argpartition(values, wanted - 1)[:wanted]]

    def _is_inside(self, rows: NDArray[np.int64], region: _Region) -> NDArray[np.bool_]:
        """(n,) whether rows lie within the region."""
        x, y = self._poses["x"][rows] - region.x_m, self._poses["y"][rows] - region.y_m
        return x * x + y * y <= region.radius_m**2

    def _compare_all(
        self,
        query: NDArray[np.float32],
        slices: list[tuple[int, int]],
        outline: NDArray[np.float32] | None = None,
        outlines: NDArray[np.float32] = _NO_OUTLINES,
    ) -> NDArray[np.float32]:
        """(n,) squared distances of a query to all rows of the slices, or of its outline to those of the first rows."""
        squares = np.empty(sum(end - begin for begin, end in slices), np.float32)
        compare = self._comparison(query)
        compare_outlines = compare if outline is None else self._comparison(outline)
        at = 0
        for begin, end in slices:
            middle = min(max(begin, len(outlines)), end)
            if begin < middle:
                compare_outlines(outlines[begin:middle], squares[at : at + middle - begin])
            at += middle - begin
            for _, rows in self._blocks.parts(middle, end) if middle < end else ():
                compare(rows, squares[at : at + len(rows)])
                at += len(rows)
        return squares

    def _comparison(self, query: NDArray[np.float32]) -> Callable[[NDArray[np.float32], NDArray[np.float32]], None]:
        """What writes the squared distances of (n, D) rows to a query into an (n,) array."""
        if self._faiss is not None:
            pointer, compare = self._faiss.swig_ptr, self._faiss.fvec_L2sqr_ny
            asked, length = pointer(query), len(query)
            return lambda rows, out: compare(pointer(out), asked, pointer(rows), length, len(rows))

        def in_numpy(rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
            np.einsum("nd,nd->n", rows, rows, out=out)
            out -= 2.0 * np.einsum("d,nd->n", query, rows)
            out += query @ query

        return in_numpy


def _smallest(values: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
    """Places of the ``wanted`` smallest values, and perhaps of some more, in any order.

    The ``wanted``-th smallest minimum of short stretches is not below the ``wanted``-th smallest value, and much faster
    to find.
    """
    stretches = len(values) // _STRETCH
    if stretches > wanted:
        minima = values[: stretches * _STRETCH].reshape(stretches, _STRETCH).min(axis=1)
        places = np.flatnonzero(values <= np.partition(minima, wanted - 1)[wanted - 1])
        if len(places) <= _MOST_PLACES * wanted:
            return places
    return np.argpartition(values, wanted - 1)[:wanted]
