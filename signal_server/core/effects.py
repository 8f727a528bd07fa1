"""What the switchboard wants done. Effects are executed in order and without awaiting."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from signal_server.wire.codes import CloseCode


class Send(Struct, frozen=True, gc=False):
    """Put one encoded server message on a connection."""

    connection: int
    payload: bytes
    seq: int = 0
    """Its number in the session's log; 0 for messages outside it."""


class Close(Struct, frozen=True):
    """Close a connection after what was sent before."""

    connection: int
    code: CloseCode
    reason: str


class Attached(Struct, frozen=True):
    """The connection's hello was good: it has a session now."""

    connection: int


class Unattached(Struct, frozen=True):
    """The connection's hello was refused; it may say another."""

    connection: int


class Answered(Struct, frozen=True):
    """To `inputs.Asked`: JSON, or None for what is not there."""

    ticket: int
    answer: bytes | None


class GrantIce(Struct, frozen=True, kw_only=True):
    """Ask the broker for ICE servers; the answer comes back as `inputs.IceGranted`."""

    session: str
    account: str
    identity: str
    ttl: int | None = None
    region: str | None = None
    remote: str = ""
    """The client's address."""
    request: str | int | None = None


class Announce(Struct, frozen=True, kw_only=True):
    """A fact for webhooks: rooms, peers and calls that come and go."""

    kind: str
    account: str
    room: str
    data: dict[str, Any]


Effect = Send | Close | Attached | Unattached | Answered | GrantIce | Announce
