"""Multi-similarity loss with its pair miner, on batches of several images of each place.

Wang et al., 2019, https://arxiv.org/abs/1904.06627. This family goes beyond the papers of VG-SSL: it is supervised
metric learning with places as classes, as in Ali-bey et al., 2022, https://arxiv.org/abs/2210.10239.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vgssl_core.models import DescriptorNet
from vgssl_core.ssl.correlation import gram
from vgssl_core.ssl.false_negatives import same_place
from vgssl_core.ssl.gather import gathered
from vgssl_core.ssl.method import LossTerms, MethodConfig, PairBatch, SslMethod, TrainingScale
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of the multi-similarity loss; the defaults are those of its authors' code.

    Attributes:
        positives_per_query: Positives that a query brings; with itself they are the images of a place.
        positive_scale: α, how sharply the least similar positives count.
        negative_scale: β, how sharply the most similar negatives count.
        base: λ, the similarity that divides positives from negatives.
        mining_margin: ε, by how much a pair may be easier than the hardest of the other kind and still count.
    """

    positives_per_query: int = 3
    positive_scale: float = 2.0
    negative_scale: float = 50.0
    base: float = 0.5
    mining_margin: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("positives_per_query", self.positives_per_query >= 1, "at least 1"),
            ("positive_scale", 0 < self.positive_scale < math.inf, "a number above 0"),
            ("negative_scale", 0 < self.negative_scale < math.inf, "a number above 0"),
            ("base", -1 <= self.base <= 1, "a cosine, from -1 to 1"),
            ("mining_margin", 0 <= self.mining_margin < math.inf, "0 or more"),
        )


@dataclass(frozen=True)
class Pairs:
    """Which images of a batch attract and which repel each other.

    Attributes:
        positive: (B, B) bool, row by row of the anchor.
        negative: (B, B) bool.
    """

    positive: Tensor
    negative: Tensor


def all_pairs(places: int, images: int, one_place: Tensor | None = None, device: torch.device | None = None) -> Pairs:
    """Every pair of a batch whose images stand place by place.

    Args:
        places: P, of the batch.
        images: M, of each place.
        one_place: (P, P) bool: places so near to each other that their images are neither; None: all are distinct.
        device: Of the masks; default the CPU.

    Returns:
        (P M, P M) masks; no image is its own positive.
    """
    place = torch.arange(places, device=device).repeat_interleave(images)
    same = place[:, None] == place
    itself = torch.eye(len(place), dtype=torch.bool, device=device)
    apart = ~same if one_place is None else ~(same | one_place[place][:, place])
    return Pairs(same & ~itself, apart)


def hard_pairs(similarity: Tensor, pairs: Pairs, margin: float) -> Pairs:
    """The miner (equations 11 and 12): what is not already told apart by more than the margin.

    A negative stays where it is more similar to the anchor than the anchor's least similar positive less ε, a
    positive where it is less similar than the most similar negative plus ε.

    Args:
        similarity: (B, B) cosines.
        pairs: To choose from.
        margin: ε.
    """
    least_positive = similarity.masked_fill(~pairs.positive, math.inf).amin(dim=1, keepdim=True)
    most_negative = similarity.masked_fill(~pairs.negative, -math.inf).amax(dim=1, keepdim=True)
    return Pairs(
        pairs.positive & (similarity - margin < most_negative),
        pairs.negative & (similarity + margin > least_positive),
    )


@at_least_float32
def multi_similarity_terms(embeddings: Tensor, pairs: Pairs, config: Config) -> dict[str, Tensor]:
    """The loss (equation 10) over the mined pairs.

    Mean over anchors i of 1/α log(1 + Σ_p exp(−α (S_ip − λ))) and of 1/β log(1 + Σ_n exp(β (S_in − λ))), S the cosine.

    Args:
        embeddings: (B, D) of any length.
        pairs: (B, B) masks to mine in.
        config: α, β, λ and ε.

    Returns:
        Scalars ``positive`` and ``negative``.
    """
    similarity = gram(functional.normalize(embeddings, dim=1))
    hard = hard_pairs(similarity.detach(), pairs, config.mining_margin)
    above = similarity - config.base
    alpha, beta = config.positive_scale, config.negative_scale
    return {
        "positive": _log_one_plus_sum(-alpha * above, hard.positive).mean() / alpha,
        "negative": _log_one_plus_sum(beta * above, hard.negative).mean() / beta,
    }


def _log_one_plus_sum(exponents: Tensor, chosen: Tensor) -> Tensor:
    """(B,) log(1 + Σ exp) over the chosen entries of each row of (B, B); 0 where there are none."""
    one = exponents.new_zeros(len(exponents), 1)
    return torch.cat([one, exponents.masked_fill(~chosen, -math.inf)], dim=1).logsumexp(dim=1)


class Method(SslMethod):
    """Multi-similarity loss: all images of a place through one encoder, without projector."""

    compares_places = True

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network)
        self.config = config
        self.positives_per_query = config.positives_per_query

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch, over the images of all its places in all processes."""
        images = torch.stack([batch.x, batch.y], dim=1)
        if batch.positives is not None:
            images = torch.cat([images, batch.positives], dim=1)
        count = images.shape[:2]
        descriptors, embeddings = (part.unflatten(0, count) for part in self.embed(images.flatten(0, 1)))
        embeddings = gathered(embeddings)
        one_place = None
        if batch.positions_m is not None:
            positions_m = gathered(batch.positions_m)
            one_place = same_place(positions_m, positions_m, batch.same_place_m)
        pairs = all_pairs(*embeddings.shape[:2], one_place, embeddings.device)
        terms = multi_similarity_terms(embeddings.flatten(0, 1), pairs, self.config)
        return LossTerms(terms, descriptors[:, 0], descriptors[:, 1])
