"""A node's end of its link to one account's switchboard: numbers what goes, checks what comes.

It does not know the journal or the connections behind their numbers.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum, auto

from msgspec.structs import replace

from signal_server.backplane.entries import Batch, Item, Kind, Parcel, Seen
from signal_server.core.inputs import Input, Opened, Resumed
from signal_server.core.state import pack, unpack

MAX_PENDING_EVENTS = 20_000
"""That nobody has taken effect of: the node is cut off, or the home cannot keep up."""
MAX_BATCH_EVENTS = 500
_LOG_MESSAGES = 2048
"""Kept for a connection over HTTP; it acknowledges with every GET."""


class Fate(Enum):
    """What a parcel means for the link as a whole."""

    GOES_ON = auto()
    CUT = auto()
    """Something is missing here, or the home does not know what was heard: every connection of it
    must begin anew."""


class Link:
    """`number` is random: a link that starts again is another link."""

    def __init__(self, number: int, account: str, node: str) -> None:
        self.number = number
        self.account = account
        self.seen: Seen | None = None
        """To be written into the journal: there is a new home."""
        self.taken = 0
        """Number of the last batch."""
        self.done = 0
        """The last batch that has taken effect."""
        self._node = node
        self._events: deque[tuple[int, str] | bytes] = deque()
        self._pending: OrderedDict[int, Batch] = OrderedDict()
        """Batches that have not taken effect."""
        self._under_way = 0
        self._asks = False
        self._heard = 0
        self._epoch = 0
        self._logs: dict[int, deque[tuple[int, bytes]]] = {}

    # What goes ------------------------------------------------------------------------------

    def say(self, connection: int, text: str) -> None:
        self._events.append((connection, text))

    def submit(self, event: Input) -> None:
        self._events.append(pack(event))

    def ask(self) -> None:
        """Say nothing, which is answered like all else: by a home that knows this link."""
        self._asks = True

    @property
    def has_news(self) -> bool:
        return bool(self._events) or self.seen is not None or self._asks

    @property
    def is_full(self) -> bool:
        """More waits than should."""
        return self._under_way + len(self._events) > MAX_PENDING_EVENTS

    @property
    def is_waiting(self) -> bool:
        """A batch has not taken effect."""
        return bool(self._pending)

    @property
    def last(self) -> int:
        """The batch after which all that was said so far has taken effect."""
        return self.taken + (1 if self._events else 0)

    def take(self, fresh: str) -> Batch | None:
        """The next batch; None when there is nothing to say."""
        if not self._events and not self._asks:
            return None
        self._asks = False
        most = min(len(self._events), MAX_BATCH_EVENTS)
        events = [self._events.popleft() for _ in range(most)]
        self.taken += 1
        self._under_way += most
        batch = Batch(self.number, self._node, self.taken, fresh, events)
        self._pending[self.taken] = batch
        return batch

    @property
    def pending(self) -> list[Batch]:
        """Batches that have not taken effect."""
        return list(self._pending.values())

    def take_back_hellos(self) -> list[int]:
        """Connections whose hello is pending, out of it: somewhere else it may have taken effect
        or will, with the same secret."""
        gone: list[int] = []
        for number, batch in self._pending.items():
            events: list[tuple[int, str] | bytes] = []
            for event in batch.events:
                said = unpack(event) if isinstance(event, bytes) else None
                if isinstance(said, Opened | Resumed):
                    gone.append(said.connection)
                else:
                    events.append(event)
            self._under_way -= len(batch.events) - len(events)
            self._pending[number] = replace(batch, events=events)
        return gone

    @property
    def epoch(self) -> int:
        """Of the last home that was heard."""
        return self._epoch

    @property
    def heard(self) -> int:
        """Number of the last parcel."""
        return self._heard

    # What comes -----------------------------------------------------------------------------

    def hear(self, parcel: Parcel) -> list[Item] | Fate:
        """What the parcel asks of the node, or that the link is cut."""
        if parcel.epoch < self._epoch:
            return []
        if parcel.number == 0:
            return Fate.CUT
        is_new_home = 0 < self._epoch < parcel.epoch
        self._epoch = parcel.epoch
        if parcel.number <= self._heard and not is_new_home:
            return []
        if parcel.after != self._heard:
            return Fate.CUT
        self._heard = parcel.number
        if is_new_home:
            self.seen = Seen(self.number, self._node, parcel.epoch)
        while self._pending and next(iter(self._pending)) <= parcel.done:
            self._under_way -= len(self._pending.popitem(last=False)[1].events)
        self.done = max(self.done, parcel.done)
        return parcel.items

    # Connections over HTTP ------------------------------------------------------------------

    def keep(self, item: Item) -> None:
        """Remember a numbered message for GETs to come."""
        if item[0] == Kind.SEND and item[2]:
            _, connection, seq, payload = item
            log = self._logs.setdefault(connection, deque(maxlen=_LOG_MESSAGES))
            log.append((seq, payload))

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        """The numbered messages behind `after`; None for a gap."""
        log = self._logs.get(connection)
        if not log:
            return []
        while log and log[0][0] <= after:
            log.popleft()
        if log and log[0][0] != after + 1:
            return None
        return [payload for _, payload in log]

    def forget(self, connection: int) -> None:
        self._logs.pop(connection, None)
