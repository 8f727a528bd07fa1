"""Events for backends: numbered per room, signed, retried, and kept when they cannot be delivered.

`publish` never waits and never fails; delivery promises order within a room and at least once while
the process lives, with a journal also after it. What was given up is kept as dead letters, bounded,
and can be replayed. It does not know who publishes or how letters travel (`webhook_queue`,
`webhook_post`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec

from signal_server.backplane.facts import Fact
from signal_server.edge.webhook_journal import WebhookJournal
from signal_server.edge.webhook_queue import (
    Destination,
    Letter,
    Post,
    WebhookSettings,
    log,
)


class Event(msgspec.Struct, kw_only=True):
    """The body of a webhook."""

    type: str
    timestamp: str
    """ISO 8601, UTC: when it happened, not when it was sent."""
    account: str
    room: str
    sequence: int
    """In the room; `room.created` is 1."""
    data: dict[str, Any]


class Webhooks:
    """See the module's text."""

    def __init__(
        self,
        settings: WebhookSettings,
        post: Post,
        *,
        journal: WebhookJournal | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._order = count()
        self._dead: deque[Letter] = deque()
        self._dead_bytes = 0
        self._is_closed = False
        self.given_up: Counter[str] = Counter()
        """Letters that died, by reason."""
        self.destinations = [
            Destination(endpoint, settings, post, self._bury, self._forget, jitter)
            for endpoint in settings.endpoints
        ]

    def start(self) -> None:
        """Take up what the process before this one has left in the journal; before any event."""
        if self._journal is None:
            return
        letters = self._journal.letters()
        for letter in letters:
            self._order = count(letter.order + 1)
            if letter.reason:
                self._lay_out(letter)
            else:
                self.destinations[letter.endpoint].offer(letter)
        if letters:
            log.info("the webhook journal had %d letters", len(letters))

    def publish(self, fact: Fact) -> None:
        """Queue an event for every endpoint that wants its type."""
        if self._is_closed or not self.destinations:
            return
        happened = datetime.fromtimestamp(fact.unix_ms / 1000, UTC)
        event = Event(
            type=fact.kind,
            timestamp=happened.isoformat(timespec="milliseconds"),
            account=fact.account,
            room=fact.room,
            sequence=fact.sequence,
            data=fact.data,
        )
        body = msgspec.json.encode(event)
        name, order = fact.name, next(self._order)
        for endpoint, destination in enumerate(self.destinations):
            if destination.wants(fact.kind):
                letter = Letter(
                    id=name,
                    order=order,
                    lane=(fact.account, fact.room),
                    type=fact.kind,
                    sequence=fact.sequence,
                    body=body,
                    endpoint=endpoint,
                )
                self._keep(letter)
                destination.offer(letter)

    def _bury(self, letter: Letter) -> None:
        self.given_up[letter.reason] += 1
        log.debug(
            "webhook %s of type %s given up after %d attempts: %s",
            letter.id,
            letter.type,
            letter.attempts,
            letter.reason,
        )
        self._keep(letter)
        self._lay_out(letter)

    def _lay_out(self, letter: Letter) -> None:
        """Among the dead, of whom the oldest give way."""
        self._dead.append(letter)
        self._dead_bytes += len(letter.body)
        settings = self._settings
        while len(self._dead) > settings.dead_events or self._dead_bytes > settings.dead_bytes:
            oldest = self._dead.popleft()
            self._dead_bytes -= len(oldest.body)
            self._forget(oldest)

    def _keep(self, letter: Letter) -> None:
        if self._journal is not None:
            self._journal.keep(letter)

    def _forget(self, letter: Letter) -> None:
        if self._journal is not None:
            self._journal.forget(letter)

    @property
    def dead(self) -> list[dict[str, Any]]:
        """The dead letters, oldest death first, without their data."""
        return [
            {
                "id": letter.id,
                "type": letter.type,
                "account": letter.lane[0],
                "room": letter.lane[1],
                "sequence": letter.sequence,
                "endpoint": letter.endpoint,
                "attempts": letter.attempts,
                "reason": letter.reason,
            }
            for letter in self._dead
        ]

    def replay(self, after_id: str | None = None) -> int:
        """Queue the dead letters again that died after `after_id`, or all; how many.

        They go before what their room has waiting, and an endpoint that was gone is tried again.
        """
        letters = list(self._dead)
        ids = [letter.id for letter in letters]
        first = len(ids) - ids[::-1].index(after_id) if after_id in ids else 0
        self._dead = deque(letters[:first])
        self._dead_bytes = sum(len(letter.body) for letter in self._dead)
        again = sorted(letters[first:], key=lambda letter: letter.order)
        for destination in self.destinations:
            destination.revive()
        for letter in again:
            letter.attempts, letter.reason = 0, ""
            self._keep(letter)
            self.destinations[letter.endpoint].offer(letter)
        return len(again)

    @property
    def pending(self) -> int:
        """Letters that wait or are under way."""
        return sum(destination.pending for destination in self.destinations)

    async def delivered(self) -> None:
        """Wait until no letter waits."""
        for destination in self.destinations:
            await destination.idle.wait()

    async def close(self, grace_s: float) -> int:
        """Deliver what waits for up to `grace_s`, then stop; how many letters were left, to be
        sent after the next start if there is a journal."""
        self._is_closed = True
        try:
            async with asyncio.timeout(grace_s):
                await self.delivered()
        except TimeoutError:
            log.warning("%d webhooks were not delivered before the end", self.pending)
        lost = sum(len(destination.stop()) for destination in self.destinations)
        for destination in self.destinations:
            await destination.stopped()
        if self._journal is not None:
            self._journal.close()
        return lost
