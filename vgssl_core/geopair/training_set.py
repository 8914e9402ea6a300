"""What a training draws its batches from: pairs, their images, and how an epoch is cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from vgssl_core.geopair.batches import BatchLoader, PixelBatch
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.pairs import GeoPairs, PairList
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import normalise_images
from vgssl_core.ssl.method import PairBatch


@dataclass(frozen=True)
class TrainingSet:
    """The pairs of a training and where their pixels come from.

    Attributes:
        pairs: What the place set offers.
        queries, database: Its images.
        preprocessing: From pixels to the network's input.
        loader: Makes this process's batches.
        rows_per_step: Pairs of a `PairList` that one step takes, over all its batches and processes.
        seed: Of the training.
        queries_per_epoch: 0 takes all.
        by_descriptors: Pairs are chosen by the network's descriptors, and anew after some queries.
    """

    pairs: GeoPairs
    queries: ImageStore
    database: ImageStore
    preprocessing: Preprocessing
    loader: BatchLoader
    rows_per_step: int
    seed: int
    queries_per_epoch: int
    by_descriptors: bool

    def chunks(self, epoch: int) -> list[NDArray[np.int64]]:
        """Queries of an epoch, cut where pairs are chosen anew; chunks that make no step are left out."""
        order = self.pairs.epoch_order(self.seed, epoch, self.queries_per_epoch or None)
        refresh = self.pairs.config.refresh_queries
        if not (self.by_descriptors and refresh):
            chunks = [order]
        else:
            # As many as make whole steps: pairs that are left over are not trained on.
            steps = max(1, self.pairs.rows_of(refresh) // self.rows_per_step)
            size = next(n for n in range(1, refresh + self.rows_per_step) if self.steps(n) >= steps)
            chunks = [order[start : start + size] for start in range(0, len(order), size)]
        return [chunk for chunk in chunks if self.steps(len(chunk))]

    def steps(self, queries: int) -> int:
        """Steps that the pairs of so many queries make."""
        return self.pairs.rows_of(queries) // self.rows_per_step

    def epoch_steps(self) -> int:
        """Steps of one epoch."""
        return sum(self.steps(len(chunk)) for chunk in self.chunks(0))

    def batches(self, pairs: PairList, epoch: int, chunk: int, first: int) -> Iterator[PixelBatch]:
        """This process's batches of a chunk, from one of them on."""
        return self.loader.batches(pairs, (self.seed, epoch, chunk), first)

    def on_device(self, pixels: PixelBatch, pairs: PairList, device: torch.device) -> PairBatch:
        """A batch as methods take it, normalised, on the device; with positions where they are asked for."""

        def views(array: NDArray[np.uint8]) -> torch.Tensor | None:
            if not array.size:
                return None
            return network_input(array, self.preprocessing, device)

        x, y = views(pixels.x), views(pixels.y)
        assert x is not None and y is not None
        further = {name: views(getattr(pixels, name)) for name in ("negatives", "negatives_y", "positives")}
        if not self.pairs.config.mask_false_negatives:
            return PairBatch(x, y, **further)
        positions = self.pairs.batch_positions_m(pairs, pixels.rows)
        own, negative = (torch.from_numpy(array).to(device) for array in positions)
        return PairBatch(
            **{"x": x, "y": y, **further, "positions_m": own},
            negative_positions_m=None if further["negatives"] is None else negative,
            same_place_m=self.pairs.config.negative_radius_m,
        )


def network_input(pixels: NDArray[np.uint8], preprocessing: Preprocessing, device: torch.device) -> torch.Tensor:
    """(…, H, W, 3) pixels to (…, 3, H, W) float32, normalised on the device; the copy does not wait for its work."""
    images = torch.from_numpy(pixels)
    if device.type == "cuda":  # only from pinned memory does a copy run beside the device's work
        images = images.pin_memory().to(device, non_blocking=True)
    return normalise_images(images.to(device), preprocessing)


def chosen(pairs: PairList, rows: NDArray[np.int64]) -> PairList:
    """Some pairs of a list."""
    return PairList(**{item.name: getattr(pairs, item.name)[rows] for item in fields(PairList)})
