"""What a node agent needs from the TURN server it stands beside, embedded or coturn.

One conformance suite (tests/contract) holds for every implementation. It does not know the fleet,
policies or who is to be cut: it reports sessions and does what it is told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct


class SessionOpened(Struct, frozen=True, kw_only=True):
    """An allocation exists. Sent for a session before anything else is said of it."""

    session: str
    username: str
    client: str
    """The client's address without port; empty where the server does not say."""
    transport: str = ""
    """udp, tcp, tls, dtls or empty."""
    age_s: int | None = None
    """How long it had existed when `events` began; None for one that opened since."""


class SessionUsed(Struct, frozen=True, kw_only=True):
    """Payload bytes since the last report of this session, in the server's own granularity."""

    session: str
    sent_bytes: int
    """From the client."""
    received_bytes: int
    """To the client."""


class SessionClosed(Struct, frozen=True, kw_only=True):
    """The allocation is gone; its last `SessionUsed` came before."""

    session: str


SessionEvent = SessionOpened | SessionUsed | SessionClosed


class ControlLost(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The TURN server cannot be reached now."""


class TurnControl(Protocol):
    """One TURN server. Coroutines raise ControlLost within 5 s when it cannot be reached."""

    @property
    def software(self) -> str:
        """`coturn 4.6.1`, `embedded`."""
        ...

    @property
    def doubted_records(self) -> int:
        """What it was told of sessions and did not believe, because anybody could have said it."""
        ...

    async def set_secrets(self, secrets: tuple[str, ...]) -> None:
        """From now on exactly these verify new requests."""

    async def cut(self, session: str) -> bool:
        """End an allocation at once; False when there is none of that name any more."""
        ...

    async def drain(self, on: bool) -> None:
        """Refuse new allocations, or take them again; running ones are refreshed as before."""

    def events(self) -> AsyncGenerator[SessionEvent, None]:
        """Begins with a `SessionOpened` for each allocation that exists already.

        One iterator at a time. Raises ControlLost when the server is lost; its sessions are then
        unknown until `events` is called again.
        """
        ...

    async def close(self) -> None: ...
