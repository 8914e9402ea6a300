"""BYOL on query-positive pairs: predict what the network's own moving average sees in the other view.

Grill et al., 2020, https://arxiv.org/abs/2006.07733.
"""

from __future__ import annotations

from dataclasses import dataclass

from vgssl_core.models import DescriptorNet, Predictor
from vgssl_core.ssl.method import LossTerms, PairBatch, SslMethod, TrainingScale, two_views
from vgssl_core.ssl.momentum import MomentumEncoder
from vgssl_core.ssl.prediction import PredictionConfig, prediction_loss
from vgssl_core.ssl.settings import require


@dataclass(frozen=True)
class Config(PredictionConfig):
    """Settings of BYOL beside those of every method that predicts.

    Attributes:
        momentum: m of the target: its weights become m · own + (1 − m) · the trained ones.
    """

    momentum: float = 0.99

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        super().__post_init__()
        require(self, ("momentum", 0 <= self.momentum < 1, "at least 0 and less than 1"))


class Method(SslMethod):
    """BYOL.

    Attributes:
        predictor: From one view's embedding to the target's embedding of the other.
        target: Moving average of network and projector, without gradient.
    """

    negative_views = 2

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector())
        self.config = config
        self.negatives_per_query = int(config.hard_negatives)
        self.predictor = Predictor(self.embedding_dim, config.predictor_dim)
        self.target = MomentumEncoder(network, self.projector)

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch."""
        views, queries = two_views(batch), len(batch.x)
        descriptors, z_x = self.embed(views.x)
        terms = {"prediction": prediction_loss(self.predictor(z_x), self.target(views.y))}
        if not self.config.symmetric:
            return LossTerms(terms, descriptors[:queries])
        positive_descriptors, z_y = self.embed(views.y)
        terms["prediction_reverse"] = prediction_loss(self.predictor(z_y), self.target(views.x))
        return LossTerms(terms, descriptors[:queries], positive_descriptors[:queries])

    def after_step(self) -> None:
        """Move the target, after the optimiser has moved the network."""
        self.target.follow(self.network, self.projector, self.config.momentum)
