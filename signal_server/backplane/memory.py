"""The backplane of a node that is alone: one switchboard for all, inputs take effect at once."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable
from typing import NamedTuple

from signal_server.backplane.contract import Figures, Services, Speaker, figures_of
from signal_server.backplane.facts import Facts
from signal_server.core import inputs
from signal_server.core.effects import (
    Announce,
    Answered,
    Attached,
    Close,
    Effect,
    GrantIce,
    Send,
    Unattached,
)
from signal_server.core.switchboard import Switchboard
from signal_server.wire.call_messages import CallInvite
from signal_server.wire.messages import ClientMessage

log = logging.getLogger("parley.backplane")

_FRESH_BYTES = 12


class Clocks(NamedTuple):
    """The two clocks, in seconds."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


class MemoryBackplane:
    """See the module's text."""

    def __init__(
        self, switchboard: Switchboard, services: Services, clocks: Clocks, facts: Facts
    ) -> None:
        self.failures = 0
        self.is_ready = True
        self._switchboard = switchboard
        self._services = services
        self._clocks = clocks
        self._facts = facts
        self._speaker: Speaker
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        """What `_timer` waits for, on the monotonic clock."""

    async def start(self, speaker: Speaker) -> None:
        self.listen(speaker)

    def listen(self, speaker: Speaker) -> None:
        """Effects go there from now on."""
        self._speaker = speaker

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def submit(self, account: str, event: inputs.Input) -> None:
        board, clocks = self._switchboard, self._clocks
        now = clocks.monotonic()
        self._execute(board.handle(event, now, int(clocks.unix() * 1000)))
        if board.has_new_deadline:
            self._wake(now)

    def relay(self, account: str, connection: int, message: ClientMessage, text: str) -> None:
        is_invite = type(message) is CallInvite
        fresh = secrets.token_urlsafe(_FRESH_BYTES) if is_invite else ""
        self.submit(account, inputs.Received(connection, message, fresh))

    def drain(self, reason: str, spread_ms: int, deadline_ms: int, url: str | None = None) -> None:
        draining = inputs.Draining(
            reason=reason, spread_ms=spread_ms, deadline_ms=deadline_ms, url=url
        )
        self.submit("", draining)

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        return self._switchboard.unread(connection, after)

    async def settled(self, account: str) -> None:
        """Everything is, at once."""

    def figures(self) -> Figures:
        return figures_of(self._switchboard)

    def _execute(self, effects: list[Effect]) -> None:
        connections = self._speaker.connections
        for effect in effects:
            if type(effect) is Send:
                connection = connections.get(effect.connection)
                if connection is not None:
                    connection.send(effect.payload, effect.seq)
                continue
            match effect:
                case Close():
                    connection = connections.get(effect.connection)
                    if connection is not None:
                        connection.close(effect.code, effect.reason)
                case Attached():
                    self._speaker.attached(effect.connection)
                case Unattached():
                    self._speaker.unattached(effect.connection)
                case Answered():
                    self._speaker.answered(effect.ticket, effect.answer)
                case GrantIce():
                    self._grant_ice(effect)
                case Announce():
                    self._announce(effect)

    def _announce(self, effect: Announce) -> None:
        unix_ms = int(self._clocks.unix() * 1000)
        self._services.announce(self._facts.place(effect, unix_ms))

    def _grant_ice(self, effect: GrantIce) -> None:
        grant = self._services.grant(
            effect.account, effect.identity, effect.ttl, effect.region, effect.remote
        )
        granted = inputs.IceGranted(session=effect.session, request=effect.request, grant=grant)
        self.submit(effect.account, granted)

    def _wake(self, now: float) -> None:
        """Be there for the switchboard's next deadline."""
        deadline = self._switchboard.next_deadline()
        if deadline is None or deadline >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = deadline
        delay = max(0.0, deadline - now)
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._wakes_at = math.inf
        now = self._clocks.monotonic()
        try:
            unix_ms = int(self._clocks.unix() * 1000)
            self._execute(self._switchboard.handle_timeout(now, unix_ms))
        except Exception:
            self.failures += 1
            log.exception("a deadline failed")
        self._wake(now)
