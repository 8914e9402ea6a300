"""Barlow Twins on query-positive pairs: both views agree in each feature, and no feature repeats another.

Zbontar et al., 2021, https://arxiv.org/abs/2103.03230 (equations 1 and 2), with the settings of VG-SSL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vgssl_core.models import DescriptorNet, ProjectorConfig
from vgssl_core.ssl.batch_loss import BatchLossMethod
from vgssl_core.ssl.correlation import Form, centred, off_diagonal_squares, variance
from vgssl_core.ssl.method import MethodConfig, TrainingScale
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require

#: Added to a variance, so that a constant feature does not divide by zero.
_EPSILON = 1e-4


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of Barlow Twins.

    Attributes:
        redundancy_weight: λ of the correlations between different features.
        projector_layers: L, linear layers of the projector; 0 is none.
        projector_dim: D_p, length of its hidden layers and of its output.
        hard_negatives: Each query brings a mined negative, which in two views is a pair of the batch.
    """

    redundancy_weight: float = 0.0051
    projector_layers: int = 2
    projector_dim: int = 2048
    hard_negatives: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("redundancy_weight", 0 <= self.redundancy_weight < math.inf, "0 or more"),
            ("projector_layers", self.projector_layers >= 0, "0 for none, or more"),
            ("projector_dim", self.projector_dim >= 1, "at least 1"),
        )

    def projector(self) -> ProjectorConfig:
        """Batch norm and ReLU in the hidden layers, the last one without bias."""
        return ProjectorConfig(self.projector_layers, self.projector_dim, batch_norm=True, last_bias=False)


@at_least_float32
def barlow_twins_terms(x: Tensor, y: Tensor, redundancy_weight: float, form: Form = "cheaper") -> dict[str, Tensor]:
    """Σ_i (C_ii − 1)² and λ Σ_{i≠j} C_ij², where C is the cross-correlation of the features of the two views.

    C = AᵀB / N with A = (x − mean) / sqrt(variance + 1e-4) for each feature, and B so of y. The variance has N − 1
    below, as in VG-SSL's code, so that C_ii of equal views is (N − 1) / N; the paper's batch norm has N.

    Args:
        x: (N, D) embeddings of any length, N at least 2.
        y: (N, D).
        redundancy_weight: λ.
        form: How to compute the second term; see `vgssl_core.ssl.correlation`.

    Returns:
        Scalars ``invariance`` and ``redundancy``.

    Raises:
        ValueError: Fewer than two rows.
    """
    a, b = _standardised(x), _standardised(y)
    count = len(x)
    return {
        "invariance": ((a * b).sum(dim=0) / count - 1).square().sum(),
        "redundancy": redundancy_weight * off_diagonal_squares(a, b, form) / count**2,
    }


def _standardised(x: Tensor) -> Tensor:
    x = centred(x)
    return x / (variance(x) + _EPSILON).sqrt()


class Method(BatchLossMethod):
    """Barlow Twins."""

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector(), config.hard_negatives)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, one_place: Tensor | None) -> dict[str, Tensor]:
        """Invariance and redundancy; there are no negatives whose place could matter."""
        return barlow_twins_terms(x, y, self.config.redundancy_weight)
