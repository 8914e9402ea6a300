"""From pairs by index to batches of pixels, prepared ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geopair.augment import PairAugmentation
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.pairs import PairList
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.imaging import Image

#: Batches that are prepared while the network works on another.
_AHEAD = 3


@dataclass(frozen=True)
class PixelBatch:
    """Two views of N pairs before normalisation.

    Attributes:
        x, y: (N, H, W, 3) uint8 queries and positives.
        negatives: (N, M, H, W, 3) uint8.
        negatives_y: (N, M, H, W, 3) uint8 second views of them; M is 0 where a negative has one view.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.uint8]
    negatives: NDArray[np.uint8]
    negatives_y: NDArray[np.uint8]


@dataclass(frozen=True)
class _Sample:
    """The images of one pair; ``negatives_y`` is empty where a negative has one view."""

    x: Image
    y: Image
    negatives: Sequence[Image]
    negatives_y: Sequence[Image]


class BatchLoader:
    """Reads, augments and stacks pairs.

    The random draws of a pair depend on seed, epoch and its place in the epoch alone, so that a resumed training
    sees the same pixels whatever the number of threads.
    """

    def __init__(
        self,
        queries: ImageStore,
        database: ImageStore,
        augmentation: PairAugmentation,
        batch_size: int,
        threads: int,
        negative_views: int = 1,
    ) -> None:
        self._queries, self._database = queries, database
        self._augmentation = augmentation
        self._batch_size, self._negative_views = batch_size, negative_views
        self._threads = max(1, threads)

    def steps(self, pairs: PairList) -> int:
        """Full batches in a list; what remains is left out, since batch norm wants no tiny batch."""
        return len(pairs) // self._batch_size

    def batches(self, pairs: PairList, seed: tuple[int, ...], first_step: int = 0) -> Iterator[PixelBatch]:
        """The batches of a list from ``first_step`` on."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[list[Future[_Sample]]] = deque()
            try:
                for step in range(first_step, self.steps(pairs)):
                    rows = range(step * self._batch_size, (step + 1) * self._batch_size)
                    waiting.append([pool.submit(self._pair, pairs, row, seed) for row in rows])
                    if len(waiting) > _AHEAD:
                        yield _stacked(waiting.popleft())
                while waiting:
                    yield _stacked(waiting.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _pair(self, pairs: PairList, row: int, seed: tuple[int, ...]) -> _Sample:
        rng = generator(Stream.AUGMENTATION, *seed, row)
        query, positive = (
            (self._database if pairs.identical[row] else self._queries)[int(pairs.queries[row])],
            self._database[int(pairs.positives[row, 0])],
        )
        x, y = self._augmentation.query_and_positive(query, positive, rng)
        negatives = [self._database[int(index)] for index in pairs.negatives[row]]
        if self._negative_views == 1 or not negatives:
            return _Sample(x, y, [self._augmentation.plain(image) for image in negatives], [])
        return _Sample(x, y, *zip(*(self._augmentation.two_views(image, rng) for image in negatives), strict=True))


def _stacked(futures: list[Future[_Sample]]) -> PixelBatch:
    samples = [future.result() for future in futures]
    x, y = np.stack([sample.x for sample in samples]), np.stack([sample.y for sample in samples])
    negatives, negatives_y = (
        np.array(chosen, np.uint8).reshape(len(x), -1, *x.shape[1:])
        for chosen in ([sample.negatives for sample in samples], [sample.negatives_y for sample in samples])
    )
    return PixelBatch(x, y, negatives, negatives_y)
