"""VICReg on query-positive pairs: views agree, every feature varies over the batch, no feature repeats another.

Bardes et al., 2022, https://arxiv.org/abs/2105.04906 (equations 1 to 6), with the settings of VG-SSL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from vgssl_core.models import DescriptorNet, ProjectorConfig
from vgssl_core.ssl.batch_loss import BatchLossMethod
from vgssl_core.ssl.correlation import Form, centred, off_diagonal_squares, variance
from vgssl_core.ssl.method import MethodConfig, TrainingScale
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require

#: Added to a variance, so that the root of a constant feature has a gradient.
_EPSILON = 1e-4


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of VICReg.

    Attributes:
        invariance_weight: Of the squared difference of the two views.
        variance_weight: Of what a feature's deviation over the batch lacks to 1.
        covariance_weight: Of the squared covariances between different features.
        projector_layers: L, linear layers of the projector; 0 is none.
        projector_dim: D_p, length of its hidden layers and of its output.
        hard_negatives: Each query brings a mined negative, which in two views is a pair of the batch.
    """

    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    projector_layers: int = 3
    projector_dim: int = 4096
    hard_negatives: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        weights = ("invariance_weight", "variance_weight", "covariance_weight")
        require(
            self,
            *((name, 0 <= getattr(self, name) < math.inf, "0 or more") for name in weights),
            ("projector_layers", self.projector_layers >= 0, "0 for none, or more"),
            ("projector_dim", self.projector_dim >= 1, "at least 1"),
        )

    def projector(self) -> ProjectorConfig:
        """Batch norm and ReLU in the hidden layers, the last one without bias."""
        return ProjectorConfig(self.projector_layers, self.projector_dim, batch_norm=True, last_bias=False)


@at_least_float32
def vicreg_terms(x: Tensor, y: Tensor, config: Config, form: Form = "cheaper") -> dict[str, Tensor]:
    """Weighted invariance s, variance v and covariance c of VICReg.

    s = mean (x − y)² over rows and features; v = ½ [mean_j relu(1 − σ_j(x)) + the same of y] with
    σ = sqrt(variance + 1e-4); c = Σ_{i≠j} cov(x)_ij² / D + the same of y. Variance and covariance have N − 1 below.

    Args:
        x: (N, D) embeddings of any length, N at least 2.
        y: (N, D).
        config: The weights.
        form: How to compute the third term; see `vgssl_core.ssl.correlation`.

    Returns:
        Scalars ``invariance``, ``variance`` and ``covariance``.

    Raises:
        ValueError: Fewer than two rows.
    """
    views = centred(x), centred(y)
    lacking = sum((1 - (variance(view) + _EPSILON).sqrt()).relu().mean() for view in views)
    repeated = sum(off_diagonal_squares(view, view, form) for view in views)
    return {
        "invariance": config.invariance_weight * functional.mse_loss(x, y),
        "variance": config.variance_weight * lacking / 2,
        "covariance": config.covariance_weight * repeated / ((len(x) - 1) ** 2 * x.shape[1]),
    }


class Method(BatchLossMethod):
    """VICReg."""

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector(), config.hard_negatives)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, one_place: Tensor | None) -> dict[str, Tensor]:
        """Invariance, variance and covariance; there are no negatives whose place could matter."""
        return vicreg_terms(x, y, self.config)
