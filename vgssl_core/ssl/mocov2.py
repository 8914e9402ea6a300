"""MoCo v2 on query-positive pairs, as in VG-SSL: queries through the encoder, positives through its moving average.

He et al., 2020, https://arxiv.org/abs/1911.05722; Chen et al., 2020, https://arxiv.org/abs/2003.04297.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vgssl_core.errors import ConfigError
from vgssl_core.models import DescriptorNet, ProjectorConfig, l2_normalised
from vgssl_core.ssl.false_negatives import same_place
from vgssl_core.ssl.gather import first_row, gathered
from vgssl_core.ssl.method import LossTerms, MethodConfig, PairBatch, SslMethod, TrainingScale, two_views
from vgssl_core.ssl.momentum import MomentumEncoder
from vgssl_core.ssl.precision import at_least_float32
from vgssl_core.ssl.settings import require

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of MoCo v2.

    Attributes:
        temperature: T of the cross entropy.
        queue_size: K, keys that are remembered as negatives.
        queue_fraction: The queue holds at most this share of the training pairs; a longer one fills with false
            negatives on small sets. 0 sets no limit.
        momentum: m of the key encoder: its weights become m · own + (1 − m) · the trained ones.
        symmetric: Also the positives through the encoder and the queries through the moving average.
        batch_negatives: Besides the queue, the other keys of the batch are negatives.
        key_batch_norm_groups: The key encoder normalises the batch in this many shuffled groups, so that batch
            statistics cannot betray the positive; 1 is plain batch norm, as in the paper.
        projector_layers: L, linear layers of the projector, without batch norm; 0 is no projector.
        projector_dim: D_p, length of an embedding and width of the projector's hidden layers.
        hard_negatives: Each query brings one mined negative in two views, which count as a pair of the batch.
    """

    temperature: float = 0.07
    queue_size: int = 65536
    queue_fraction: float = 0.0
    momentum: float = 0.999
    symmetric: bool = False
    batch_negatives: bool = False
    key_batch_norm_groups: int = 1
    projector_layers: int = 0
    projector_dim: int = 1024
    hard_negatives: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        require(
            self,
            ("temperature", 0 < self.temperature < math.inf, "a number above 0"),
            ("queue_size", self.queue_size >= 1, "at least 1"),
            ("queue_fraction", 0 <= self.queue_fraction <= 1, "a share from 0 to 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and less than 1"),
            ("key_batch_norm_groups", self.key_batch_norm_groups >= 1, "at least 1"),
            ("projector_layers", self.projector_layers >= 0, "0 for none, or more"),
            ("projector_dim", self.projector_dim >= 1, "at least 1"),
        )

    def projector(self) -> ProjectorConfig:
        """(Linear, ReLU) x (L − 1), Linear."""
        return ProjectorConfig(self.projector_layers, self.projector_dim)


