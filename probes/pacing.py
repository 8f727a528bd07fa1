"""How fast a quality check sends video: up while nothing is lost, down when something is. Pure.

A constant rate would drown the sound it is sent with on a thin link, and call speech impossible
where only the video was too much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

START_BPS = 300_000
FLOOR_BPS = 50_000
CEILING_BPS = 2_500_000
_GROWTH, _GROWTH_AGAIN, _GROWTH_NEAR_LIMIT = 1.5, 1.25, 1.05
_SHRINK, _NEAR = 0.7, 0.6
_MUCH_LOSS, _SOME_LOSS = 0.05, 0.02
LONG_QUEUE_MS = 100.0


@dataclass(frozen=True, slots=True)
class Pace:
    """What one second sends."""

    rate_bps: float = START_BPS
    good_bps: float | None = None
    """The last rate that the link carried."""
    limit_bps: float | None = None
    """The last rate that was too much: from below it is approached slowly."""
    is_settling: bool = False
    """What this second loses is still the fault of the one before: of full queues and repairs."""

    def next(self, loss_ratio: float, queue_ms: float = 0.0) -> Pace:
        """The second after one that lost this share; `queue_ms` is the delay above the least seen.

        Much loss or a long queue: back to what went well, or well below what arrived; some: hold.
        """
        if self.is_settling:
            return replace(self, is_settling=False)
        if loss_ratio > _MUCH_LOSS or queue_ms > LONG_QUEUE_MS:
            good_bps = self.good_bps
            if good_bps is None or good_bps >= self.rate_bps:
                arrived_bps = self.rate_bps * (1 - min(loss_ratio, 1.0))
                rate_bps = max(_SHRINK * arrived_bps, FLOOR_BPS)
                limit_bps = self.limit_bps or self.rate_bps
                return Pace(rate_bps, None, limit_bps, is_settling=True)
            return Pace(good_bps, good_bps, self.rate_bps, is_settling=True)
        if loss_ratio > _SOME_LOSS:
            return self
        grown = min(self.rate_bps * self._growth, CEILING_BPS)
        return Pace(grown, self.rate_bps, self.limit_bps)

    @property
    def _growth(self) -> float:
        if self.limit_bps is None:
            return _GROWTH
        return _GROWTH_NEAR_LIMIT if self.rate_bps > _NEAR * self.limit_bps else _GROWTH_AGAIN
