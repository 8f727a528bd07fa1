"""What to publish over a measured link: the two published ladders. Pure.

`by_received` is the table of opentok-network-test-js v2 (bitrate and loss of the last seconds),
`by_available` the later one (the sender's bandwidth estimate). browser/js/recommend.js agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

AVAILABLE_SHARE = 0.75
"""An estimate of so much of a row's target is enough: estimates lag while they ramp up."""
AUDIO_MIN_MOS = 2.4
TOO_LOW = "Bandwidth too low."


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`resolution` as `1280x720`; both None where no video is worth publishing."""

    resolution: str | None
    frame_rate: int | None


NONE = Recommendation(None, None)
_RECEIVED: tuple[tuple[int, float, str], ...] = (
    (1_000_000, 0.005, "1280x720"),
    (600_000, 0.005, "640x480"),
    (300_000, 0.005, "320x240"),
    (350_000, 0.03, "1280x720"),
    (250_000, 0.03, "640x480"),
    (150_000, 0.03, "320x240"),
)
_AVAILABLE: tuple[tuple[int, int, str], ...] = (
    (4_000_000, 5_550_000, "1920x1080"),
    (2_500_000, 3_150_000, "1280x720"),
    (1_200_000, 1_550_000, "960x540"),
    (500_000, 650_000, "640x360"),
    (300_000, 350_000, "480x270"),
    (150_000, 150_000, "320x180"),
)
_FRAME_RATE = 30


def by_received(bitrate_bps: float, loss_ratio: float) -> Recommendation:
    """The first row whose bitrate is reached and whose loss is not exceeded."""
    for least_bps, most_loss, resolution in _RECEIVED:
        if bitrate_bps >= least_bps and loss_ratio <= most_loss:
            return Recommendation(resolution, _FRAME_RATE)
    return NONE


def by_available(available_bps: float, *, simulcast: bool = False) -> Recommendation:
    """The first row of whose target the estimate reaches 75 %; simulcast needs more for each."""
    for single, layered, resolution in _AVAILABLE:
        if available_bps >= AVAILABLE_SHARE * (layered if simulcast else single):
            return Recommendation(resolution, _FRAME_RATE)
    return NONE
