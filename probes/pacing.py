"""How fast a quality check sends video: up while nothing is lost, down when something is. Pure.

A constant rate would drown the sound it is sent with on a thin link, and call speech impossible
where only the video was too much.
"""

from __future__ import annotations

START_BPS = 600_000
FLOOR_BPS = 50_000
CEILING_BPS = 2_500_000
_GROWTH, _SHRINK = 1.25, 0.85
_MUCH_LOSS, _SOME_LOSS = 0.10, 0.02


def next_rate(rate_bps: float, loss_ratio: float, received_bps: float) -> float:
    """The rate of the next second after one that lost this share and delivered that much.

    Much loss: to what arrived, less a reserve; some: hold; none: a quarter more.
    """
    if loss_ratio > _MUCH_LOSS:
        wanted = _SHRINK * min(rate_bps, received_bps)
    elif loss_ratio > _SOME_LOSS:
        wanted = rate_bps
    else:
        wanted = _GROWTH * rate_bps
    return min(max(wanted, FLOOR_BPS), CEILING_BPS)
