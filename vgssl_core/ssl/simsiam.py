"""SimSiam on query-positive pairs: one network, a predictor, and a stop-gradient that keeps it from collapsing.

Chen and He, 2020, https://arxiv.org/abs/2011.10566. VG-SSL scales its loss like BYOL's: 2 − 2 cos for each direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vgssl_core.models import DescriptorNet, Predictor
from vgssl_core.ssl.method import LossTerms, PairBatch, SslMethod, TrainingScale, two_views
from vgssl_core.ssl.prediction import PredictionConfig, prediction_loss


@dataclass(frozen=True)
class Config(PredictionConfig):
    """Settings of SimSiam: those of every method that predicts."""


class Method(SslMethod):
    """SimSiam.

    Attributes:
        predictor: From one view's embedding to the other's.
    """

    negative_views = 2

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector())
        self.config = config
        self.negatives_per_query = int(config.hard_negatives)
        self.predictor = Predictor(self.embedding_dim, config.predictor_dim)

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch."""
        views, queries = two_views(batch), len(batch.x)
        descriptors, z_x = self.embed(views.x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.symmetric):
            positive_descriptors, z_y = self.embed(views.y)
        terms = {"prediction": prediction_loss(self.predictor(z_x), z_y)}
        if self.config.symmetric:
            terms["prediction_reverse"] = prediction_loss(self.predictor(z_y), z_x)
        return LossTerms(terms, descriptors[:queries], positive_descriptors[:queries])
