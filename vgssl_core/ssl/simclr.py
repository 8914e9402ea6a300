"""SimCLR on query-positive pairs: each image finds its partner among all other images of the batch.

Chen et al., 2020, https://arxiv.org/abs/2002.05709 (NT-Xent, equation 1), with the settings of VG-SSL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vgssl_core.models import DescriptorNet, ProjectorConfig
from vgssl_core.ssl.batch_loss import BatchLossMethod
from vgssl_core.ssl.correlation import gram
from vgssl_core.ssl.method import MethodConfig, TrainingScale
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of SimCLR.

    Attributes:
        temperature: T of the cross entropy.
        projector_layers: L, linear layers of the projector; 0 is none.
        projector_dim: D_p, length of its hidden layers and of its output.
        hard_negatives: Each query brings a mined negative, which in two views is a pair of the batch.
    """

    temperature: float = 0.07
    projector_layers: int = 1
    projector_dim: int = 1024
    hard_negatives: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("temperature", 0 < self.temperature < math.inf, "a number above 0"),
            ("projector_layers", self.projector_layers >= 0, "0 for none, or more"),
            ("projector_dim", self.projector_dim >= 1, "at least 1"),
        )

    def projector(self) -> ProjectorConfig:
        """Linear layers with ReLU between them, without batch norm."""
        return ProjectorConfig(self.projector_layers, self.projector_dim)


@at_least_float32
def nt_xent(x: Tensor, y: Tensor, temperature: float, one_place: Tensor | None = None) -> Tensor:
    """Symmetric NT-Xent over z = [x; y]: −log(exp(z_i·z_p / T) / Σ_{j≠i} exp(z_i·z_j / T)), z of unit length.

    Args:
        x: (N, D) embeddings of any length.
        y: (N, D) partner of each row of ``x``.
        temperature: T.
        one_place: (N, N) bool: which pairs of rows are of one place. They leave the denominator, but for the partner.

    Returns:
        Scalar mean over the 2N rows.
    """
    z = functional.normalize(torch.cat([x, y]), dim=1)
    rows = torch.arange(len(z), device=z.device)
    partners = rows.roll(len(x))
    hidden = torch.eye(len(z), dtype=torch.bool, device=z.device)
    if one_place is not None:
        hidden |= one_place.tile(2, 2)
        hidden[rows, partners] = False
    return functional.cross_entropy((gram(z) / temperature).masked_fill(hidden, -math.inf), partners)


class Method(BatchLossMethod):
    """SimCLR."""

    compares_places = True

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector(), config.hard_negatives)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, one_place: Tensor | None) -> dict[str, Tensor]:
        """NT-Xent."""
        return {"nt_xent": nt_xent(x, y, self.config.temperature, one_place)}
