"""What the relay's state machine asks its edge to do. Values only."""

from __future__ import annotations

from typing import NamedTuple

from turn_broker.relay.authentication import Flow
from turn_broker.relay.stun import Endpoint


class ToClient(NamedTuple):
    """Send to the client; over TCP the edge pads to four bytes."""

    flow: Flow
    payload: bytes


class ToPeer(NamedTuple):
    """Send from the allocation's relayed address."""

    allocation: int
    payload: bytes
    peer: Endpoint


class OpenRelay(NamedTuple):
    """Open a relayed address; answer with `relay_opened` or `relay_failed`."""

    allocation: int
    family: int
    even_port: bool


class CloseRelay(NamedTuple):
    """The allocation has ended: close its relayed address."""

    allocation: int
    flow: Flow
    sent_bytes: int = 0
    received_bytes: int = 0
    """What it relayed in all."""


Effect = ToClient | ToPeer | OpenRelay | CloseRelay
Effects = tuple[Effect, ...]
