"""What stands in an account's journal and in a node's inbox, and its encoding.

A journal is the one order in which an account's inputs take effect. Nodes write batches into it;
the home that applies them writes ticks, grants and lost nodes. What takes effect at a node comes
back to it in parcels. It does not know Redis.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec
from msgspec import Struct

LOCAL_BITS = 32
"""Of a connection's number: the rest names the link."""
_MIDDLE = 1 << (LOCAL_BITS - 1)
_NEVER = 2**53 - 1
"""No batch has that number."""


class Batch(Struct, frozen=True, array_like=True, tag="b"):
    """What the connections of one link said in one tick."""

    link: int
    node: str
    number: int
    """From 1, without holes: a link that starts again is another link."""
    fresh: str
    """Randomness for what the events create."""
    events: list[tuple[int, str] | bytes]
    """A connection's frame, or a packed input."""


class Seen(Struct, frozen=True, array_like=True, tag="s"):
    """A link has heard a new home, and what it says follows on what the former one said."""

    link: int
    node: str
    epoch: int
    """Of the new home."""


class Tick(Struct, frozen=True, array_like=True, tag="t"):
    """Something is due."""


class Granted(Struct, frozen=True, array_like=True, tag="g"):
    """The broker's answer: a packed `inputs.IceGranted`."""

    packed: bytes


class Lost(Struct, frozen=True, array_like=True, tag="l"):
    """A node gives no sign of life: so are its connections."""

    node: str


class Claimed(Struct, frozen=True, array_like=True, tag="c"):
    """From here on another node is the home."""

    node: str
    epoch: int
    is_doubtful: bool = False
    """Redis is not the process that it was: the journal may have lost its end."""


Entry = Batch | Seen | Tick | Granted | Lost | Claimed


class Kind(IntEnum):
    """What an item of a parcel asks of the node."""

    SEND = 0
    """connection, number in the log, payload"""
    CLOSE = 1
    """connection, code, reason"""
    ATTACHED = 2
    """connection"""
    UNATTACHED = 3
    """connection"""
    ANSWERED = 4
    """ticket, JSON or None"""


Item = tuple[Any, ...]


class Parcel(Struct, frozen=True, array_like=True):
    """What one entry of the journal means for one link."""

    account: str
    link: int
    epoch: int
    """Of the home that says so."""
    number: int
    """Rises, and tells of all that stands in the journal up to the entry: with another past a home
    says something else. 0: the link is cut, its connections must begin anew."""
    after: int
    """Number of the link's parcel before this one."""
    done: int
    """The last batch of the link that has taken effect."""
    items: list[Item]


def farewell(link: int, node: str) -> Batch:
    """Of a link that was cut: the hole in its numbers tells the home."""
    return Batch(link, node, _NEVER, "", [])


def whole(link: int, connection: int) -> int:
    """A connection's number among all nodes'."""
    return (link << LOCAL_BITS) + connection + _MIDDLE


def local(number: int) -> int:
    """A connection's number on its own node."""
    return (number & ((1 << LOCAL_BITS) - 1)) - _MIDDLE


def link_of(number: int) -> int:
    return number >> LOCAL_BITS


def connections_of(link: int) -> range:
    """All numbers that connections of a link can have."""
    return range(link << LOCAL_BITS, (link + 1) << LOCAL_BITS)


encode = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_parcels = msgspec.msgpack.Decoder(list[Parcel]).decode
