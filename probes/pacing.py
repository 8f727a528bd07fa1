"""How fast a quality check sends video: up while nothing is lost, down when something is. Pure.

A constant rate would drown the sound it is sent with on a thin link, and call speech impossible
where only the video was too much.
"""

from __future__ import annotations

from dataclasses import dataclass

START_BPS = 600_000
FLOOR_BPS = 50_000
CEILING_BPS = 2_500_000
_GROWTH, _NEAR_LIMIT_GROWTH, _SHRINK = 1.25, 1.05, 0.85
_MUCH_LOSS, _SOME_LOSS = 0.10, 0.02


@dataclass(frozen=True, slots=True)
class Pace:
    """What one second sends."""

    rate_bps: float = START_BPS
    has_lost: bool = False
    """The limit was found: from below it is approached slowly."""

    def next(self, loss_ratio: float) -> Pace:
        """The second after one that lost this share.

        Much loss: what arrived, less a reserve; some: hold; none: a quarter more, or a twentieth.
        """
        has_lost = self.has_lost or loss_ratio > _SOME_LOSS
        wanted = self.rate_bps
        if loss_ratio > _MUCH_LOSS:
            wanted *= _SHRINK * (1 - min(loss_ratio, 1.0))
        elif loss_ratio <= _SOME_LOSS:
            wanted *= _NEAR_LIMIT_GROWTH if has_lost else _GROWTH
        return Pace(min(max(wanted, FLOOR_BPS), CEILING_BPS), has_lost)
