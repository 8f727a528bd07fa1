"""How fast a quality check sends video: up while nothing is lost, down when something is. Pure.

A constant rate would drown the sound it is sent with on a thin link, and call speech impossible
where only the video was too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

START_BPS = 600_000
FLOOR_BPS = 50_000
CEILING_BPS = 2_500_000
_GROWTH, _NEAR_LIMIT_GROWTH, _SHRINK = 1.25, 1.05, 0.85
_NEAR = 0.7
_MUCH_LOSS, _SOME_LOSS = 0.05, 0.02


@dataclass(frozen=True, slots=True)
class Pace:
    """What one second sends."""

    rate_bps: float = START_BPS
    limit_bps: float = math.inf
    """The last rate that lost much: from below it is approached slowly."""
    is_settling: bool = False
    """What this second loses is still the fault of the one before: of full queues and repairs."""

    def next(self, loss_ratio: float) -> Pace:
        """The second after one that lost this share.

        Much loss: what arrived, less a reserve; some: hold; none: a quarter more, or a twentieth.
        """
        if self.is_settling:
            return Pace(self.rate_bps, self.limit_bps)
        if loss_ratio > _MUCH_LOSS:
            arrived_bps = self.rate_bps * (1 - min(loss_ratio, 1.0))
            return Pace(max(_SHRINK * arrived_bps, FLOOR_BPS), self.rate_bps, is_settling=True)
        if loss_ratio > _SOME_LOSS:
            return self
        is_near = self.rate_bps > _NEAR * self.limit_bps
        growth = _NEAR_LIMIT_GROWTH if is_near else _GROWTH
        return Pace(min(self.rate_bps * growth, CEILING_BPS), self.limit_bps)
