"""One end of the offer/answer exchange between two peers about one peer connection.

Each peer's side keeps its own table: which offers are outstanding in which direction, and the
buffer of its own candidates for the other. Messages it sends pass the `send_*` methods, messages
for it pass the `receive_*` methods, so two ends on two nodes need no shared state. Glare is passed
through, and roles decide it at the peers (webrtc-pc, perfect negotiation); or each end decides it
for itself from its fixed role. It does not know sessions, rooms, encodings or sockets.
"""

from __future__ import annotations

from enum import Enum, auto

from mypy_extensions import mypyc_attr

from signal_server.core.candidate_buffer import CandidateBuffer
from signal_server.wire.codes import ErrorCode
from signal_server.wire.sdp import Outline

NEGOTIATION_LEAP = 1_000_000
"""How far ahead of the last number a peer may number its own offer."""


class Glare(Enum):
    """What an end does when both have offered."""

    PASSES = auto()
    """Relays both."""
    YIELDS = auto()
    """Arbitrates; its peer is the polite one."""
    WINS = auto()
    """Arbitrates; its peer is the impolite one."""


class Arrival(Enum):
    """What the other's offer met."""

    ALONE = auto()
    COLLIDED = auto()
    """An own outstanding offer, which stays."""
    WON = auto()
    """An own outstanding offer, which is void."""
    LOST = auto()
    """An own outstanding offer, for which it must not be delivered."""


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Negotiation:
    """The sender's end toward one other peer."""

    __slots__ = (
        "_answered",
        "_glare",
        "buffer",
        "followed",
        "incoming",
        "number",
        "outgoing",
        "request",
    )

    def __init__(self, buffer: CandidateBuffer, glare: Glare = Glare.PASSES) -> None:
        self.buffer = buffer
        self._glare = glare
        self.number = 0
        """Highest negotiation number seen in either direction."""
        self.outgoing: int | None = None
        """Own offer that has no final answer yet."""
        self.request: str | int | None = None
        """The request that made it."""
        self.followed: list[tuple[int, str | int]] | None = None
        """Own descriptions of which it is to be told that they were applied: number and `id`."""
        self.incoming: int | None = None
        """The other's offer that has no final answer yet."""
        self._answered = 0
        """The other's offer that was answered last."""

    # Own messages ---------------------------------------------------------------------------

    def send_offer(self, number: int | None, outline: Outline, now: float) -> int | ErrorCode:
        """The offer's negotiation number, or why it may not pass."""
        if number is None:
            number = self.number + 1
        elif not self.number < number <= self.number + NEGOTIATION_LEAP:
            return ErrorCode.STALE_NEGOTIATION
        if self.incoming is not None:
            if self._glare is Glare.YIELDS:
                self.buffer.disown(outline)
                return ErrorCode.GLARE
            if self._glare is Glare.WINS:
                self._void(self.incoming)
        replaced, self.number, self.outgoing = self.outgoing, number, number
        self.buffer.describe(number, outline, now)
        if replaced is not None:
            # Only now: an offer made again keeps its ufrags (RFC 9429 section 5.2.2).
            self.buffer.roll_back(replaced)
        return number

    def send_answer(
        self, number: int | None, outline: Outline, now: float, *, final: bool
    ) -> int | ErrorCode:
        """The number of the answered offer, or why the answer may not pass."""
        if self.incoming is None:
            return ErrorCode.WRONG_STATE if number is None else ErrorCode.STALE_NEGOTIATION
        if number is not None and number != self.incoming:
            return ErrorCode.STALE_NEGOTIATION
        number = self.incoming
        self.buffer.describe(number, outline, now)
        if final:
            self._yield_own_offer()
            self.incoming = None
            self._answered = number
            self.buffer.settle(number)
        return number

    def send_rollback(self, number: int | None) -> int | ErrorCode:
        """Withdraws the own offer; without one, refuses the other's."""
        target = self.outgoing if self.outgoing is not None else self.incoming
        if target is None:
            return ErrorCode.WRONG_STATE
        if number is not None and number not in (self.outgoing, self.incoming):
            return ErrorCode.STALE_NEGOTIATION
        number = target if number is None else number
        self._void(number)
        return number

    # The other's messages -------------------------------------------------------------------

    def receive_offer(self, number: int) -> Arrival:
        """Whoever offers anew is stable, so it has applied the last answer."""
        if self._answered:
            self.buffer.applied(self._answered)
        self.number = max(self.number, number)
        arrival = Arrival.ALONE if self.outgoing is None else _ARRIVALS[self._glare]
        if arrival is Arrival.LOST:
            return arrival
        if arrival is Arrival.WON and self.outgoing is not None:
            self._void(self.outgoing)
        if self.incoming is not None:
            self.buffer.roll_back(self.incoming)
        self.incoming = number
        return arrival

    def receive_answer(self, number: int, *, final: bool) -> None:
        """An answer proves that the own offer has been applied (createAnswer needs it).

        A final one also voids an offer that the other sent before it (see `_yield_own_offer`).
        """
        self.buffer.applied(number)
        if final:
            self.incoming = None
            self.outgoing = None
            self.buffer.settle(number)

    def receive_rollback(self, number: int) -> None:
        self._void(number)

    def _yield_own_offer(self) -> None:
        """Answering while an own offer is outstanding rolls it back (polite peer)."""
        if self.outgoing is not None:
            self.buffer.roll_back(self.outgoing)
            self.outgoing = None

    def _void(self, number: int) -> None:
        self.buffer.roll_back(number)
        if self.outgoing == number:
            self.outgoing = None
        elif self.incoming == number:
            self.incoming = None


_ARRIVALS = {
    Glare.PASSES: Arrival.COLLIDED,
    Glare.YIELDS: Arrival.WON,
    Glare.WINS: Arrival.LOST,
}
