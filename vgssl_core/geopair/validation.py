"""Recall@N during training: exact nearest neighbours by one matrix product."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgssl_core.errors import DataError
from vgssl_core.evaluation.recall import recall_at
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.training_set import network_input
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import DescriptorNet
from vgssl_core.places import PlaceSet, within_radius

_BATCH = 64
#: Queries whose similarity to the whole database is in memory at once.
_ROWS = 1024
NS = (1, 5, 10)


@torch.inference_mode()
def embed_store(
    network: DescriptorNet,
    store: ImageStore,
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    processes: Processes,
    autocast_dtype: torch.dtype | None = None,
) -> Tensor:
    """Descriptors of stored images in evaluation mode; the network's mode and precision are put back.

    Each process embeds its share, while threads decode ahead, and all have all rows in the end.

    Args:
        network: On its device.
        store: Images at the input size.
        indices: (n,) which of them.
        preprocessing: For the normalisation.
        processes: That call this together.
        autocast_dtype: Of the backbone; None is float32.

    Returns:
        (n, D) float32 on the network's device.
    """
    device, was_training, trained_dtype = next(network.parameters()).device, network.training, network.autocast_dtype
    network.eval().autocast_dtype = autocast_dtype
    rows = [torch.zeros((0, network.dimension), device=device)]
    own = indices[processes.share(len(indices))]
    for pixels in store.batches(own, _BATCH):
        rows.append(network(network_input(pixels, preprocessing, device)).float())
    network.train(was_training).autocast_dtype = trained_dtype
    return processes.joined(torch.cat(rows), len(indices))


class Validation:
    """A place set to measure Recall@N on.

    Where the queries are the database, no image finds itself.

    Attributes:
        name: Of the set.
    """

    def __init__(
        self,
        places: PlaceSet,
        queries: ImageStore,
        database: ImageStore,
        preprocessing: Preprocessing,
        radius_m: float,
    ) -> None:
        self.name = places.name
        self._alone = places.queries is places.database
        positives = within_radius(places.queries.planar_m, places.database.planar_m, radius_m)
        if self._alone:
            positives.setdiag(False)
            positives.eliminate_zeros()
        if not positives.nnz:
            raise DataError(
                f"The validation set {places.name}: no database image within {radius_m:g} m of any of "
                f"{len(places.queries)} queries. Give another --val, or raise --recall_radius_m."
            )
        self._positives = positives
        self._preprocessing = preprocessing
        self._queries, self._database = queries, database

    def recall(self, network: DescriptorNet, processes: Processes) -> dict[int, float]:
        """Recall@{1, 5, 10} in percent, by a network in float32; the same in all processes."""
        stores = (self._queries, self._database)
        queries, database = (embed_store(network, s, np.arange(len(s)), self._preprocessing, processes) for s in stores)
        count = min(max(NS), len(database))
        best = []
        for start in range(0, len(queries), _ROWS):
            similarity = queries[start : start + _ROWS] @ database.T
            if self._alone:
                similarity.diagonal(start).fill_(-torch.inf)
            best.append(similarity.topk(count, dim=1).indices)
        return recall_at(torch.cat(best).cpu().numpy(), self._positives, NS)
