"""What can happen to the switchboard. Randomness and identities arrive in the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from signal_server.wire.messages import ClientMessage, Hello


class Permit(Struct, frozen=True, kw_only=True):
    """What an access token allows, already verified at the edge."""

    account: str
    identity: str
    name: str | None = None
    may_join: Callable[[str], bool]
    """Whether the token opens that room; pure."""
    may_turn: bool = True


class IceGrant(Struct, frozen=True):
    """ICE servers with a fresh TURN credential."""

    ice_servers: list[dict[str, Any]]
    ttl: int
    """Seconds."""
    expires_at: int
    """Unix seconds."""


class Opened(Struct, frozen=True, kw_only=True):
    """A connection said hello with a valid token."""

    connection: int
    permit: Permit
    session: str
    peer: str
    resume_secret: str
    hello: Hello
    ice: IceGrant | None = None


class Received(Struct, frozen=True, gc=False):
    """A decoded message from a connection that is open."""

    connection: int
    message: ClientMessage


class Closed(Struct, frozen=True):
    """A connection is gone."""

    connection: int
    reason: str
    """`left` for a clean close, `connection_lost` otherwise."""


class IceGranted(Struct, frozen=True, kw_only=True):
    """The broker's answer to an `effects.GrantIce`; None when it cannot grant."""

    connection: int
    request: str | int | None
    grant: IceGrant | None


class Draining(Struct, frozen=True, kw_only=True):
    """This node is going away."""

    reason: str
    reconnect_after_ms: int
    deadline_ms: int


Input = Opened | Received | Closed | IceGranted | Draining
