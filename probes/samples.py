"""From cumulative counters, one sample a second, to rates over a window. Pure.

Rates come from differences, never from totals: a loss in the first second must not stick to the
last. browser/js/samples.js computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WINDOW_S = 5.0
MIN_SAMPLES = 5
MAX_RISE, MAX_FALL = 0.05, 0.10
"""A step from one interval to the next that is larger means: not steady yet."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of one track at one moment; `at_s` from any clock that only moves forward."""

    at_s: float
    bytes: int
    packets: int
    lost: int
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """What passed between two samples."""

    bitrate_bps: float
    loss_ratio: float
    frame_rate: float
    packets: int


def rate(before: Sample, after: Sample) -> Rate:
    """Counters may step back (a lost packet that came late, a restarted stream): never below 0."""
    elapsed = after.at_s - before.at_s
    packets = max(after.packets - before.packets, 0)
    lost = max(after.lost - before.lost, 0)
    due = packets + lost
    if elapsed <= 0:
        return Rate(0.0, 0.0, 0.0, packets)
    return Rate(
        bitrate_bps=8 * max(after.bytes - before.bytes, 0) / elapsed,
        loss_ratio=lost / due if due else 0.0,
        frame_rate=max(after.frames - before.frames, 0) / elapsed,
        packets=packets,
    )


def rates(samples: Sequence[Sample]) -> list[Rate]:
    """The intervals between neighbours."""
    return [rate(before, after) for before, after in pairwise(samples)]


def window(samples: Sequence[Sample], window_s: float = WINDOW_S) -> Rate:
    """The rate over the last seconds; zeros with fewer than two samples."""
    if len(samples) < 2:
        return Rate(0.0, 0.0, 0.0, 0)
    last = samples[-1]
    inside = [sample for sample in samples[:-1] if last.at_s - sample.at_s <= window_s]
    return rate(inside[0] if inside else samples[-2], last)


def is_steady(samples: Sequence[Sample], window_s: float = WINDOW_S) -> bool:
    """Enough samples in the window, and no interval's bitrate far above or below the one before."""
    if not samples:
        return False
    inside = [sample for sample in samples if samples[-1].at_s - sample.at_s <= window_s]
    if len(inside) < MIN_SAMPLES:
        return False
    found = [interval.bitrate_bps for interval in rates(inside)]
    return all(
        before > 0 and -MAX_FALL <= (after - before) / before <= MAX_RISE
        for before, after in pairwise(found)
    )
