"""Which of a deployment's addresses a client connects to: the nearest, the next when that fails.

It does not know connections or sessions; whoever tries an address tells how it went.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from statistics import median
from urllib.parse import urljoin

PINGS = 3
LIMIT_S = 2.0
PATIENCE = 3
"""Whoever needs so many times as long as the first to answer is not the nearest."""
LEAST_S = 0.1

Measure = Callable[[str], Awaitable[float]]
"""Median of round trips to that address in seconds; raises OSError where nobody answers."""


class Addresses:
    """One or several WebSocket URLs of one deployment."""

    def __init__(self, urls: str | Sequence[str], measure: Measure | None = None) -> None:
        """Raises ValueError for none."""
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        if not self._urls:
            raise ValueError("a client needs an address")
        self._measure = measure or round_trip_s
        self._place = 0
        self._elsewhere: str | None = None
        """Where the server wants its clients to go."""
        self._is_sent_away = False
        self._is_measured = len(self._urls) == 1

    async def nearest(self) -> str:
        """The address to try now; measures once, and again when none has worked."""
        if not self._is_measured:
            self._urls = await nearest_first(self._urls, self._measure)
            self._is_measured = True
        return self._now

    def failed(self) -> bool:
        """The address did not lead to a session; returns whether there is one to try at once."""
        if self._elsewhere is not None:
            self._elsewhere = None
            return True
        self._place = (self._place + 1) % len(self._urls)
        if self._place == 0:
            self._is_measured = len(self._urls) == 1
        return self._place > 0

    def lost(self) -> None:
        """A good connection is over: the nearest is the next, unless that one sent us away."""
        if not self._is_sent_away:
            self._place, self._elsewhere = 0, None
        self._is_sent_away = False

    def sent_away(self, elsewhere: str | None) -> None:
        """The server wants its clients to connect to that address, or to another than its own."""
        # Whoever came encrypted does not go on in clear.
        schemes = ("wss:",) if self._now.startswith("wss:") else ("ws:", "wss:")
        self._elsewhere = elsewhere if elsewhere and elsewhere.startswith(schemes) else None
        self._place = 1 if self._place == 0 and len(self._urls) > 1 else 0
        self._is_sent_away = True

    @property
    def _now(self) -> str:
        return self._elsewhere or self._urls[self._place]


async def nearest_first(urls: Sequence[str], measure: Measure) -> list[str]:
    """Those that do not answer come last, as they were."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    give_up_at = began + LIMIT_S
    names = {asyncio.ensure_future(measure(url)): url for url in urls}
    found: dict[str, float] = {}
    waiting = set(names)
    try:
        while waiting and loop.time() < give_up_at:
            done, waiting = await asyncio.wait(
                waiting,
                timeout=give_up_at - loop.time(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            found |= {names[task]: task.result() for task in done if task.exception() is None}
            if found:
                took = loop.time() - began
                give_up_at = min(give_up_at, loop.time() + max(LEAST_S, PATIENCE * took))
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return sorted(urls, key=lambda url: found.get(url, inf))


async def round_trip_s(url: str) -> float:
    """Of `GET /v1/probes/ping` beside the WebSocket at `url`."""
    # Only clients with several addresses need it.
    import httpx

    loop = asyncio.get_running_loop()
    times = []
    try:
        async with httpx.AsyncClient(timeout=LIMIT_S) as http:
            for _ in range(PINGS):
                began = loop.time()
                (await http.get(ping_url(url))).raise_for_status()
                times.append(loop.time() - began)
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        raise OSError(str(failure)) from failure
    return median(times)


def ping_url(url: str) -> str:
    """Where the deployment of that WebSocket answers pings."""
    return urljoin(url.replace("ws", "http", 1), "probes/ping")
