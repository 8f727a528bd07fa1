"""Estimates of the mean opinion score (1 bad .. 4.5 excellent) of one interval. Pure.

Audio follows the E-model of ITU-T G.107, simplified for one codec with packet loss concealment;
video is the logarithm of the bitrate up to what the resolution can use. Both are the formulas of
opentok-network-test-js, so that figures compare; browser/js/mos.js computes the same.
"""

from __future__ import annotations

from math import log, log10
from typing import Literal

WORST, BEST = 1.0, 4.5
ONE_WAY_DELAY_MS = 150.0
"""Assumed where the round trip is not known."""
_CODEC_DELAY_MS = 30.0
_FLOOR_BPS = 30_000
"""Below it a picture is no video."""

Rating = Literal["excellent", "good", "fair", "poor", "bad"]
_RATINGS: tuple[tuple[float, Rating], ...] = (
    (3.8, "excellent"),
    (3.1, "good"),
    (2.4, "fair"),
    (1.7, "poor"),
)


def audio_mos(loss_ratio: float, delay_ms: float = ONE_WAY_DELAY_MS) -> float:
    """MOS of speech at a packet loss of 0..1 and a one-way delay in milliseconds.

    R = 93.2 - Id - Ie with Id = 0.024 d + 0.11 (d - 177.3) H(d - 177.3), d the delay and 30 ms of
    codec, and Ie = 19.8 ln(1 + 29.7 p); MOS = 1 + 0.035 R + 7e-6 R (R - 60)(100 - R).
    """
    loss = min(max(loss_ratio, 0.0), 1.0)
    delay = delay_ms + _CODEC_DELAY_MS
    delayed = 0.024 * delay + 0.11 * max(delay - 177.3, 0.0)
    r = 93.2 - delayed - 19.8 * log(1 + 29.7 * loss)
    if r < 0:
        return WORST
    if r > 100:
        return BEST
    return max(WORST, 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r))


def video_mos(bitrate_bps: float, width: int, height: int) -> float:
    """MOS of video at a received bitrate and resolution.

    MOS = 1 + 4 ln(min(B, T) / 30000) / ln(T / 30000), at most 4.5, with the bitrate T that the
    resolution can use: T = 10 ^ (2.069924867 log10(w h) ^ 0.6250223771).
    """
    if bitrate_bps < _FLOOR_BPS or width * height <= 1:
        return WORST
    useful = 10 ** (2.069924867 * log10(width * height) ** 0.6250223771)
    if useful <= _FLOOR_BPS:
        return BEST
    return min(BEST, 1 + 4 * log(min(bitrate_bps, useful) / _FLOOR_BPS) / log(useful / _FLOOR_BPS))


def rating(mos: float) -> Rating:
    """The word for a score."""
    return next((word for least, word in _RATINGS if mos >= least), "bad")