@at_least_float32
def moco_loss(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, left_out: Tensor | None = None
) -> Tensor:
    """Cross entropy of [q·k, q·negatives] / T with the key of each query as its class.

    Args:
        queries: (N, D) unit vectors.
        keys: (N, D) unit vectors, the positive of each query.
        negatives: (K, D) unit vectors.
        temperature: T.
        left_out: (N, K) bool, which negatives do not count for which query. None: all count.

    Returns:
        Scalar mean over the batch.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)
    negative = queries @ negatives.T
    if left_out is not None:
        negative = negative.masked_fill(left_out, -math.inf)
    labels = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return functional.cross_entropy(torch.cat([positive, negative], dim=1) / temperature, labels)


@dataclass(frozen=True)
class _Keys:
    """Keys of one direction.

    Attributes:
        embeddings: (N, E) unit vectors, this process's, row by row the positives of its queries.
        all_embeddings: (W N, E) those of all W processes.
        all_positions_m: (W N, 2) float64 where they were taken; NaN where that is not known.
    """

    embeddings: Tensor
    all_embeddings: Tensor
    all_positions_m: Tensor


class Method(SslMethod):
    """MoCo v2.

    Attributes:
        key_encoder: Moving average of network and projector, without gradient.
        queue: (K, E) keys, initialised with normalised Gaussian rows.
        queue_positions_m: (K, 2) float64 where the keys were taken; NaN where that is not known.
        queue_pointer: Next row to overwrite.
    """

    negative_views = 2
    compares_places = True
    queue: Tensor
    queue_positions_m: Tensor
    queue_pointer: Tensor

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network, config.projector())
        self.config = config
        self.negatives_per_query = int(config.hard_negatives)
        self.key_encoder = MomentumEncoder(network, self.projector)
        size = queue_length(config, scale)
        self._waiting: list[_Keys] = []
        self.register_buffer("queue", l2_normalised(torch.randn(size, self.embedding_dim)))
        self.register_buffer("queue_positions_m", torch.full((size, 2), math.nan, dtype=torch.float64))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch; its keys wait to enter the queue until the step is done.

        Both directions of the symmetric form meet the old queue, so that no query finds its own positive there.
        """
        views, queries = two_views(batch), len(batch.x)
        keys = self._keys(views.y, views.positions_m)
        descriptors, embeddings = self.embed(views.x)
        loss = self._loss(embeddings, keys, views.positions_m, batch.same_place_m)
        self._waiting.append(keys)
        if not self.config.symmetric:
            return LossTerms({"info_nce": loss}, descriptors[:queries])
        keys = self._keys(views.x, views.positions_m)
        positive_descriptors, embeddings = self.embed(views.y)
        reverse = self._loss(embeddings, keys, views.positions_m, batch.same_place_m)
        self._waiting.append(keys)
        terms = {"info_nce": loss / 2, "info_nce_reverse": reverse / 2}
        return LossTerms(terms, descriptors[:queries], positive_descriptors[:queries])

    def after_step(self) -> None:
        """Move the key encoder and let the keys of the step enter the queue."""
        self.key_encoder.follow(self.network, self.projector, self.config.momentum)
        for keys in self._waiting:
            self._enqueue(keys)
        self._waiting.clear()

    def _loss(self, embeddings: Tensor, keys: _Keys, positions_m: Tensor | None, same_place_m: float) -> Tensor:
        """Of this process's queries, against the queue and where wanted against the keys of all processes."""
        negatives, negative_positions_m, left_out = self.queue, self.queue_positions_m, None
        if self.config.batch_negatives:
            negatives = torch.cat([keys.all_embeddings, negatives])
            negative_positions_m = torch.cat([keys.all_positions_m, negative_positions_m])
            row = torch.arange(len(embeddings), device=embeddings.device)
            left_out = torch.zeros(len(embeddings), len(negatives), dtype=torch.bool, device=embeddings.device)
            left_out[row, first_row(embeddings) + row] = True  # the query's own key is its positive
        if positions_m is not None:
            near = same_place(positions_m, negative_positions_m, same_place_m)
            left_out = near if left_out is None else left_out | near
        return moco_loss(l2_normalised(embeddings), keys.embeddings, negatives, self.config.temperature, left_out)

    @torch.no_grad()
    def _keys(self, images: Tensor, positions_m: Tensor | None) -> _Keys:
        groups = min(self.config.key_batch_norm_groups, len(images) // 2)
        if groups < 2:
            embeddings = l2_normalised(self.key_encoder(images))
        else:
            order = torch.randperm(len(images), device=images.device)
            shuffled = torch.cat([self.key_encoder(images[part]) for part in order.chunk(groups)])
            embeddings = l2_normalised(shuffled)[order.argsort()]
        if positions_m is None:
            positions_m = self.queue_positions_m.new_full((len(images), 2), math.nan)
        return _Keys(embeddings, gathered(embeddings), gathered(positions_m))

    @torch.no_grad()
    def _enqueue(self, keys: _Keys) -> None:
        rows = torch.arange(len(keys.all_embeddings), device=self.queue.device)
        rows = (self.queue_pointer + rows) % len(self.queue)
        self.queue[rows] = keys.all_embeddings
        self.queue_positions_m[rows] = keys.all_positions_m
        self.queue_pointer.copy_((self.queue_pointer + len(rows)) % len(self.queue))


def queue_length(config: Config, scale: TrainingScale) -> int:
    """Rows of the queue for a training of that scale.

    Raises:
        ConfigError: The keys of one batch do not fit in it.
    """
    size, limit = config.queue_size, int(config.queue_fraction * scale.pairs)
    if config.queue_fraction > 0 and limit < size:
        logger.info("The queue holds %d keys: %g of the %d pairs.", limit, config.queue_fraction, scale.pairs)
        size = limit
    most = scale.pairs * (2 if config.hard_negatives else 1)  # a small set fills no batch
    new = min(scale.batch_size, most) * (2 if config.symmetric else 1)
    if new > size and size < config.queue_size:
        raise ConfigError(
            f"A step brings {new} keys but the queue holds {size}, because --options.queue_fraction is "
            f"{config.queue_fraction:g} and there are {scale.pairs} pairs; it would take "
            f"{math.ceil(new / config.queue_fraction)} of them: lower --batch_size."
        )
    if new > size:
        raise ConfigError(
            f"A step brings {new} keys but the queue holds {size}: lower --batch_size, or raise --options.queue_size "
            f"({config.queue_size})."
        )
    return size
