"""An account's switchboard as a pure function of its journal.

Whoever applies the same entries gets the same state and the same parcels, so any node can go on
where another stopped, and what is said twice is recognized by its number. It is told the time by
the entries: milliseconds of Redis' clock. It does not know Redis or which node it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, structs

from signal_server.backplane.entries import (
    Batch,
    Claimed,
    Entry,
    Granted,
    Item,
    Kind,
    Lost,
    Parcel,
    Seen,
    Tick,
    connections_of,
    link_of,
    local,
    whole,
)
from signal_server.backplane.facts import Fact, Facts
from signal_server.core import inputs
from signal_server.core.effects import (
    Announce,
    Answered,
    Attached,
    Close,
    Effect,
    GrantIce,
    Send,
    Unattached,
)
from signal_server.core.state import capture, pack, restore, unpack
from signal_server.core.switchboard import Switchboard
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.codes import CloseCode

BEYOND_ALL = 2**53 - 1
"""No session has so many messages: who has seen that number finds a gap."""
_DIGEST_BITS = 64
_SHOWN_BITS = 22
"""Of the digest, in a parcel's number."""


@dataclass(slots=True)
class LinkState:
    """A node's link, as the journal knows it."""

    node: str
    batches: int = 0
    """Number of the last one."""
    parcels: int = 0
    """Number of the last one."""


class Outcome(Struct):
    """What applying one entry brought about."""

    parcels: list[tuple[str, Parcel]]
    """With the node each is for."""
    demands: list[GrantIce | Fact]
    failures: list[BaseException]
    """Bugs; each closed the connection concerned."""


