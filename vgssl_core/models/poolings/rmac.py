"""Regional maximum activation of convolutions (Tolias et al., 2016, https://arxiv.org/abs/1511.05879)."""

from __future__ import annotations

from itertools import product

from torch import Tensor, nn

from vgssl_core.models.vectors import l2_normalised

#: Share of a region at the largest scale that its neighbour should cover.
_OVERLAP = 0.4


class Pooling(nn.Module):
    """Sum of the unit vectors of maxima in square regions at several scales.

    Attributes:
        dimension: Length of the pooled vector.
    """

    def __init__(self, channels: int, levels: int = 3) -> None:
        """Take the shape.

        Args:
            channels: C.
            levels: L, scales of the regions.
        """
        super().__init__()
        self.dimension = channels
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C)."""
        x = x.float()
        found = [
            l2_normalised(x[:, :, top : top + side, left : left + side].amax((-2, -1)))
            for top, left, side in regions(x.shape[-2], x.shape[-1], self.levels)
        ]
        return sum(found[1:], start=found[0])


def regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """Top, left and side of every region (section 3.2).

    At scale l the side is 2 min(height, width) / (l + 1), with l regions along the shorter side and l + m - 1 along the
    longer one; m is what brings the overlap at scale 1 closest to 40 %.
    """
    short, long = sorted((height, width))
    extra = _along_longer(short, long) - 1
    found = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        rows, columns = (_starts(length, side, level + (extra if length == long else 0)) for length in (height, width))
        found += [(top, left, side) for top, left in product(rows, columns)]
    return found


def _along_longer(short: int, long: int) -> int:
    """The m regions of the shorter side's size whose overlap along the longer one is closest to the wanted one."""

    def overlap(count: int) -> float:
        return 1 - (long - short) / ((count - 1) * short)

    if long == short:
        return 1
    return min(range(2, 2 + 2 * -(-long // short)), key=lambda count: abs(overlap(count) - _OVERLAP))


def _starts(length: int, side: int, count: int) -> list[int]:
    """Evenly spread first positions of ``count`` stretches of ``side`` in ``length``."""
    return [(length - side) * index // max(1, count - 1) for index in range(count)]
