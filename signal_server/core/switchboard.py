"""The single owner of a node's signaling state; every input passes through here.

`handle(input, now, unix_ms)` changes state and returns effects; it never awaits and peer input
never raises. It is told the time and the randomness. It decides whose message it is and whether it
may be acted upon; what it does is up to its parts: lifecycle, rooms, negotiations, calls. It does
not know sockets, tokens, metrics or the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from signal_server.core import inputs
from signal_server.core.actions import Action, Actions
from signal_server.core.address_policy import AddressPolicy
from signal_server.core.deadlines import Deadlines
from signal_server.core.directed import Directed, EndKey
from signal_server.core.effects import Close, Effect, Send
from signal_server.core.lifecycle import Lifecycle, Node
from signal_server.core.out import TAGS, Out
from signal_server.core.oversight import Oversight
from signal_server.core.rate_limit import RateKeys, RateLimiter
from signal_server.core.receipts import Receipts
from signal_server.core.ringing import Ringing
from signal_server.core.room import Session
from signal_server.core.rooms import Rooms
from signal_server.core.rules import Rules
from signal_server.core.sessions import Sessions
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import CloseCode, ErrorCode

REFUSALS_BEFORE_CLOSE = 500
"""Rate-limited messages in a row, after which the connection is closed with 4029."""


class Switchboard:
    """One node's signaling state. `epoch` grows with every start of the node."""

    def __init__(self, node: str, region: str, rules: Rules, epoch: int) -> None:
        limits = rules.limits
        self.limits = limits
        self.tally = Tally()
        self.sessions = Sessions(limits)
        self.rates = RateLimiter(rules.rates)
        self._out = out = Out(self.tally, limits.remembered_requests)
        self._end_agenda: Deadlines[EndKey] = Deadlines()
        receipts = Receipts(limits.receipts_per_session, out.deliver, self._session)
        arbitrates = rules.negotiation.glare == "arbitrate"
        directed = Directed(
            limits, self.tally, self._end_agenda, out, receipts, arbitrates=arbitrates
        )
        rooms = Rooms(limits, self.tally, directed, out.deliver, out.do, epoch)
        self._rooms = rooms
        self.rooms = rooms.by_name
        self._call_limits = rules.calls
        self._ringing = Ringing(rules.calls, rooms, out.deliver, out.do, limits.data_bytes)
        self.calls = self._ringing.calls
        self._agendas = (self._end_agenda, self.sessions.agenda, self.calls.agenda)
        self._lifecycle = Lifecycle(
            Node(node, region, _shown(rules)),
            limits,
            self.sessions,
            rooms,
            self._ringing,
            out,
            receipts,
        )
        self._lifecycle.on_end = self.rates.forget
        for relay_only in (False, True):
            self._lifecycle.policies[relay_only] = AddressPolicy(
                relay_only=relay_only,
                strip_private=rules.addresses.strip_private,
                strip_mdns=rules.addresses.strip_mdns,
                dropped=self.tally.candidates_dropped,
            )
        self._oversight = Oversight(rooms, self.calls, self._lifecycle, out.do)
        self._directed = directed
        self._receipts = receipts
        actions = Actions(rooms, directed, self._ringing, out, receipts, self._lifecycle.end)
        self._ringing.relay_early = actions.relay_early
        self._actions: dict[type, Action] = actions.table()

    def handle(self, event: inputs.Input, now: float, unix_ms: int) -> list[Effect]:
        """Apply one input at monotonic time `now` (seconds); execute the effects in order."""
        effects = self._out.begin(unix_ms)
        lifecycle = self._lifecycle
        if isinstance(event, inputs.Received):
            # Nearly every input is one.
            self._received(event, now)
            return effects
        if isinstance(event, inputs.Opened | inputs.Resumed) and self._greets_too_fast(event, now):
            return effects
        match event:
            case inputs.Opened():
                lifecycle.opened(event, now)
            case inputs.Resumed():
                lifecycle.resumed(event, now)
            case inputs.Refreshed():
                lifecycle.refreshed(event, now)
            case inputs.Closed():
                lifecycle.closed(event, now)
            case inputs.Rekeyed():
                lifecycle.rekeyed(event)
            case inputs.IceGranted():
                lifecycle.ice_granted(event, now)
            case inputs.Removed():
                lifecycle.removed(event, now)
            case inputs.Said():
                lifecycle.said(event)
            case inputs.Asked():
                self._oversight.asked(event, now)
            case _:
                lifecycle.draining(event)
        return effects

    def handle_timeout(self, now: float, unix_ms: int) -> list[Effect]:
        """Do what is due at `now`."""
        effects = self._out.begin(unix_ms)
        for owner, peer, pc in self._end_agenda.due(now):
            session = self._ringing.session(owner)
            assert session is not None, "an end outlived its session"
            assert session.room is not None, "an end outlived its room"
            self._directed.expire(session, session.room.members[peer], pc, now)
        for session, due in self.sessions.due(now):
            self._lifecycle.due(session, due, now)
        self._ringing.expire(now, unix_ms)
        return effects

    @property
    def has_new_deadline(self) -> bool:
        """`next_deadline` may have come nearer since it was asked."""
        ends, sessions, calls = self._agendas
        return ends.is_new or sessions.is_new or calls.is_new

    def next_deadline(self) -> float | None:
        """When `handle_timeout` has work next."""
        deadlines = [agenda.next() for agenda in self._agendas]
        return min((at for at in deadlines if at is not None), default=None)

    def cut_off(self, is_cut_off: Callable[[int], bool] | None) -> None:
        """Which connections cannot be reached from now on: rooms with them take nobody in."""
        self._rooms.is_cut_off = is_cut_off

    def containers(self) -> tuple[object, ...]:
        """The whole state, in an order that stays."""
        return (
            *self.sessions.containers(),
            *self._rooms.containers(),
            *self._ringing.containers(),
            self._end_agenda,
            *self.rates.containers(),
        )

    def shared(self) -> dict[str, object]:
        """What the state refers to and every board of the same rules has."""
        policies = self._lifecycle.policies
        return {
            "limits": self.limits,
            "call_limits": self._call_limits,
            "tally": self.tally,
            "relay_only": policies[True],
            "any_address": policies[False],
        }

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """The numbered messages that follow `after`; None for a gap."""
        session = self.sessions.by_connection.get(connection)
        return None if session is None else session.outbox.since(after)

    def _session(self, peer: str) -> Session | None:
        return self._ringing.session(peer)

    def _received(self, event: inputs.Received, now: float) -> None:
        session = self.sessions.by_connection.get(event.connection)
        if session is None:
            return
        message = event.message
        # Whoever speaks has got the new secret.
        session.former_hashes = ()
        if message.ack is not None and session.outbox.ack(message.ack) and session.awaited:
            self._receipts.acknowledged(session, message.ack)
        request = message.id
        if request is not None and request in session.replies:
            self._out.do(Send(event.connection, session.replies[request]))
            return
        kind = type(message)
        cost = _cost(message) if isinstance(message, m.Candidate) else 1
        wait = self.rates.admit(TAGS[kind], cost, session.keys, now)
        if wait is not None:
            self._too_fast(session, event.connection, request, wait)
            return
        session.refusals = 0
        self._out.fresh_id = event.fresh_id
        reply = self._actions[kind](session, message, now)
        if reply is not None:
            self._out.answer(session, request, reply)

    def _greets_too_fast(self, event: inputs.Opened | inputs.Resumed, now: float) -> bool:
        keys = RateKeys(address=event.admission.address or None)
        wait = self.rates.admit("hello", 1, keys, now)
        if wait is None:
            return False
        request = event.hello.id if isinstance(event, inputs.Opened) else event.request
        retry_after_ms = max(1, int(wait * 1000))
        refusal = Refusal(ErrorCode.RATE_LIMITED, "too many connections", None, retry_after_ms)
        self._out.refuse(event.connection, refusal, request)
        self._out.do(Close(event.connection, CloseCode.RATE_LIMITED, refusal.code.value))
        return True

    def _too_fast(
        self, session: Session, connection: int, request: str | int | None, wait_s: float
    ) -> None:
        retry_after_ms = max(1, int(wait_s * 1000))
        refusal = Refusal(ErrorCode.RATE_LIMITED, "too fast", retry_after_ms=retry_after_ms)
        self._out.answer(session, request, refusal)
        session.refusals += 1
        if session.refusals >= REFUSALS_BEFORE_CLOSE:
            session.refusals = 0
            self._out.do(Close(connection, CloseCode.RATE_LIMITED, "too fast"))


def _cost(message: m.Candidate) -> int:
    """Candidates are charged one by one."""
    return len(message.candidates) if isinstance(message.candidates, list) else 1


def _shown(rules: Rules) -> dict[str, Any]:
    """The limits that concern a client."""
    names = (
        *("message_bytes", "sdp_bytes", "data_bytes", "candidate_bytes"),
        *("candidates_per_message", "candidates_per_generation", "peers_per_room"),
    )
    shown: dict[str, Any] = {name: getattr(rules.limits, name) for name in names}
    return {**shown, "rates": rules.rates.shown()}
