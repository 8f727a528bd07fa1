"""What leaves the core while one input is handled: effects in order, messages numbered and logged.

It knows sessions only by their log and connection.
"""

from __future__ import annotations

from msgspec import Struct

from signal_server.core.effects import Effect, Send
from signal_server.core.room import Session
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.base import Numbered, Reply
from signal_server.wire.codec import Refusal, encode


class Out:
    """One per switchboard; `effects` is the list of the input at hand."""

    __slots__ = ("_remembered", "effects", "fresh_id", "tally", "unix_ms")

    def __init__(self, tally: Tally, remembered_requests: int) -> None:
        self.effects: list[Effect] = []
        self.tally = tally
        self.unix_ms = 0
        """Time of day of the input at hand."""
        self.fresh_id = ""
        """Randomness of the input at hand."""
        self._remembered = remembered_requests

    def begin(self, unix_ms: int) -> list[Effect]:
        """A new input: its effects are collected in the returned list."""
        self.unix_ms = unix_ms
        self.effects = []
        return self.effects

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def deliver(self, target: Session, message: Numbered) -> None:
        """Append to the target's numbered log, and send it if there is a connection."""
        outbox = target.outbox
        message.seq = outbox.seq + 1
        payload = encode(message)
        outbox.append(payload)
        self.tally.sent[TAGS[type(message)]] += 1
        if target.connection is not None:
            self.effects.append(Send(target.connection, payload, message.seq))

    def send(self, target: Session, message: Reply) -> None:
        """Outside the log: gone if there is no connection."""
        self.tally.sent[TAGS[type(message)]] += 1
        if target.connection is not None:
            self.effects.append(Send(target.connection, encode(message)))

    def answer(self, session: Session, request: str | int | None, reply: m.Ok | Refusal) -> None:
        """Settle a request. The answer is remembered, also a refusal: if its repetition succeeded
        later, it would overtake what was asked after it."""
        if isinstance(reply, Refusal):
            self.tally.refused[reply.code.value] += 1
            payload = encode(_error(reply, request))
        elif request is None:
            return
        else:
            reply.id = request
            self.tally.sent["ok"] += 1
            payload = encode(reply)
        if session.connection is not None:
            self.effects.append(Send(session.connection, payload))
        if request is None:
            return
        replies = session.replies
        replies[request] = payload
        if len(replies) > self._remembered:
            del replies[next(iter(replies))]

    def refuse(self, connection: int, refusal: Refusal, request: str | int | None) -> None:
        """Refuse a connection that has no session."""
        self.tally.refused[refusal.code.value] += 1
        self.effects.append(Send(connection, encode(_error(refusal, request))))


def _error(refusal: Refusal, request: str | int | None) -> m.Error:
    return m.Error(
        code=refusal.code.value,
        message=refusal.message,
        retryable=refusal.code.retryable,
        id=request,
        retry_after_ms=refusal.retry_after_ms,
        negotiation=refusal.negotiation,
        winner_negotiation=refusal.winner_negotiation,
    )


def _tags(kinds: tuple[type[Struct], ...]) -> dict[type, str]:
    return {kind: str(kind.__struct_config__.tag) for kind in kinds}


TAGS = _tags((*m.CLIENT_MESSAGES, *m.SERVER_MESSAGES))
"""The `type` that each message struct travels under."""
