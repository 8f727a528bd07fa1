"""What a call remembers: messages for the device that will answer, and what happened when.

The early log (rule B18) is append-only and holds opaque items. The timeline has times, event names
and device ids; never a description, a candidate or an address. It does not know call states.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from signal_server.wire.call_messages import CallMedia, EndReason


class Entry(Struct, frozen=True, omit_defaults=True, gc=False):
    """One event of a timeline."""

    unix_ms: int
    event: str
    device: str | None = None
    identity: str | None = None


class Timeline(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The account of one call for `GET /v1/calls/{call}`."""

    account: str
    call: str
    state: str
    room: str
    caller: str
    """Identity."""
    invited: list[str]
    """Identities."""
    media: CallMedia
    events: list[Entry]
    omitted: int = 0
    """Events beyond the bound."""
    reason: EndReason | None = None
    device: str | None = None
    """The device that answered."""


@dataclass(slots=True)
class EarlyLog:
    """What the caller sent to a call that nobody has answered."""

    items: list[object] = field(default_factory=list)
    size: int = 0
    """Bytes, as charged by whoever appends."""

    def append(self, item: object, size: int) -> None:
        self.items.append(item)
        self.size += size

    def take(self) -> tuple[object, ...]:
        """Everything in order; the log is empty afterwards."""
        items = tuple(self.items)
        self.items.clear()
        self.size = 0
        return items


@dataclass(slots=True)
class Trace:
    """A growing timeline; beyond its bound events are counted, the decisive ones still kept."""

    bound: int
    events: list[Entry] = field(default_factory=list)
    omitted: int = 0

    def add(self, entry: Entry, *, decisive: bool = False) -> None:
        """There are at most two decisive events: accepted and ended."""
        if decisive or len(self.events) < self.bound:
            self.events.append(entry)
        else:
            self.omitted += 1


class Ended:
    """The timelines of the last calls, oldest forgotten first."""

    __slots__ = ("_bound", "_timelines")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._timelines: dict[str, Timeline] = {}

    def add(self, timeline: Timeline) -> None:
        self._timelines[timeline.call] = timeline
        if len(self._timelines) > self._bound:
            del self._timelines[next(iter(self._timelines))]

    def get(self, account: str, call: str) -> Timeline | None:
        found = self._timelines.get(call)
        return found if found is not None and found.account == account else None

    def __contains__(self, call: str) -> bool:
        return call in self._timelines
