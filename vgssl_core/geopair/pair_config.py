"""Settings of pairs and of mining."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgssl_core.errors import ConfigError

_CHOICES = {
    "positive": ("nearest", "random"),
    "mining": ("none", "random", "partial", "full"),
    "mining_precision": ("fp32", "fp16", "bf16"),
}
_AT_LEAST = {
    "mining_database": 1,
    "refresh_queries": 0,
    "refresh_epochs": 1,
    "reuse_steps": 0,
    "mining_memory_mib": 1,
    "negative_ratio": 0,
    "pass_gap_s": 0,
    "near_identical_m": 0,
}


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made; the defaults are those of VG-SSL.

    Attributes:
        positive_radius_m: A positive lies within this distance of its query.
        negative_radius_m: A negative lies beyond this distance of its query.
        positive: Which of the positives are taken: the ``nearest`` in descriptor space, or ``random`` ones.
        mining: Where negatives come from: ``none``; ``random`` ones beyond the radius; the hardest of a ``partial``
            sample of the database; the hardest of the ``full`` database.
        mining_database: Partial mining: database images of a sample, drawn anew at each refresh.
        refresh_queries: Queries between two refreshes of nearest positives and hard negatives; 0: once per epoch.
        refresh_epochs: Descriptors of mining are renewed every so many epochs and reused in between; 1: at each
            refresh.
        reuse_steps: Take descriptors that training steps computed at most so many steps ago instead of embedding
            their images again; 0: off. They are of augmented views and, where a network has batch norm, by the
            statistics of their batch: rankings mix them with descriptors of plain images in evaluation mode.
        mining_precision: Of the descriptors in mining: fp32, fp16 or bf16.
        mining_memory_mib: Limit on the memory of descriptors and similarities in mining; the search works in blocks
            that fit. Indices of images come on top: some 25 bytes for each image of the database.
        negative_ratio: The first paper's database negatives: so many pairs for each query are one database image that
            is nobody's positive, paired with itself.
        mask_false_negatives: Two images of a batch within the negative radius are no negatives of each other; for
            methods that have such negatives (simclr, mocov2, multi_similarity), above all on one's own streets.
        own_streets: Train on the database alone, as a drive over one's own streets; a set without queries always does.
        pass_gap_s: One drive: images that were taken further apart in time, with a way back in between, belong to two
            passes of the street; another pass is preferred as positive.
        heading_limit_deg: One drive: views whose headings differ by more do not overlap and are no positives.
        near_identical_m: One drive: images of one pass that are nearer to each other are the last choice.
    """

    positive_radius_m: float = 10.0
    negative_radius_m: float = 25.0
    positive: str = "nearest"
    mining: str = "partial"
    mining_database: int = 1000
    refresh_queries: int = 1000
    refresh_epochs: int = 1
    reuse_steps: int = 0
    mining_precision: str = "fp32"
    mining_memory_mib: int = 1024
    negative_ratio: float = 0.0
    mask_false_negatives: bool = False
    own_streets: bool = False
    pass_gap_s: float = 30.0
    heading_limit_deg: float = 60.0
    near_identical_m: float = 2.0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Naming the setting.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"pairs.{name} is {getattr(self, name)}: choose one of {', '.join(choices)}.")
        if not 0 < self.positive_radius_m <= self.negative_radius_m < math.inf:
            raise ConfigError(
                f"pairs.positive_radius_m is {self.positive_radius_m:g} and pairs.negative_radius_m "
                f"{self.negative_radius_m:g}: the first must be above 0 and not above the second."
            )
        for name, least in _AT_LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"pairs.{name} is {getattr(self, name)}: give {least} or more.")
        if not 0 < self.heading_limit_deg <= 180:
            raise ConfigError(
                f"pairs.heading_limit_deg is {self.heading_limit_deg}: give degrees above 0, up to 180 (every view)."
            )
