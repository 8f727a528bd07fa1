"""What joins a node's connections to the switchboards that decide about them.

A connection's inputs go in through `Backplane.submit`, in order; what the switchboard wants done
comes back through the `Speaker`. With memory both happen at once and in one process; with Redis the
switchboard of an account may run on any node. It does not know transports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from signal_server.backplane.facts import Fact
from signal_server.core.inputs import IceGrant, Input
from signal_server.core.switchboard import Switchboard
from signal_server.core.tally import Tally
from signal_server.wire.codec import Refusal
from signal_server.wire.messages import ClientMessage


class Outlet(Protocol):
    """A client's connection, as far as effects reach it."""

    def send(self, payload: bytes, seq: int = 0) -> None:
        """One message; `seq` is its number in the session's log, 0 for one outside it."""

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, then close."""


class Speaker(Protocol):
    """The node's side: its connections, by id."""

    @property
    def connections(self) -> Mapping[int, Outlet]: ...

    def attached(self, connection: int) -> None:
        """The connection's hello was good."""

    def unattached(self, connection: int) -> None:
        """The connection's hello was refused; it may say another."""

    def answered(self, ticket: int, answer: bytes | None) -> None:
        """To an `inputs.Asked`: JSON, or None for what is not there."""


class GrantServers(Protocol):
    def __call__(
        self, account: str, identity: str, ttl: int | None, region: str | None, remote: str
    ) -> IceGrant | Refusal | None: ...


class Services(NamedTuple):
    """What a switchboard's effects need beside connections."""

    grant: GrantServers
    announce: Callable[[Fact], None]


class Figures(NamedTuple):
    """What is counted of switchboards."""

    sessions: int
    calls: int
    rooms: int
    tally: Tally
    too_fast: list[int]
    """Messages refused, by `RateClass`."""


def figures_of(board: Switchboard) -> Figures:
    return Figures(
        sessions=len(board.sessions.by_id),
        calls=len(board.calls),
        rooms=len(board.rooms),
        tally=board.tally,
        too_fast=board.rates.refused,
    )


class Backplane(Protocol):
    """One per node."""

    @property
    def failures(self) -> int:
        """Inputs and deadlines that raised: bugs."""

    @property
    def is_ready(self) -> bool:
        """Whether sessions may begin here."""

    def figures(self) -> Figures:
        """Of the switchboards that run in this process."""

    async def start(self, speaker: Speaker) -> None: ...

    async def stop(self) -> None:
        """After the last connection; what runs here goes on elsewhere."""

    def submit(self, account: str, event: Input) -> None:
        """An input of one of the node's connections. An input that is a bug raises here."""

    def relay(self, account: str, connection: int, message: ClientMessage, text: str) -> None:
        """What a connection said, decoded from `text`."""

    def drain(self, reason: str, spread_ms: int, deadline_ms: int, url: str | None = None) -> None:
        """Ask the node's clients to go elsewhere; `url` says where to."""

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """A connection's numbered messages behind `after`; None for a gap."""

    async def settled(self, account: str) -> None:
        """Return when all that was submitted for the account has had its effects here."""
