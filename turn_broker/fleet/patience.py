"""Limits many short waits by one timer for all.

`asyncio.timeout` makes a timer for each, and that costs as much as a short wait itself: uvloop goes
once more around its loop to be rid of it. It does not know what is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

WATCH_S = 0.25

T = TypeVar("T")


class Patience:
    """Of one event loop."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends: dict[asyncio.Timeout, float] = {}
        """The loop's time for each wait, the first end first."""
        self._is_watching = False

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Raises TimeoutError after the limit, at most `WATCH_S` later."""
        async with asyncio.timeout(None) as timeout:
            self._ends[timeout] = asyncio.get_running_loop().time() + self._limit_s
            if not self._is_watching:
                self._watch()
            try:
                return await awaitable
            finally:
                del self._ends[timeout]

    def _watch(self) -> None:
        """End what took too long; and look again, as long as anything is waited for."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for timeout, end in self._ends.items():
            if end > now:
                break
            if not timeout.expired():
                timeout.reschedule(now)
        self._is_watching = bool(self._ends)
        if self._is_watching:
            loop.call_later(WATCH_S, self._watch)
