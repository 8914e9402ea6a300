"""What SimCLR, Barlow Twins and VICReg have in common: one loss over the two views of a whole batch."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from vgssl_core.models import DescriptorNet, ProjectorConfig
from vgssl_core.ssl.false_negatives import same_place
from vgssl_core.ssl.gather import gathered
from vgssl_core.ssl.method import LossTerms, PairBatch, SslMethod, two_views


class BatchLossMethod(SslMethod):
    """A method whose loss is a function of both views' embeddings of all processes.

    Each view goes through the network by itself, so that batch norm sees queries and positives apart, as in the
    reference. Hard negatives are pairs of two views of their own.
    """

    negative_views = 2

    def __init__(self, network: DescriptorNet, projector: ProjectorConfig | None, hard_negatives: bool) -> None:
        super().__init__(network, projector)
        self.negatives_per_query = int(hard_negatives)

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor, one_place: Tensor | None) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            x: (B, E) embeddings of the first views, not normalised.
            y: (B, E) embeddings of the second views.
            one_place: (B, B) bool, which rows are of one place and so no negatives of each other; None: unknown.
        """

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch, with its hard negatives where it has any."""
        views = two_views(batch)
        (of_x, x), (of_y, y) = self.embed(views.x), self.embed(views.y)
        one_place = None
        if views.positions_m is not None:
            positions_m = gathered(views.positions_m)
            one_place = same_place(positions_m, positions_m, batch.same_place_m)
        queries = len(batch.x)
        return LossTerms(self.loss(gathered(x), gathered(y), one_place), of_x[:queries], of_y[:queries])