class Replica:
    """See the module's text."""

    def __init__(self, account: str, board: Switchboard, facts: Facts, json_depth: int) -> None:
        self.account = account
        self.board = board
        self.facts = facts
        self.epoch = 0
        self.home = ""
        """The node that speaks."""
        self.links: dict[int, LinkState] = {}
        self._json_depth = json_depth
        self._outcome = Outcome([], [], [])
        self._items: dict[int, list[Item]] = {}
        self._unix_ms = 0
        self._digest = 0
        """Of the times of all entries: another journal comes to another one."""
        self._doubted: set[str] = set()
        """Sessions whose clients may have been told what is not known here."""
        self._alone: str | None = None
        """The node whose clients are all that can be reached."""
        self._doubtful_epoch = 0
        """Who has heard that home or a later one, and agrees, is not doubted."""

    # Applying -------------------------------------------------------------------------------

    def apply(self, entry: Entry, unix_ms: int) -> Outcome:
        """Let the entry take effect."""
        self._begin(unix_ms)
        self._digest = _rolled(self._digest, unix_ms)
        match entry:
            case Batch():
                self._batch(entry, unix_ms)
            case Tick():
                self._execute(self.board.handle_timeout(unix_ms / 1000, unix_ms))
            case Granted():
                self._feed(unpack(entry.packed), unix_ms)
            case Seen():
                self._seen(entry)
            case Lost():
                self.lose(entry.node, unix_ms)
            case Claimed():
                self._claimed(entry)
        return self._end()

    def cut_others(self, node: str, unix_ms: int) -> Outcome:
        """Every link of another node has missed something: cut it."""
        self._begin(unix_ms)
        for number, link in list(self.links.items()):
            if link.node != node:
                self._cut(number, link.node, unix_ms)
        return self._end()

    def _begin(self, unix_ms: int) -> None:
        self._outcome = Outcome([], [], [])
        self._items = {}
        self._unix_ms = unix_ms

    def _end(self) -> Outcome:
        for number, items in self._items.items():
            self._pack(number, items)
        return self._outcome

    def stay_alone(self, node: str | None) -> None:
        """Only this node's clients can be reached; None: all of them again."""
        self._alone = node
        self.board.cut_off(None if node is None else self._is_elsewhere)

    def _is_elsewhere(self, connection: int) -> bool:
        link = self.links.get(link_of(connection))
        return link is None or link.node != self._alone

    def go_alone(self, node: str, link: int, unix_ms: int, fresh: Callable[[], str]) -> Outcome:
        """Go on for that node's clients, but in no journal: whoever is told something of it has a
        secret that only stands here, and cannot go on elsewhere as if it were known there.

        Other links of the node than this one are over.
        """
        self._begin(unix_ms)
        on_link = [connection for connection, _ in self._sessions_of(link)]
        for connection in on_link:
            if local(connection) >= 0:
                self._feed(inputs.Rekeyed(connection, fresh()), unix_ms)
        for connection in on_link:
            if local(connection) < 0:
                # Over HTTP what has no number may be lost, and a secret has none.
                self._execute([Close(connection, CloseCode.GO_AWAY, "resume")])
                self._feed(inputs.Closed(connection, "connection_lost"), unix_ms)
        for number in self._links_of(node):
            if number != link:
                self._cut(number, node, unix_ms)
        self.stay_alone(node)
        return self._end()

    def doubt(self) -> None:
        """Clients may have been told what is not known here: none goes on as if it were."""
        self._doubted = set(self.board.sessions.by_id)

    def next_deadline(self) -> float | None:
        """Unix seconds of Redis' clock."""
        return self.board.next_deadline()

    def nodes(self) -> set[str]:
        """Those that have links."""
        return {link.node for link in self.links.values()}

    def lose(self, node: str, unix_ms: int) -> None:
        """The node's connections are lost."""
        for number in self._links_of(node):
            self._cut(number, node, unix_ms)

    def _links_of(self, node: str) -> list[int]:
        return [number for number, link in self.links.items() if link.node == node]

    def _batch(self, batch: Batch, unix_ms: int) -> None:
        link = self.links.get(batch.link)
        if link is None and batch.number == 1:
            link = self.links[batch.link] = LinkState(batch.node)
        if link is None or link.node != batch.node or batch.number > link.batches + 1:
            self._cut(batch.link, batch.node, unix_ms)
            return
        if batch.number <= link.batches:
            return
        link.batches = batch.number
        self._items[batch.link] = []
        for place, event in enumerate(batch.events):
            if isinstance(event, bytes):
                self._feed(self._trusted(_global(batch.link, unpack(event))), unix_ms)
                continue
            connection, text = event
            message = decode(text, self._json_depth)
            if not isinstance(message, Refusal):
                number = whole(batch.link, connection)
                fresh = f"{batch.fresh}{place}"
                self._feed(inputs.Received(number, message, fresh), unix_ms)

    def _claimed(self, claimed: Claimed) -> None:
        self.home, self.epoch = claimed.node, claimed.epoch
        if claimed.is_doubtful:
            self._doubtful_epoch = claimed.epoch
            self.doubt()
            # Every link sees from a parcel whether it was told what the journal has lost.
            self._items = {number: [] for number in self.links}

    def _seen(self, seen: Seen) -> None:
        """All that the link was told is known here; otherwise it cuts itself."""
        if seen.epoch >= self._doubtful_epoch:
            self._doubted.difference_update(id_ for _, id_ in self._sessions_of(seen.link))

    def _sessions_of(self, link: int) -> list[tuple[int, str]]:
        among = connections_of(link)
        by_connection = self.board.sessions.by_connection
        return [(c, session.id) for c, session in by_connection.items() if c in among]

    def _trusted(self, event: inputs.Input) -> inputs.Input:
        """Whoever may have been told what is not known here finds a gap: also with a number that
        stands here, which may have been another message's."""
        if not isinstance(event, inputs.Resumed) or not self._is_doubted(event.resume.session):
            return event
        beyond = structs.replace(event.resume, last_seq=BEYOND_ALL)
        return structs.replace(event, resume=beyond)

    def _is_doubted(self, session: str) -> bool:
        known = self.board.sessions.by_id.get(session)
        if known is None or self._alone is None or known.connection is None:
            return session in self._doubted
        # While alone: another home may tell more to those that are connected elsewhere.
        return session in self._doubted or self._is_elsewhere(known.connection)

    def _cut(self, number: int, node: str, unix_ms: int) -> None:
        """Something is missing between the node and us: its connections begin anew."""
        for connection, _ in self._sessions_of(number):
            self._feed(inputs.Closed(connection, "connection_lost"), unix_ms)
        link = self.links.pop(number, None)
        self._items.pop(number, None)
        parcel = Parcel(self.account, number, self.epoch, 0, 0, 0, [])
        if link is None or link.node == node:
            self._outcome.parcels.append((node, parcel))

    # Effects --------------------------------------------------------------------------------

    def _feed(self, event: inputs.Input, unix_ms: int) -> None:
        try:
            self._execute(self.board.handle(event, unix_ms / 1000, unix_ms))
        except Exception as flaw:  # noqa: BLE001 - one connection's bug is nobody else's
            self._outcome.failures.append(flaw)
            connection = getattr(event, "connection", None)
            if connection is not None:
                self._execute([Close(connection, CloseCode.INTERNAL, "internal")])

    def _execute(self, effects: list[Effect]) -> None:
        item: Item
        for effect in effects:
            match effect:
                case Send():
                    item = (Kind.SEND, local(effect.connection), effect.seq, effect.payload)
                    self._tell(effect.connection, item)
                case Close():
                    code = int(effect.code)
                    item = (Kind.CLOSE, local(effect.connection), code, effect.reason)
                    self._tell(effect.connection, item)
                case Attached():
                    self._tell(effect.connection, (Kind.ATTACHED, local(effect.connection)))
                case Unattached():
                    self._tell(effect.connection, (Kind.UNATTACHED, local(effect.connection)))
                case Answered():
                    item = (Kind.ANSWERED, local(effect.ticket), effect.answer)
                    self._tell(effect.ticket, item)
                case GrantIce():
                    self._outcome.demands.append(effect)
                case Announce():
                    self._outcome.demands.append(self.facts.place(effect, self._unix_ms))

    def _tell(self, connection: int, item: Item) -> None:
        number = link_of(connection)
        if number in self.links:
            self._items.setdefault(number, []).append(item)

    def _pack(self, number: int, items: list[Item]) -> None:
        link = self.links.get(number)
        if link is None:
            return
        after, shown = link.parcels, self._digest >> (_DIGEST_BITS - _SHOWN_BITS)
        link.parcels = max((self._unix_ms << _SHOWN_BITS) + shown, after + 1)
        parcel = Parcel(self.account, number, self.epoch, link.parcels, after, link.batches, items)
        self._outcome.parcels.append((link.node, parcel))

    # State ----------------------------------------------------------------------------------

    def capture(self) -> bytes:
        links = {n: (e.node, e.batches, e.parcels) for n, e in self.links.items()}
        doubts = (self._doubtful_epoch, self._doubted & self.board.sessions.by_id.keys())
        own = (self.epoch, self.home, links, self._digest, doubts, self.facts.last)
        return pack((*own, capture(self.board)))

    def restore(self, octets: bytes) -> None:
        """Into a fresh one; raises `state.StateError`."""
        self.epoch, self.home, links, self._digest, doubts, last, board = unpack(octets)
        self._doubtful_epoch, self._doubted = doubts
        self.facts.last = last
        self.links = {number: LinkState(*fields) for number, fields in links.items()}
        restore(self.board, board)


def _rolled(digest: int, value: int) -> int:
    """Knuth's MMIX generator, fed with values: its upper bits are good."""
    mixed = (digest ^ value) * 6364136223846793005 + 1442695040888963407
    return mixed & ((1 << _DIGEST_BITS) - 1)


def _global(link: int, event: Any) -> inputs.Input:
    """The same input, with its connection's number among all nodes'."""
    match event:
        case inputs.Asked():
            return structs.replace(event, ticket=whole(link, event.ticket))
        case inputs.Draining():
            return structs.replace(event, among=connections_of(link))
        case _:
            return structs.replace(event, connection=whole(link, event.connection))  # type: ignore[no-any-return]
