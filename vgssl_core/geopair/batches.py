"""From pairs by index to batches of pixels, prepared ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.augment import PairAugmentation
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.pairs import PairList
from vgssl_core.geopair.streams import Stream, generator

#: Batches that are prepared while the network works on another.
_AHEAD = 3


@dataclass(frozen=True)
class PixelBatch:
    """Two views of N pairs before normalisation.

    Attributes:
        rows: (N,) int64, which rows of the `PairList` these are.
        x, y: (N, H, W, 3) uint8 queries and positives.
        negatives: (N, M, H, W, 3) uint8.
        negatives_y: (N, M, H, W, 3) uint8 second views of them; M is 0 where a negative has one view.
        positives: (N, K - 1, H, W, 3) uint8 further positives, where the list has K of each query.
    """

    rows: NDArray[np.int64]
    x: NDArray[np.uint8]
    y: NDArray[np.uint8]
    negatives: NDArray[np.uint8]
    negatives_y: NDArray[np.uint8]
    positives: NDArray[np.uint8]

    @property
    def images(self) -> int:
        """Number of images in it, every view counted."""
        return sum(part.shape[0] * (part.shape[1] if part.ndim == 5 else 1) for part in self._parts)

    @property
    def _parts(self) -> tuple[NDArray[np.uint8], ...]:
        return self.x, self.y, self.negatives, self.negatives_y, self.positives


class BatchLoader:
    """Reads, augments and stacks pairs; each of several processes prepares its share of every batch.

    The random draws of a pair depend on seed, epoch and its place in the epoch alone, so that a resumed training
    sees the same pixels whatever the number of threads, and the shares of all processes together are the batch of
    a single one.
    """

    def __init__(
        self,
        queries: ImageStore,
        database: ImageStore,
        augmentation: PairAugmentation,
        queries_per_batch: int,
        threads: int,
        negative_views: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take the images and the shape of a batch.

        Args:
            queries: Images that ``PairList.queries`` counts.
            database: Images that its other indices count.
            augmentation: Makes the views.
            queries_per_batch: Rows of the list in one batch over all processes (`SslMethod.queries_per_step`).
            threads: That prepare images in this process.
            negative_views: 1: a negative is varied as a positive is; 2: two views of it are augmented independently.
            rank: Number of this process, from 0.
            world: Number of processes.

        Raises:
            ConfigError: The processes cannot share a batch evenly.
        """
        if queries_per_batch % world:
            raise ConfigError(
                f"{queries_per_batch} queries per batch cannot be shared evenly by {world} processes: give a "
                "--batch_size that can."
            )
        self._queries, self._database = queries, database
        self._augmentation, self._negative_views = augmentation, negative_views
        self._queries_per_batch, self._share, self._rank = queries_per_batch, queries_per_batch // world, rank
        self._threads = max(1, threads)

    def batches(self, pairs: PairList, seed: tuple[int, ...], first_step: int = 0) -> Iterator[PixelBatch]:
        """This process's share of the full batches of a list, from ``first_step`` on.

        What remains is left out, since batch norm wants no tiny batch.
        """
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: deque[tuple[PixelBatch, list[Future[None]]]] = deque()
            try:
                for step in range(first_step, len(pairs) // self._queries_per_batch):
                    batch = self._empty(pairs, step)
                    parts = np.array_split(np.arange(self._share), min(self._share, self._threads))
                    ahead.append((batch, [pool.submit(self._fill, batch, part, pairs, seed) for part in parts]))
                    if len(ahead) > _AHEAD:
                        yield _finished(*ahead.popleft())
                while ahead:
                    yield _finished(*ahead.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _empty(self, pairs: PairList, step: int) -> PixelBatch:
        first, count = step * self._queries_per_batch + self._rank * self._share, self._share
        (negatives, positives), views = (array.shape[1] for array in (pairs.negatives, pairs.positives)), (count,)
        second = negatives if self._negative_views == 2 else 0
        shapes = (views, views, (count, negatives), (count, second), (count, positives - 1))
        image = (*self._augmentation.size, 3)
        return PixelBatch(np.arange(first, first + count), *(np.empty((*shape, *image), np.uint8) for shape in shapes))

    def _fill(self, batch: PixelBatch, places: NDArray[np.int64], pairs: PairList, seed: tuple[int, ...]) -> None:
        """Prepare the pairs at some places of a batch."""
        for place in places.tolist():
            self._fill_place(batch, place, pairs, seed)

    def _fill_place(self, batch: PixelBatch, place: int, pairs: PairList, seed: tuple[int, ...]) -> None:
        row = int(batch.rows[place])
        rng = generator(Stream.AUGMENTATION, *seed, row)
        query = (self._database if pairs.identical[row] else self._queries)[int(pairs.queries[row])]
        near, far = ([self._database[int(i)] for i in indices[row]] for indices in (pairs.positives, pairs.negatives))
        first, *others = near + far if self._negative_views == 1 else near
        batch.x[place], batch.y[place], views = self._augmentation.query_and_others(query, first, others, rng)
        targets = [*batch.positives[place], *(batch.negatives[place] if self._negative_views == 1 else ())]
        for target, view in zip(targets, views, strict=True):
            target[...] = view
        if self._negative_views == 2:
            for i, image in enumerate(far):
                batch.negatives[place, i], batch.negatives_y[place, i] = self._augmentation.two_views(image, rng)


def _finished(batch: PixelBatch, jobs: list[Future[None]]) -> PixelBatch:
    for job in jobs:
        job.result()
    return batch
