"""An account's switchboard as a pure function of its journal.

Whoever applies the same entries gets the same state and the same parcels, so any node can go on
where another stopped, and what is said twice is recognized by its number. It is told the time by
the entries: milliseconds of Redis' clock. It does not know Redis or which node it is on.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from signal_server.core.room import Session
from signal_server.core.state import capture, pack, restore, unpack
from signal_server.core.switchboard import Switchboard
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.codes import CloseCode

FORGOTTEN = "forgotten"
"""Why a session ends whose latest messages nobody knows any more."""
BEYOND_ALL = 2**53 - 1


@dataclass(slots=True)
class LinkState:
    """A node's link, as the journal knows it."""

    node: str
    batches: int = 0
    """Number of the last one."""
    parcels: int = 0
    """Number of the last one."""
    at_claim: tuple[int, int] = (0, 0)
    """`parcels` and `batches` when the present home took over."""


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
        self._doubted: dict[str, int] = {}
        """Sessions by the last number that stands here, until their clients are seen to agree."""

    # Applying -------------------------------------------------------------------------------

    def apply(self, entry: Entry, unix_ms: int) -> Outcome:
        """Let the entry take effect."""
        self._begin(unix_ms)
        match entry:
            case Batch():
                self._batch(entry, unix_ms)
            case Tick():
                self._execute(self.board.handle_timeout(unix_ms / 1000, unix_ms))
            case Granted():
                self._feed(unpack(entry.packed), unix_ms)
            case Seen():
                self._seen(entry, unix_ms)
            case Lost():
                self.lose(entry.node, unix_ms)
            case Claimed():
                self._claimed(entry)
        for number, items in self._items.items():
            self._pack(number, items)
        return self._outcome

    def cut_others(self, node: str, unix_ms: int) -> Outcome:
        """Every link of another node has missed something: cut it."""
        self._begin(unix_ms)
        for number, link in list(self.links.items()):
            if link.node != node:
                self._cut(number, link.node, unix_ms)
        for number, items in self._items.items():
            self._pack(number, items)
        return self._outcome

    def _begin(self, unix_ms: int) -> None:
        self._outcome = Outcome([], [], [])
        self._items = {}
        self._unix_ms = unix_ms

    def stay_alone(self, node: str | None) -> None:
        """Only this node's clients can be reached; None: all of them again."""
        if node is None:
            self.board.cut_off(None)
            return

        def is_elsewhere(connection: int) -> bool:
            link = self.links.get(link_of(connection))
            return link is None or link.node != node

        self.board.cut_off(is_elsewhere)

    def part(self, node: str, unix_ms: int) -> None:
        """Go on without the home, for that node's clients: they resume. Whoever is connected
        elsewhere is shown what the home says, and may not go on with that here."""
        self.home = node
        self._begin(unix_ms)
        self.lose(node, unix_ms)
        self._doubt(self.board.sessions.by_connection.values())
        self.stay_alone(node)

    def doubt(self) -> None:
        """Clients may have been told what is not known here: none goes on as if it were."""
        self._doubted = {}
        self._doubt(self.board.sessions.by_id.values())

    def _doubt(self, sessions: Iterable[Session]) -> None:
        self._doubted.update((session.id, session.outbox.seq) for session in sessions)

    def next_deadline(self) -> float | None:
        """Unix seconds of Redis' clock."""
        return self.board.next_deadline()

    def nodes(self) -> set[str]:
        """Those that have links."""
        return {link.node for link in self.links.values()}

    def lose(self, node: str, unix_ms: int) -> None:
        """The node's connections are lost."""
        for number in [n for n, link in self.links.items() if link.node == node]:
            self._cut(number, node, unix_ms)

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
        for link in self.links.values():
            link.at_claim = (link.parcels, link.batches)
        if claimed.is_doubtful:
            self.doubt()

    def _seen(self, seen: Seen, unix_ms: int) -> None:
        """A link that has heard or said more than stands here: the journal has lost its end, and
        with it what its sessions were told. Numbers may not be used twice, so they are over."""
        link = self.links.get(seen.link)
        if link is None:
            return
        sessions = self._sessions_of(seen.link)
        if seen.parcels > link.at_claim[0] or seen.batches > link.at_claim[1]:
            for connection, _ in sessions:
                self._feed(inputs.Closed(connection, FORGOTTEN), unix_ms)
            self._cut(seen.link, seen.node, unix_ms)
            return
        for _, session in sessions:
            self._doubted.pop(session, None)

    def _sessions_of(self, link: int) -> list[tuple[int, str]]:
        among = connections_of(link)
        by_connection = self.board.sessions.by_connection
        return [(c, session.id) for c, session in by_connection.items() if c in among]

    def _trusted(self, event: inputs.Input) -> inputs.Input:
        """A resume with a number from behind the lost end of the journal finds a gap."""
        if not self._doubted or not isinstance(event, inputs.Resumed):
            return event
        known = self._doubted.pop(event.resume.session, None)
        if known is None or event.resume.last_seq <= known:
            return event
        beyond = structs.replace(event.resume, last_seq=BEYOND_ALL)
        return structs.replace(event, resume=beyond)

    def _cut(self, number: int, node: str, unix_ms: int) -> None:
        """Something is missing between the node and us: its connections begin anew."""
        for connection, _ in self._sessions_of(number):
            self._feed(inputs.Closed(connection, "connection_lost"), unix_ms)
        link = self.links.pop(number, None)
        self._items.pop(number, None)
        parcel = Parcel(self.account, number, self.epoch, 0, 0, [])
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
        link.parcels += 1
        parcel = Parcel(self.account, number, self.epoch, link.parcels, link.batches, items)
        self._outcome.parcels.append((link.node, parcel))

    # State ----------------------------------------------------------------------------------

    def capture(self) -> bytes:
        links = {n: (e.node, e.batches, e.parcels, e.at_claim) for n, e in self.links.items()}
        return pack(
            (self.epoch, self.home, links, self._doubted, self.facts.last, capture(self.board))
        )

    def restore(self, octets: bytes) -> None:
        """Into a fresh one; raises `state.StateError`."""
        self.epoch, self.home, links, self._doubted, last, board = unpack(octets)
        self.facts.last = last
        self.links = {number: LinkState(*fields) for number, fields in links.items()}
        restore(self.board, board)


def _global(link: int, event: Any) -> inputs.Input:
    """The same input, with its connection's number among all nodes'."""
    match event:
        case inputs.Asked():
            return structs.replace(event, ticket=whole(link, event.ticket))
        case inputs.Draining():
            return structs.replace(event, among=connections_of(link))
        case _:
            return structs.replace(event, connection=whole(link, event.connection))  # type: ignore[no-any-return]
