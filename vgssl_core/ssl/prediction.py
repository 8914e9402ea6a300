"""What BYOL and SimSiam share: from one view's embedding, predict the other's, which takes no gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from vgssl_core.models import ProjectorConfig
from vgssl_core.ssl.method import MethodConfig
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require


@dataclass(frozen=True)
class PredictionConfig(MethodConfig):
    """Settings of a method with a predictor.

    Attributes:
        projector_layers: L, linear layers of the projector, with batch norm between them; 0 is no projector.
        projector_dim: D_p, length of an embedding and width of the projector's hidden layers.
        predictor_dim: Width of the predictor's hidden layer.
        symmetric: Also predict the queries' embeddings from the positives', as in the papers.
        hard_negatives: Each query brings one mined negative in two views, which count as a pair of the batch.
    """

    projector_layers: int = 2
    projector_dim: int = 4096
    predictor_dim: int = 4096
    symmetric: bool = True
    hard_negatives: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("projector_layers", self.projector_layers >= 0, "0 for none, or more"),
            ("projector_dim", self.projector_dim >= 1, "at least 1"),
            ("predictor_dim", self.predictor_dim >= 1, "at least 1"),
        )

    def projector(self) -> ProjectorConfig:
        """(Linear without bias, batch norm, ReLU) x (L − 1), Linear."""
        return ProjectorConfig(self.projector_layers, self.projector_dim, batch_norm=True)


@at_least_float32
def prediction_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of 2 − 2 cos(prediction, sg target): the squared distance of unit vectors (BYOL, eq. 2).

    Args:
        predictions: (N, D).
        targets: (N, D); no gradient flows into them.

    Returns:
        Scalar from 0 to 4.
    """
    return (2 - 2 * functional.cosine_similarity(predictions, targets.detach(), dim=1)).mean()
