"""Token buckets: bytes through an allocation, unauthenticated answers to a source.

Pure: told the monotonic time. A source table is bounded; the longest unseen source goes first.
"""

from __future__ import annotations


class Bucket:
    """`rate` tokens a second, at most `burst` at once."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def take(self, amount: float, now: float) -> bool:
        """Takes `amount` if it is there."""
        elapsed = now - self._filled_at
        if elapsed > 0:
            self._filled_at = now
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        if amount > self._tokens:
            return False
        self._tokens -= amount
        return True


class SourceLimiter:
    """One bucket per source host, for a bounded number of hosts."""

    def __init__(self, per_second: float, max_sources: int) -> None:
        self._per_second = per_second
        self._max_sources = max_sources
        self._buckets: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, host: str, now: float) -> bool:
        """Whether one more answer may go to `host`."""
        bucket = self._buckets.pop(host, None)
        if bucket is None:
            if len(self._buckets) >= self._max_sources:
                del self._buckets[next(iter(self._buckets))]
            bucket = Bucket(self._per_second, 2 * self._per_second, now)
        self._buckets[host] = bucket
        return bucket.take(1, now)
