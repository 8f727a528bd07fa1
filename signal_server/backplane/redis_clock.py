"""The one clock that the nodes of a backplane share."""

from __future__ import annotations

from collections.abc import Callable


class RedisClock:
    """Redis' time of day, carried on by this machine's monotonic clock."""

    def __init__(self, monotonic: Callable[[], float], unix: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._offset_ms = (unix() - monotonic()) * 1000

    def set(self, now_ms: float) -> None:
        self._offset_ms = now_ms - self._monotonic() * 1000

    def now_ms(self) -> int:
        return int(self._monotonic() * 1000 + self._offset_ms)
