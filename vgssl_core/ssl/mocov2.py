"""MoCo v2 on query-positive pairs, as in VG-SSL: queries through the encoder, positives through its moving average.

He et al., 2020, https://arxiv.org/abs/1911.05722; Chen et al., 2020, https://arxiv.org/abs/2003.04297.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vgssl_core.errors import ConfigError
from vgssl_core.models import DescriptorNet
from vgssl_core.ssl.method import LossTerms, MethodConfig, PairBatch, SslMethod, TrainingScale

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
    """

    temperature: float = 0.07
    queue_size: int = 65536
    queue_fraction: float = 0.0
    momentum: float = 0.999
    symmetric: bool = False
    batch_negatives: bool = False
    key_batch_norm_groups: int = 1

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        for name, right, wanted in (
            ("temperature", 0 < self.temperature < math.inf, "a number above 0"),
            ("queue_size", self.queue_size >= 1, "at least 1"),
            ("queue_fraction", 0 <= self.queue_fraction <= 1, "a share from 0 to 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and less than 1"),
            ("key_batch_norm_groups", self.key_batch_norm_groups >= 1, "at least 1"),
        ):
            if not right:
                raise ConfigError(f"options.{name} is {getattr(self, name)}: give {wanted}.")


def moco_loss(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, batch_negatives: bool = False
) -> Tensor:
    """Cross entropy of [q·k, q·queue] / T with the key of each query as its class.

    Args:
        queries: (N, D) unit vectors.
        keys: (N, D) unit vectors, the positive of each query.
        queue: (K, D) unit vectors, negatives of all.
        temperature: T.
        batch_negatives: Take the other keys of the batch as negatives too.

    Returns:
        Scalar mean over the batch.
    """
    if batch_negatives:
        logits = queries @ torch.cat([keys, queue]).T
        labels = torch.arange(len(queries), device=queries.device)
    else:
        positive = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, queries @ queue.T], dim=1)
        labels = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return functional.cross_entropy(logits / temperature, labels)


class Method(SslMethod):
    """MoCo v2.

    Attributes:
        key_network: Moving average of the network, without gradient.
        queue: (K, D) keys, initialised with normalised Gaussian rows.
        queue_pointer: Next row to overwrite.
    """

    queue: Tensor
    queue_pointer: Tensor

    def __init__(self, network: DescriptorNet, config: Config, scale: TrainingScale) -> None:
        super().__init__(network)
        self.config = config
        self.key_network = copy.deepcopy(network).requires_grad_(False)
        size = queue_length(config, scale)
        rows = functional.normalize(torch.randn(size, network.dimension), dim=1)
        self._waiting: Tensor | None = None
        self.register_buffer("queue", rows)
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))

    def forward(self, batch: PairBatch) -> LossTerms:
        """The loss of one batch; its keys wait to enter the queue until the step is done."""
        keys = self._keys(batch.y)
        queries = self.network(batch.x)
        terms = {"info_nce": self._loss(queries, keys)}
        if self.config.symmetric:
            reverse_keys = self._keys(batch.x)
            reverse = self._loss(self.network(batch.y), reverse_keys)
            terms = {"info_nce": terms["info_nce"] / 2, "info_nce_reverse": reverse / 2}
            # Both directions were computed against the old queue: no query meets its own positive there.
            keys = torch.cat([keys, reverse_keys])
        self._waiting = keys
        return LossTerms(terms, queries.detach())

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the key encoder, which keeps its own batch-norm statistics, and let the batch's keys enter the queue."""
        m = self.config.momentum
        pairs = zip(self.key_network.parameters(), self.network.parameters(), strict=True)
        for own, trained in pairs:
            own.mul_(m).add_(trained, alpha=1 - m)
        if self._waiting is not None:
            self._enqueue(self._waiting)
            self._waiting = None

    def _loss(self, queries: Tensor, keys: Tensor) -> Tensor:
        return moco_loss(queries, keys, self.queue, self.config.temperature, self.config.batch_negatives)

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        groups = min(self.config.key_batch_norm_groups, len(images) // 2)
        if groups < 2:
            return self.key_network(images)
        order = torch.randperm(len(images), device=images.device)
        keys = torch.cat([self.key_network(images[part]) for part in order.chunk(groups)])
        return keys[order.argsort()]

    def _enqueue(self, keys: Tensor) -> None:
        size = len(self.queue)
        rows = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[rows] = keys
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % size)


def queue_length(config: Config, scale: TrainingScale) -> int:
    """Rows of the queue for a training of that scale.

    Raises:
        ConfigError: The keys of one batch do not fit in it.
    """
    size, limit = config.queue_size, int(config.queue_fraction * scale.pairs)
    if config.queue_fraction > 0 and limit < size:
        logger.info("The queue holds %d keys: %g of the %d pairs.", limit, config.queue_fraction, scale.pairs)
        size = limit
    new = scale.batch_size * (2 if config.symmetric else 1)
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
