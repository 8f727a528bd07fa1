"""What messages of both directions are made of: requests, replies, numbered messages, names.

It does not know any particular message.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

RequestId = (
    Annotated[str, Meta(min_length=1, max_length=64)]
    | Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)]
)
PeerId = Annotated[str, Meta(min_length=1, max_length=64)]
RoomName = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+(?![\s\S])")
]
SequenceNumber = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Request(Struct, tag_field="type", kw_only=True, gc=False):
    """What every client message may carry."""

    id: RequestId | None = None
    """Chosen by the client, unique in its session; asks for `ok` or `error`."""
    ack: SequenceNumber | None = None
    """Highest number of the session's log up to which the client has everything."""


class Reply(Struct, tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """Server messages outside the session's numbering."""


class Numbered(Struct, tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """Server messages of a session's numbered log: `seq` starts at 1 and has no holes."""

    seq: int = 0
