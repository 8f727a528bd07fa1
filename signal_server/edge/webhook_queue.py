"""The letters for one webhook endpoint: in order within a room, retried, given up in the end.

Every room has a lane; only a lane's first letter is under way, so a room's next event waits for
the earlier one and no other room does. `Retry-After` holds the whole endpoint back, 410 ends it.
It does not know HTTP or signatures: it is handed a `Post`, and gives away what it cannot deliver.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

log = logging.getLogger("parley.webhooks")
_GONE = 410
LaneKey = tuple[str, str | None]
"""Account and room."""


class WebhookEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[webhooks.endpoints]]`: where events go."""

    url: str
    secrets: Annotated[list[str], Meta(min_length=1, max_length=4)]
    """`whsec_` and base64 of 24 to 64 bytes; several while receivers change to a new one."""
    events: list[str] = []
    """Event types such as `peer.joined`; none: all. What is left out leaves holes in `sequence`."""

    def __repr__(self) -> str:
        return "WebhookEndpoint(...)"


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[webhooks]`: times in seconds."""

    endpoints: Annotated[list[WebhookEndpoint], Meta(max_length=16)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 12
    retry_first_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    """Doubles with every attempt; half of it is random."""
    retry_longest_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    retry_after_longest_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    """The longest `Retry-After` that is honoured."""
    give_up_s: Annotated[float, Meta(gt=0, le=86400)] = 900.0
    """After this age a letter gets no further attempt."""
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 8
    """Requests under way for each endpoint."""
    queue_events: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    queue_bytes: Annotated[int, Meta(ge=1024)] = 32 * 1024 * 1024
    dead_events: Annotated[int, Meta(ge=1, le=10_000_000)] = 2000
    dead_bytes: Annotated[int, Meta(ge=1024)] = 16 * 1024 * 1024
    rooms: Annotated[int, Meta(ge=16, le=10_000_000)] = 200_000
    """Rooms whose sequence numbers are remembered."""
    journal: str = ""
    """File that keeps undelivered letters over the end of the process; none: they end with it."""


class Letter(msgspec.Struct, kw_only=True, eq=False):
    """One event on its way to one endpoint."""

    id: str
    order: int
    """Of publication, over all rooms."""
    lane: LaneKey
    type: str
    sequence: int
    body: bytes
    endpoint: int
    offered_at: float = 0.0
    """Loop time."""
    attempts: int = 0
    reason: str = ""
    """Why it died."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt."""

    status: int | None = None
    """None: there was no answer."""
    reason: str
    """Of a failure; a word for logs and metrics."""
    retry_after_s: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


Post = Callable[[WebhookEndpoint, str, bytes], Coroutine[Any, Any, Outcome]]
"""Sends a body under a message id; what goes wrong is an `Outcome`."""


def flaw_of(endpoint: WebhookEndpoint) -> str | None:
    """Why production may not start with this endpoint; names the key first."""
    try:
        parts = urlsplit(endpoint.url)
        is_good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        return "url: must be an http or https URL"
    if "@" in parts.netloc:
        return "url: the signature authenticates, a user name does not belong here"
    for secret in endpoint.secrets:
        if not 24 <= _secret_bytes(secret) <= 64:
            return "secrets: each must be whsec_ and base64 of 24 to 64 bytes"
    return None


def _secret_bytes(secret: str) -> int:
    text = secret.removeprefix("whsec_")
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except ValueError:
        return 0


class Destination:
    """The lanes of one endpoint."""

    def __init__(
        self,
        endpoint: WebhookEndpoint,
        settings: WebhookSettings,
        post: Post,
        bury: Callable[[Letter], None],
        forget: Callable[[Letter], None],
        jitter: Callable[[], float],
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._post = post
        self._bury = bury
        self._forget = forget
        self._jitter = jitter
        self._lanes: dict[LaneKey, deque[Letter]] = {}
        self._ready: deque[LaneKey] = deque()
        self._tasks: dict[LaneKey, asyncio.Task[Outcome]] = {}
        self._timers: dict[LaneKey, asyncio.TimerHandle] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[Outcome]] = set()
        self._is_gone = False
        self._is_failing = False
        self.idle = asyncio.Event()
        """Set while no letter waits."""
        self.idle.set()
        self.pending = 0
        self.pending_bytes = 0
        self.delivered = 0
        self.failed: Counter[str] = Counter()
        """Attempts that failed, by reason."""

    def wants(self, kind: str) -> bool:
        """Whether the endpoint asked for events of that type."""
        return not self._endpoint.events or kind in self._endpoint.events

    def offer(self, letter: Letter) -> None:
        """Take a letter, or bury it at once; in its lane it goes by the order of publication."""
        settings = self._settings
        if self._is_gone:
            self._die(letter, "gone")
            return
        is_full = self.pending_bytes + len(letter.body) > settings.queue_bytes
        if is_full or self.pending >= settings.queue_events:
            self._die(letter, "queue_full")
            return
        letter.offered_at = asyncio.get_running_loop().time()
        self.pending += 1
        self.pending_bytes += len(letter.body)
        self.idle.clear()
        lane = self._lanes.get(letter.lane)
        if lane is None:
            self._lanes[letter.lane] = deque([letter])
            self._ready.append(letter.lane)
            self._pump()
        elif letter.order > lane[-1].order:
            lane.append(letter)
        else:
            insort(lane, letter, lo=int(letter.lane in self._tasks), key=lambda each: each.order)

    def revive(self) -> None:
        """Forget that the endpoint said it was gone."""
        self._is_gone = False

    def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while self._ready and self._pause is None and len(self._tasks) < self._settings.concurrency:
            key = self._ready.popleft()
            letter = self._lanes[key][0]
            letter.attempts += 1
            task = loop.create_task(self._post(self._endpoint, letter.id, letter.body))
            self._tasks[key] = task
            task.add_done_callback(partial(self._finished, key))

    def _finished(self, key: LaneKey, task: asyncio.Task[Outcome]) -> None:
        self._stopping.discard(task)
        if task.cancelled() or self._tasks.get(key) is not task:
            return
        del self._tasks[key]
        error = task.exception()
        if error is None:
            outcome = task.result()
        else:
            log.error("a webhook attempt broke", exc_info=error)
            outcome = Outcome(reason="internal")
        if outcome.is_delivered:
            self.delivered += 1
            if self._is_failing:
                self._is_failing = False
                log.info("a webhook endpoint takes events again")
            letter = self._lanes[key].popleft()
            self._forget(letter)
            self._leave(letter)
            self._next(key)
        else:
            self.failed[outcome.reason] += 1
            if not self._is_failing:
                self._is_failing = True
                log.warning("a webhook endpoint fails: %s", outcome.reason)
            self._failed(key, outcome)
        self._pump()

    def _failed(self, key: LaneKey, outcome: Outcome) -> None:
        letter = self._lanes[key][0]
        if outcome.status == _GONE:
            self._end(outcome.reason)
            return
        pause = self._backoff(letter.attempts)
        if outcome.retry_after_s is not None:
            self._hold(max(pause, min(outcome.retry_after_s, self._settings.retry_after_longest_s)))
        loop = asyncio.get_running_loop()
        is_old = loop.time() - letter.offered_at >= self._settings.give_up_s
        if is_old or letter.attempts >= self._settings.attempts:
            self._leave(self._lanes[key].popleft())
            self._die(letter, outcome.reason)
            self._next(key)
        elif outcome.retry_after_s is not None:
            self._ready.appendleft(key)
        else:
            self._timers[key] = loop.call_later(pause, self._again, key)

    def _backoff(self, attempts: int) -> float:
        longest = self._settings.retry_first_s * 2.0 ** min(attempts - 1, 30)
        return min(longest, self._settings.retry_longest_s) * (0.5 + 0.5 * self._jitter())

    def _again(self, key: LaneKey) -> None:
        del self._timers[key]
        self._ready.append(key)
        self._pump()

    def _next(self, key: LaneKey) -> None:
        if self._lanes[key]:
            self._ready.append(key)
        else:
            del self._lanes[key]

    def _hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self._pause is not None:
            if self._pause.when() >= until:
                return
            self._pause.cancel()
        self._pause = loop.call_at(until, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._pump()

    def _end(self, reason: str) -> None:
        """410: the receiver wants no more (Standard Webhooks, "Operational considerations")."""
        self._is_gone = True
        log.warning("a webhook endpoint answered 410 and gets no more events until a replay")
        for letter in self.stop():
            self._die(letter, reason)

    def _leave(self, letter: Letter) -> None:
        self.pending -= 1
        self.pending_bytes -= len(letter.body)
        if not self.pending:
            self.idle.set()

    def _die(self, letter: Letter, reason: str) -> None:
        letter.reason = reason
        self._bury(letter)

    def stop(self) -> list[Letter]:
        """Cancel what is under way and hand out everything undelivered, in order."""
        for handle in self._timers.values():
            handle.cancel()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for task in self._tasks.values():
            task.cancel()
        self._stopping.update(self._tasks.values())
        left = sorted(
            (letter for lane in self._lanes.values() for letter in lane),
            key=lambda each: each.order,
        )
        self._tasks.clear()
        self._timers.clear()
        self._ready.clear()
        self._lanes.clear()
        self.pending = self.pending_bytes = 0
        self.idle.set()
        return left

    async def stopped(self) -> None:
        """Wait for what `stop` has cancelled."""
        await asyncio.gather(*self._stopping, return_exceptions=True)
