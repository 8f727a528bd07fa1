"""The relay against a naive oracle: random peers, negotiations, candidates and time.

The oracle writes down what was sent and what arrived, and recomputes from that record, slowly, what
was allowed to arrive and what had to. It shares no code with the core.

More steps: PARLEY_LONG=1 pytest --timeout=0 tests/model
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from switchboard_driver import Client, Driver, sdp

GATE_S, EARLY_S = 10.0, 45.0
PER_GENERATION, OPEN_GENERATIONS = 12, 2
LIMITS: dict[str, Any] = {
    "candidates_per_generation": PER_GENERATION,
    "open_generations": OPEN_GENERATIONS,
    "early_ttl_s": EARLY_S,
    "gate_timeout_s": GATE_S,
    "peer_connections_per_pair": 3,
}
WILD = "wild"
"""A peer connection whose descriptions are encrypted."""
WILD_STRANDS = 16
"""Its open generations: nothing tells which one is in use."""

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
settings.register_profile("relay", max_examples=100, stateful_step_count=40)
settings.register_profile("relay-long", max_examples=4000, stateful_step_count=60)
PROFILE = settings.get_profile("relay-long" if IS_LONG else "relay")

DESCRIPTIONS = ("offer", "answer", "pranswer")
STAGES = ["relayed", "received", "applied", "expired", "dropped"]
Section = tuple[str, str]
"""Mid and ufrag."""


@dataclass
class Description:
    number: int
    sections: list[Section]
    at: float
    since: dict[Section, int] = field(default_factory=dict)

    @property
    def ufrags(self) -> set[str]:
        return {ufrag for _, ufrag in self.sections}


@dataclass
class Item:
    """A candidate, or end-of-candidates where `line` is empty."""

    order: int
    line: str
    mid: str | None
    ufrag: str | None
    at: float
    described: frozenset[Section]
    """What the sender's descriptions carried when it was sent."""
    ufrags: frozenset[str]
    """For an end without ufrag: the generations that it ends."""
    newest: int = 0
    """The sender's latest negotiation when it was sent."""
    bound: str | None = None
    """The ufrag it counts for, once that is certain."""
    seq: int = 0
    """Of the message that brought it to the receiver."""
    is_history: bool = False
    """Its generation has been replaced; what comes back under the same ufrag is another."""


@dataclass
class Letter:
    """A request to one peer, answered `ok`, of which its sender wants to know what becomes."""

    ref: int
    kind: str
    sender: int
    receiver: int
    pc: str
    number: int
    """Its negotiation."""
    seq: int
    """Its number in the receiver's log; 0 for candidates, which may be held."""
    items: list[Item] = field(default_factory=list)
    told: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        return [stage for stage, _ in self.told]


@dataclass
class Link:
    """One direction of one peer connection of a pair, as the record shows it."""

    pc: str
    sender: int
    gated: bool
    generation: int = 0
    """The one that candidates gathered ahead of their description carry."""
    alive: dict[int, Description] = field(default_factory=dict)
    settled: int = 0
    arrived: set[Section] = field(default_factory=set)
    evidence: int = 0
    timed_out: int = 0
    """Highest negotiation whose gate has ever been overdue."""
    outgoing: int | None = None
    request: int = 0
    """The request that made the outstanding offer."""
    answered: int = 0
    sent: list[Item] = field(default_factory=list)
    pending: list[Item] = field(default_factory=list)
    out: list[Item] = field(default_factory=list)
    retired: set[str] = field(default_factory=set)

    def name(self, generation: int) -> str:
        return f"{self.sender}{self.pc}g{max(0, generation)}"

    def sections(self) -> frozenset[Section]:
        return frozenset(s for d in self.alive.values() for s in d.sections)

    def ufrags(self) -> set[str]:
        return {ufrag for _, ufrag in self.sections()}

    def since(self, section: Section) -> int | None:
        for description in self.alive.values():
            if section in description.since:
                return description.since[section]
        return None

    def latest(self) -> Description | None:
        return list(self.alive.values())[-1] if self.alive else None

    def describe(self, description: Description) -> None:
        before, owners = self.ufrags(), self.owners()
        for section in description.sections:
            description.since[section] = self.since(section) or description.number
        self.alive.pop(description.number, None)
        self.alive[description.number] = description
        self.bury(before - self.ufrags(), owners)
        self.retired -= description.ufrags
        self.bind(self.pending)

    def settle(self, number: int) -> None:
        if number in self.alive and self.settled != number:
            before, owners = self.ufrags(), self.owners()
            self.alive = {number: self.alive[number]}
            self.settled = number
            self.bury(before - self.ufrags(), owners)

    def void(self, number: int | None) -> None:
        if number is not None and number != self.settled and number in self.alive:
            before, owners = self.ufrags(), self.owners()
            del self.alive[number]
            self.bury(before - self.ufrags(), owners)

    def owners(self) -> dict[int, str | None]:
        return {item.order: self.owner(item) for item in self.pending}

    def bury(self, ufrags: set[str], owners: dict[int, str | None]) -> None:
        """What counted for a generation that is history goes with it."""
        self.retired |= ufrags
        gone = [item for item in self.pending if owners[item.order] in ufrags]
        self.pending = [item for item in self.pending if item not in gone]
        for item in self.sent:
            item.is_history |= (item.ufrag or item.bound) in ufrags

    def owner(self, item: Item) -> str | None:
        """The ufrag of an item; for one that came without, that of its section."""
        if item.ufrag is not None or item.bound is not None:
            return item.ufrag or item.bound
        return self.newest_owner(item.mid)

    def newest_owner(self, mid: str | None) -> str | None:
        """The ufrag that something said without one belongs to now."""
        for description in reversed(self.alive.values()):
            for section, ufrag in description.sections:
                if mid in (None, section):
                    return ufrag
        return None

    def bind(self, items: list[Item]) -> None:
        """One without ufrag belongs for good to the first description of its section."""
        for item in items:
            owner, latest = self.owner(item), self.latest()
            if item.bound or latest is None or not owner:
                continue
            if item.mid is None or self.since((item.mid, owner)) is not None:
                item.bound = owner
                if not item.line and item.ufrag is None:
                    item.ufrags |= {owner} if item.mid is not None else latest.ufrags

    def open_gates(self, now: float) -> int:
        """Highest negotiation that the receiver is taken to have applied."""
        overdue = [d.number for d in self.alive.values() if d.at + GATE_S <= now]
        self.timed_out = max([self.timed_out, *overdue])
        return max([self.evidence, *overdue])

    def may_be_open(self, now: float) -> int:
        """A gate that timed out may stay open when its description is replaced, but need not."""
        return max(self.open_gates(now), self.timed_out)

    def is_free(self, item: Item, now: float) -> bool | None:
        """True: it must have left; False: it waits for the gate; None: for its description."""
        latest = self.latest()
        if latest is None:
            return None
        gate = self.open_gates(now) if self.gated else 2**31
        if self.pc == WILD:
            numbers = [latest.number]
        elif item.mid is not None:
            since = self.since((item.mid, str(self.owner(item))))
            if since is None:
                return None
            numbers = [since]
        else:
            owner = self.owner(item)
            numbers = [self.since(s) or 0 for s in self.sections() if s[1] == owner]
            if not numbers:
                return None
            numbers += [self.since(s) or 0 for s in self.sections() if item.ufrag is None]
        if not item.line and any(self.is_behind(item, waiting) for waiting in self.pending):
            return False
        return max(numbers) <= gate

    def is_behind(self, end: Item, waiting: Item) -> bool:
        """An end must not overtake what it covers, or what may turn out to be covered."""
        owner = self.owner(waiting)
        return (
            waiting.order < end.order
            and (owner is None or owner in end.ufrags or self.pc == WILD)
            and end.mid in (None, waiting.mid)
        )

    def was_ended(self, item: Item) -> bool:
        """It was sent after an end-of-candidates for it, which may be known only now."""
        return any(
            end.order < item.order
            and not end.line
            and not end.is_history
            and self.owner(item) in end.ufrags
            and end.mid in (None, item.mid)
            for end in self.sent
        )

    def forget_expired(self, now: float) -> None:
        """What waited too long for its description is given up."""
        self.pending = [
            item
            for item in self.pending
            if now < item.at + EARLY_S or self.is_free(item, now) is not None
        ]


PAIRS: dict[str, Any] = {
    "ab": st.sampled_from([(0, 1), (1, 0)] * 4 + [(0, 2), (2, 1), (1, 2)]),
    "pc": st.sampled_from(["main"] * 5 + ["x", WILD]),
}


class Relay(RuleBasedStateMachine):
    """Rules do something at random and tell the record; the invariants compare."""

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(**LIMITS)
        self.slots: list[Client | None] = [None] * 4
        self.rooms: dict[int, tuple[str, str]] = {}
        self.gated: dict[int, bool] = {}
        self.links: dict[tuple[int, int, str], Link] = {}
        self.seqs: Counter[int] = Counter()
        self.orders = 0
        self.items_sent = 0
        self.items_out = 0
        self.numbers: Counter[tuple[object, ...]] = Counter()
        self.arbitrates = False
        self.ranks: dict[int, int] = {}
        """When each came into its room: the later one of a pair is polite."""
        self.followed: set[int] = set()
        self.letters: dict[tuple[int, int], Letter] = {}
        self.acked: Counter[int] = Counter()

    # The record -----------------------------------------------------------------------------

    def link(self, a: Client, b: Client, pc: str) -> Link:
        key = (a.connection, b.connection, pc)
        if key not in self.links:
            self.links[key] = Link(pc, a.connection, self.gated[b.connection])
        return self.links[key]

    def pair(self, ab: tuple[int, int]) -> tuple[Client, Client] | None:
        """Two different peers of one room."""
        one, other = (self.slots[slot] for slot in ab)
        if one is None or other is None:
            return None
        room = self.rooms.get(one.connection)
        if room is None or room != self.rooms.get(other.connection):
            return None
        return one, other

    def request(self, client: Client, kind: str, **fields: Any) -> dict[str, Any]:
        """Its answer, after which everything that was delivered has been read."""
        self.orders += 1
        client.send(kind, id=self.orders, **fields)
        answers = [m for m in client.inbox if m.get("id") == self.orders]
        assert len(answers) == 1, answers
        client.inbox.remove(answers[0])
        if client.connection in self.followed and "to" in fields and answers[0]["type"] == "ok":
            self.post(client, kind, answers[0].get("negotiation", 0), **fields)
        return answers[0]

    def post(self, client: Client, kind: str, number: int, *, to: str, pc: str, **_: Any) -> None:
        """Its sender wants to know what becomes of it."""
        receiver = int(to[1:])
        seq = 0
        if kind != "candidate":
            inbox = self.driver.clients[receiver].inbox
            seq = next(m["seq"] for m in inbox if m["type"] == kind and m["from"] == client.peer)
        letter = Letter(self.orders, kind, client.connection, receiver, pc, number, seq)
        self.letters[client.connection, self.orders] = letter

    def read(self) -> None:
        """Read every inbox, message by message."""
        for client in self.driver.clients.values():
            for message in client.take():
                if "seq" in message:
                    self.seqs[client.connection] += 1
                    assert message["seq"] == self.seqs[client.connection], "a hole"
                if message["type"] == "receipt":
                    letter = self.letters.get((client.connection, message["ref"]))
                    if letter is not None:
                        letter.told.append((message["stage"], message.get("reason")))
                sender = message.get("from")
                if sender is not None:
                    self.relayed(client, message, int(sender[1:]))

    def relayed(self, receiver: Client, message: dict[str, Any], sender: int) -> None:
        assert sender != receiver.connection
        room = self.rooms.get(receiver.connection)
        assert room is not None, "delivered to nobody's room"
        assert room == self.rooms.get(sender), "crossed a room or an account"
        link = self.links[sender, receiver.connection, message["pc"]]
        if message["type"] in ("offer", "answer", "pranswer"):
            link.arrived |= set(link.alive[message["negotiation"]].sections)
        for init in message.get("candidates", ()):
            self.items_out += 1
            self.arrived(link, init, message["seq"])

    def arrived(self, link: Link, init: dict[str, Any], seq: int) -> None:
        item = self.origin(link, init)
        item.seq = seq
        latest = link.latest()
        assert latest is not None, "before any description"
        for earlier in link.out:
            if earlier.is_history:
                continue
            if earlier.line and (earlier.mid, link.owner(earlier)) == (item.mid, link.owner(item)):
                assert item.line == "" or earlier.order < item.order, "out of order"
            if not earlier.line and item.line:
                assert not self.covers(link, earlier, item), "after its end-of-candidates"
        for waiting in link.pending:
            is_earlier = waiting.line and waiting.order < item.order
            if not item.line and is_earlier and not link.was_ended(waiting):
                assert not self.covers(link, item, waiting), "end-of-candidates overtook"
        link.out.append(item)
        if link.pc == WILD:
            needed = [latest.number]
        else:
            owner = link.owner(item)
            assert owner in link.ufrags(), "of a generation that is replaced or not described"
            if item.mid is not None:
                section = (item.mid, str(owner))
                assert section in link.arrived, "before its description"
                needed = [link.since(section) or 0]
                assert needed != [0], "of a section that is not described"
            else:
                needed = [link.since(s) or 0 for s in link.sections() if s[1] == owner]
        if link.gated:
            assert max(needed) <= link.may_be_open(self.driver.now), "before the gate opened"

    def origin(self, link: Link, init: dict[str, Any]) -> Item:
        """What was sent of this; it may arrive once only."""
        line, mid, named = init["candidate"], init["sdpMid"], init["usernameFragment"]
        for item in link.pending:
            own = item.ufrag
            matches = own == named or (not line and own is None and named == link.owner(item))
            if (item.line, item.mid) == (line, mid) and (matches or link.pc == WILD):
                link.pending.remove(item)
                return item
        raise AssertionError(f"invented or repeated: {init}")

    def covers(self, link: Link, end: Item, item: Item) -> bool:
        """Whether this end-of-candidates is one for that candidate."""
        if link.pc == WILD and (end.ufrag is None or item.ufrag is None):
            return False
        owner = link.owner(item)
        if owner not in end.ufrags:
            return False
        if end.mid is not None:
            return end.mid == item.mid
        section = (item.mid or "", str(owner))
        # A section that was taken away and came back is a new one.
        is_same = section in end.described and (link.since(section) or 0) <= end.newest
        return item.order < end.order or is_same

    # Peers ----------------------------------------------------------------------------------

    @initialize(
        gated=st.tuples(st.booleans(), st.booleans()),
        arbitrates=st.booleans(),
        receipts=st.tuples(st.booleans(), st.booleans()),
    )
    def two_peers(
        self, gated: tuple[bool, bool], arbitrates: bool, receipts: tuple[bool, bool]
    ) -> None:
        if arbitrates:
            self.arbitrates = True
            self.driver = Driver(glare="arbitrate", **LIMITS)
        for slot in (0, 1):
            self.connect(slot, "AC1", "r", gated[slot], receipts[slot])

    @rule(
        slot=st.integers(0, 3),
        account=st.sampled_from(["AC1"] * 5 + ["AC2"]),
        room=st.sampled_from(["r"] * 5 + ["s", None]),
        gated=st.booleans(),
        receipts=st.booleans(),
    )
    def arrive(
        self, slot: int, account: str, room: str | None, gated: bool, receipts: bool
    ) -> None:
        if self.slots[slot] is None:
            self.connect(slot, account, room, gated, receipts)
        elif room is not None:
            self.depart(slot, f"join {room}")

    def connect(
        self, slot: int, account: str, room: str | None, gated: bool, receipts: bool
    ) -> None:
        connection = len(self.driver.clients) + 1
        self.gated[connection] = gated
        if room is not None:
            self.rooms[connection] = (account, room)
            self.ranks[connection] = len(self.ranks) + self.orders + 1
        if receipts:
            self.followed.add(connection)
        features = ["gated"] * gated + ["receipts"] * receipts
        self.slots[slot] = self.driver.connect(room, account=account, features=features)

    @rule(
        slot=st.sampled_from([0, 1, 2, 2, 3, 3]),
        how=st.sampled_from(["join r", "join s", "leave", "bye", "lost"]),
        luck=st.integers(0, 3),
    )
    def move(self, slot: int, how: str, luck: int) -> None:
        """Rare enough for negotiations to have a life."""
        if luck == 0:
            self.depart(slot, how)

    def depart(self, slot: int, how: str) -> None:
        client = self.slots[slot]
        if client is None:
            return
        verb, _, room = how.partition(" ")
        here = self.rooms.get(client.connection)
        if verb == "join" and here == (client.account, room):
            assert self.request(client, "join", room=room)["type"] == "ok"
            return
        self.rooms.pop(client.connection, None)
        self.links = {k: v for k, v in self.links.items() if client.connection not in k[:2]}
        for key in [key for key in self.numbers if client.connection in key[:2]]:
            del self.numbers[key]
        if verb == "join":
            self.rooms[client.connection] = (client.account, room)
            self.ranks[client.connection] = len(self.ranks) + self.orders + 1
            assert self.request(client, "join", room=room)["type"] == "ok"
        elif verb == "leave":
            assert (self.request(client, "leave")["type"] == "ok") is (here is not None)
        else:
            if verb == "bye":
                self.request(client, "bye")
            self.slots[slot] = None
            client.disconnect()
        self.read()
        for key, letter in list(self.letters.items()):
            if client.connection in (letter.sender, letter.receiver):
                del self.letters[key]
                # The un-numbered answer to bye is the last that the leaver hears.
                is_heard = letter.sender != client.connection or verb in ("join", "leave")
                assert letter.told or not is_heard, letter
                assert not is_heard or letter.stages[-1] != "relayed", letter

    # Negotiations ---------------------------------------------------------------------------

    def sections_for(self, link: Link, fresh: bool, mids: int) -> list[Section]:
        """The next generation, or the one in use where there is one."""
        latest = link.latest()
        if latest is not None and latest.sections and not fresh:
            name = latest.sections[0][1].partition("s")[0]
        else:
            name = link.name(link.generation)
            link.generation += 1
        return [(str(mid), _ufrag(name, str(mid))) for mid in range(mids)]

    def text(self, link: Link, fresh: bool, mids: int) -> tuple[str, list[Section]]:
        if link.pc == WILD:
            return "encrypted", []
        sections = self.sections_for(link, fresh, mids)
        return sdp(*sections), sections

    @rule(**PAIRS, fresh=st.booleans(), mids=st.integers(1, 3), numbered=st.booleans())
    def offer(self, ab: tuple[int, int], pc: str, fresh: bool, mids: int, numbered: bool) -> None:
        found = self.pair(ab)
        if found is None:
            self.to_nobody(ab, "offer", sdp="v=0")
            return
        one, other = found
        mine, theirs = self.link(one, other, pc), self.link(other, one, pc)
        key = (*sorted((one.connection, other.connection)), pc)
        number = self.numbers[key] + 1
        lost = theirs.outgoing if self.arbitrates else None
        if lost is not None and self.ranks[one.connection] > self.ranks[other.connection]:
            self.lose(one, other, mine, fresh, mids, lost)
            return
        mine.void(lost)
        text, sections = self.text(mine, fresh, mids)
        self.numbers[key] = number
        if lost is not None:
            theirs.void(lost)
            theirs.outgoing = None
        mine.describe(Description(number, sections, self.driver.now))
        mine.void(mine.outgoing)
        mine.outgoing = number
        theirs.evidence = max(theirs.evidence, theirs.answered)
        for pranswered in list(theirs.alive):
            if pranswered not in (theirs.settled, theirs.outgoing):
                theirs.void(pranswered)
        wish = {"negotiation": number} if numbered else {}
        before = [m for m in other.inbox if m["type"] == "error"]
        answer = self.request(one, "offer", to=other.peer, pc=pc, sdp=text, **wish)
        assert answer.get("negotiation") == number, answer
        mine.request = self.orders
        errors = [m for m in other.inbox if m["type"] == "error"]
        assert len(errors) - len(before) == (lost is not None)
        if lost is not None:
            found_out = [errors[-1].get(name) for name in ("code", "id", "negotiation")]
            assert found_out == ["glare", theirs.request, lost]
            assert errors[-1]["winner_negotiation"] == number
            kinds = [m["type"] for m in other.inbox]
            assert kinds.index("error") < len(kinds) - 1 - kinds[::-1].index("offer")

    def lose(
        self, one: Client, other: Client, link: Link, fresh: bool, mids: int, winner: int
    ) -> None:
        """The polite one's offer is not relayed; ufrags that only it names are history."""
        text, sections = self.text(link, fresh, mids)
        link.bury({ufrag for _, ufrag in sections} - link.ufrags(), link.owners())
        before = len(other.inbox)
        answer = self.request(one, "offer", to=other.peer, pc=link.pc, sdp=text)
        assert (answer.get("code"), answer.get("winner_negotiation")) == ("glare", winner)
        assert [m["type"] for m in other.inbox[before:]] in (
            [],
            ["receipt"] * (len(other.inbox) - before),
        )

    @rule(
        **PAIRS,
        fresh=st.booleans(),
        mids=st.integers(1, 3),
        final=st.sampled_from([True, True, False]),
        error=st.sampled_from([None, 0, 0, 0, 1, -1]),
    )
    def answer(
        self, ab: tuple[int, int], pc: str, fresh: bool, mids: int, final: bool, error: int | None
    ) -> None:
        found = self.pair(ab)
        if found is None:
            return
        one, other = found
        mine, theirs = self.link(one, other, pc), self.link(other, one, pc)
        number = theirs.outgoing
        wish = {} if error is None or number is None else {"negotiation": max(1, number + error)}
        kind = "answer" if final else "pranswer"
        if number is None or wish.get("negotiation", number) != number:
            answer = self.request(one, kind, to=other.peer, pc=pc, sdp="v=0", **wish)
            assert answer.get("code") in ("wrong_state", "stale_negotiation"), answer
            return
        text, sections = self.text(mine, fresh, mids)
        mine.describe(Description(number, sections, self.driver.now))
        theirs.evidence = max(theirs.evidence, number)
        if final:
            mine.void(mine.outgoing)
            mine.outgoing = theirs.outgoing = None
            mine.answered = number
            mine.settle(number)
            theirs.settle(number)
        answer = self.request(one, kind, to=other.peer, pc=pc, sdp=text, **wish)
        assert answer.get("negotiation") == number, answer

    @rule(**PAIRS, fresh=st.booleans(), mids=st.integers(1, 3))
    def exchange(self, ab: tuple[int, int], pc: str, fresh: bool, mids: int) -> None:
        """A whole negotiation, as most are."""
        if self.pair(ab) is not None:
            self.offer(ab, pc, fresh, mids, False)
            self.the_record_agrees()
            self.answer(ab[::-1], pc, fresh, mids, True, None)

    @rule(**PAIRS, own=st.just(True))
    def withdraw(self, ab: tuple[int, int], pc: str, own: bool) -> None:
        """Offer, gather, think better of it; the former generation stays."""
        if self.pair(ab) is not None:
            self.offer(ab, pc, True, 2, False)
            self.the_record_agrees()
            self.candidates(ab, pc, 0, True, ["0", "1"], False)
            self.the_record_agrees()
            self.rollback(ab, pc, own)

    @rule(**PAIRS, own=st.booleans())
    def rollback(self, ab: tuple[int, int], pc: str, own: bool) -> None:
        found = self.pair(ab)
        if found is None:
            return
        one, other = found
        mine, theirs = self.link(one, other, pc), self.link(other, one, pc)
        number = mine.outgoing if own else theirs.outgoing
        if number is None:
            answer = self.request(one, "rollback", to=other.peer, pc=pc, negotiation=2**30)
            assert answer.get("code") in ("wrong_state", "stale_negotiation"), answer
            return
        for link in (mine, theirs):
            link.void(number)
            if link.outgoing == number:
                link.outgoing = None
        answer = self.request(one, "rollback", to=other.peer, pc=pc, negotiation=number)
        assert answer.get("negotiation") == number, answer

    # Candidates -----------------------------------------------------------------------------

    @rule(
        **PAIRS,
        age=st.sampled_from([0, 0, 0, 1, -1, -2]),
        named=st.sampled_from([True, True, True, False]),
        mids=st.lists(st.sampled_from("0012"), min_size=1, max_size=3),
        proof=st.booleans(),
    )
    def candidates(
        self, ab: tuple[int, int], pc: str, age: int, named: bool, mids: list[str], proof: bool
    ) -> None:
        """Of the generation in use, of the next ones, or of a former one."""
        found = self.pair(ab)
        if found is None:
            self.to_nobody(ab, "candidate", candidate=None)
            return
        link = self.link(*found, pc)
        name = link.name(link.generation - 1 + age)
        items = []
        for mid in mids:
            self.orders += 1
            line = f"candidate:{self.orders} 1 udp 1 127.0.0.1 1 typ host"
            items.append(self.item(link, line, mid, _ufrag(name, mid) if named else None))
        self.say(found, link, items, batch=True, proof=proof)

    @rule(**PAIRS, back=st.sampled_from([1, 1, 1, 2, 3]))
    def repeat(self, ab: tuple[int, int], pc: str, back: int) -> None:
        """What was said already."""
        found = self.pair(ab)
        if found is None:
            return
        link = self.link(*found, pc)
        known = [
            item
            for item in link.pending + link.out
            # An end for all may be said again: it ends what was described since.
            if item.line or item.mid is not None
            # Without ufrag it would belong to another generation now.
            if item.ufrag is not None or (pc != WILD and item.bound == link.newest_owner(item.mid))
            # Its ufrag has come back, and with it another generation.
            if not (item.is_history and (item.ufrag or item.bound) in link.ufrags())
        ]
        if len(known) < back:
            return
        old = known[-back]
        self.items_sent += 1
        init = _init(old)
        answer = self.request(found[0], "candidate", to=found[1].peer, pc=pc, candidate=init)
        letter = self.letters.pop((found[0].connection, self.orders), None)
        if letter is not None:
            receipts = [m for m in found[0].inbox if m.get("ref") == letter.ref]
            outcome = [(m["stage"], m["reason"]) for m in receipts]
            assert outcome == [("dropped", "duplicate")], outcome
        if answer["type"] == "error":
            assert answer["code"] == "stale_generation", answer
            assert old.ufrag in link.retired

    @rule(
        **PAIRS,
        form=st.sampled_from(["null", "{}", "null", "ufrag", "mid", "ufrag mid"]),
        mid=st.sampled_from("012"),
        age=st.sampled_from([0, 0, 1]),
        ahead=st.integers(0, 2),
    )
    def end(self, ab: tuple[int, int], pc: str, form: str, mid: str, age: int, ahead: int) -> None:
        found = self.pair(ab)
        if found is None:
            return
        link = self.link(*found, pc)
        name = link.name(link.generation - 1 + age)
        if ahead:
            self.candidates(ab, pc, age, ahead == 1, [mid, mid], False)
        ufrag = _ufrag(name, mid) if "ufrag" in form else None
        item = self.item(link, "", mid if "mid" in form else None, ufrag)
        self.say(found, link, [item], batch=form == "null", proof=False)

    def item(self, link: Link, line: str, mid: str | None, ufrag: str | None) -> Item:
        self.orders += 1
        ufrags = {ufrag} if ufrag is not None else set[str]()
        item = Item(
            self.orders, line, mid, ufrag, self.driver.now, link.sections(), frozenset(ufrags)
        )
        latest = link.latest()
        item.newest = latest.number if latest is not None else 0
        if ufrag is None:
            owner = link.owner(item)
            named = {owner} if owner else set()
            ended = latest.ufrags if latest is not None and mid is None else named
            item.ufrags = frozenset(ended)
        return item

    def say(
        self,
        found: tuple[Client, Client],
        link: Link,
        items: list[Item],
        *,
        batch: bool,
        proof: bool,
    ) -> None:
        one, other = found
        refusable = [self.refusal(link, item) for item in items]
        back = self.link(other, one, link.pc)
        wish: dict[str, Any] = {}
        if proof and back.outgoing is not None:
            wish = {"negotiation": back.outgoing}
            back.evidence = max(back.evidence, back.outgoing)
        inits = [_init(item) for item in items]
        content = {"candidates": inits} if batch else {"candidate": inits[0]}
        before = Counter(self.driver.board.tally.candidates_dropped)
        self.items_sent += len(items)
        link.bind(items)
        link.pending += items
        link.sent += items
        answer = self.request(one, "candidate", to=other.peer, pc=link.pc, **content, **wish)
        if (letter := self.letters.get((one.connection, self.orders))) is not None:
            letter.items = items
        dropped = Counter(self.driver.board.tally.candidates_dropped) - before
        reasons = set(dropped)
        assert reasons <= {"duplicate"} or answer["type"] == "error", (answer, dropped)
        for reason in reasons:
            assert any(reason in may for may in refusable), (reason, refusable, answer)
        if not dropped:
            return
        arrived = {item.order for item in self.peek(other, link, items)}
        held = self.held_lines(one, other, link.pc)
        for item in items:
            is_waiting = item.order in arrived or _init_key(item) in held
            if len(items) == 1 or not is_waiting:
                link.pending = [other_item for other_item in link.pending if other_item is not item]

    def peek(self, receiver: Client, link: Link, items: list[Item]) -> list[Item]:
        """Which of the items wait in the inbox, unread."""
        lines = {
            init["candidate"] + str(init["sdpMid"])
            for message in receiver.inbox
            if message["type"] == "candidate"
            for init in message["candidates"]
        }
        return [item for item in items if item.line + str(item.mid) in lines]

    def held_lines(self, one: Client, other: Client, pc: str) -> set[tuple[str, str | None]]:
        session = self.driver.board.sessions.by_connection[one.connection]
        held = session.ends[other.peer, pc].buffer._held
        return {(item.candidate.candidate or "", item.candidate.sdpMid) for item in held}

    def refusal(self, link: Link, item: Item) -> set[str]:
        """Every reason for which the item may be refused or dropped now."""
        may: set[str] = set()
        owner = link.owner(item)
        if item.ufrag is not None and item.ufrag in link.retired:
            may.add("stale_generation")
        same = [sent for sent in link.sent if link.owner(sent) == owner]
        nameless = [end for end in link.sent if not end.line and link.owner(end) is None]
        unclear = owner is None and any(end.mid in (None, item.mid) for end in nameless)
        if link.was_ended(item) or unclear:
            may.add("candidate_after_end" if item.line else "duplicate")
        # A message may hold three, and the early without ufrag count for every generation.
        unnamed = [sent for sent in link.sent if sent.ufrag is None]
        if self.too_many_generations(link, item) or len(same) + len(unnamed) + 3 > PER_GENERATION:
            may.add("buffer_full")
        return may

    def too_many_generations(self, link: Link, item: Item) -> bool:
        """Without BUNDLE a generation has a ufrag for each m-section."""
        named = link.ufrags()
        early = [i for i in link.pending if link.pc == WILD or link.owner(i) not in named]
        most = OPEN_GENERATIONS * len({item.mid, *(i.mid for i in early)})
        return len({link.owner(i) for i in early}) >= (WILD_STRANDS if link.pc == WILD else most)

    # Evidence and time ----------------------------------------------------------------------

    @rule(**PAIRS, back=st.integers(-1, 2))
    def applied(self, ab: tuple[int, int], pc: str, back: int) -> None:
        found = self.pair(ab)
        if found is None:
            return
        one, other = found
        key = (*sorted((one.connection, other.connection)), pc)
        number = self.numbers[key] - back
        if number < 1:
            return
        self.link(one, other, pc)
        link = self.link(other, one, pc)
        if back >= 0:
            link.evidence = max(link.evidence, number)
        answer = self.request(one, "applied", to=other.peer, pc=pc, negotiation=number)
        assert (answer["type"] == "ok") is (back >= 0)

    @rule(**PAIRS, state=st.sampled_from(["connected", "failed"]))
    def state(self, ab: tuple[int, int], pc: str, state: str) -> None:
        found = self.pair(ab)
        if found is None:
            return
        one, other = found
        self.link(one, other, pc)
        link = self.link(other, one, pc)
        if state == "connected" and not link.evidence and link.alive:
            link.evidence = min(link.alive)
        assert self.request(one, "state", to=other.peer, pc=pc, state=state)["type"] == "ok"

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0, 46.0]))
    def time(self, seconds: float) -> None:
        self.driver.pass_time(seconds)

    @rule(slot=st.integers(0, 3), back=st.sampled_from([0, 0, 1, 5]))
    def acknowledge(self, slot: int, back: int) -> None:
        client = self.slots[slot]
        if client is not None:
            seq = max(self.acked[client.connection], self.seqs[client.connection] - back)
            self.acked[client.connection] = seq
            assert self.request(client, "ack", seq=seq)["type"] == "ok"

    @rule(luck=st.integers(0, 3))
    def go_on_elsewhere(self, luck: int) -> None:
        """Another process takes over the state."""
        if luck == 0:
            self.driver.move()

    def to_nobody(self, ab: tuple[int, int], kind: str, **fields: Any) -> None:
        one, other = (self.slots[slot] for slot in ab)
        if one is not None and other is not None:
            answer = self.request(one, kind, to=other.peer, **fields)
            assert answer.get("code") in ("not_found", "bad_request", "wrong_state"), answer

    # Invariants -----------------------------------------------------------------------------

    @invariant()
    def one_step_more(self) -> None:
        Relay.steps += 1

    @invariant()
    def the_record_agrees(self) -> None:
        self.driver.pass_time(0)
        for link in self.links.values():
            link.open_gates(self.driver.now)
            link.forget_expired(self.driver.now)
        self.read()
        self.nothing_is_forgotten()
        self.every_letter_is_accounted_for()
        self.every_candidate_is_accounted_for()
        self.levels_are_true_and_bounded()
        self.everything_held_has_a_deadline()

    def nothing_is_forgotten(self) -> None:
        """What could have arrived has; what waits for its description has its time."""
        for link in self.links.values():
            for item in link.pending:
                if link.was_ended(item):
                    continue
                is_free = link.is_free(item, self.driver.now)
                assert is_free is not True, f"stuck: {item} in {link}"

    def every_letter_is_accounted_for(self) -> None:
        for letter in self.letters.values():
            stages = letter.stages
            assert len(set(stages)) == len(stages), letter
            assert stages == sorted(stages, key=STAGES.index), letter
            assert not {"expired", "dropped"} & set(stages[:-1]), letter
            link = self.links.get((letter.sender, letter.receiver, letter.pc))
            assert link is not None
            if letter.kind == "candidate":
                self.check_candidates(letter, link)
                continue
            is_applied = letter.kind in DESCRIPTIONS and letter.number <= link.evidence
            assert stages[0] == "relayed", letter
            assert ("applied" in stages) <= is_applied, letter
            if is_applied and letter.number in link.alive:
                assert "applied" in stages, (letter, link)
            is_received = self.acked[letter.receiver] >= letter.seq
            assert ("received" in stages) <= is_received, letter
            if is_received:
                assert stages[-1] in ("received", "applied"), letter

    def check_candidates(self, letter: Letter, link: Link) -> None:
        session = self.driver.board.sessions.by_connection[letter.sender]
        buffer = session.ends[f"p{letter.receiver}", letter.pc].buffer
        is_held = any(held.ref == letter.ref for held in buffer._held)
        seqs = [item.seq for item in letter.items]
        stages = letter.stages
        if is_held:
            assert stages in ([], ["expired"], ["dropped"]), letter
        elif all(seqs):
            assert stages[0] == "relayed", letter
            is_received = self.acked[letter.receiver] >= max(seqs)
            assert ("received" in stages) is is_received, letter
        elif not any(seqs):
            assert stages in (["expired"], ["dropped"]), letter
        else:
            assert stages, letter

    def every_candidate_is_accounted_for(self) -> None:
        tally = self.driver.board.tally
        dropped = sum(tally.candidates_dropped.values())
        assert tally.candidates_passed + tally.candidates_released == self.items_out
        assert self.items_sent == self.items_out + tally.candidates_held + dropped

    def levels_are_true_and_bounded(self) -> None:
        board = self.driver.board
        buffers = [end.buffer for s in board.sessions.by_id.values() for end in s.ends.values()]
        assert board.tally.candidates_held == sum(buffer.held for buffer in buffers)
        assert board.tally.held_bytes == sum(i.size for b in buffers for i in b._held)
        for buffer in buffers:
            assert len(buffer.gate) <= 3
            assert len(buffer._strands) <= 3 * 3 + WILD_STRANDS
            names = buffer._descriptions.names
            early = [u for u, s in buffer._strands.items() if u not in names and s.held]
            latest = buffer._descriptions.latest
            is_wild = latest is not None and latest.is_wild
            # Of three m-sections, or of all of them.
            assert len(early) <= (WILD_STRANDS if is_wild else OPEN_GENERATIONS * 4)
            for ufrag, strand in buffer._strands.items():
                mine = [item for item in buffer._held if item.ufrag == ufrag]
                assert strand.held == len(mine)
                assert strand.held_bytes == sum(item.size for item in mine)
                assert strand.held <= 2 * PER_GENERATION + 64
        assert len(board._end_agenda) <= len(buffers)
        for (one, other, pc), link in self.links.items():
            ends = board.sessions.by_connection[one].ends
            if (f"p{other}", pc) in ends:
                buffer = ends[f"p{other}", pc].buffer
                named = {item.candidate.ufrag for item in buffer._held}
                assert not named & link.retired, "keeps what is history"
                assert not set(buffer._strands) & link.retired - link.ufrags()

    def everything_held_has_a_deadline(self) -> None:
        for session in self.driver.board.sessions.by_id.values():
            for end in session.ends.values():
                if end.buffer.held and end.buffer.next_deadline() is not None:
                    assert end.buffer.is_scheduled

    def teardown(self) -> None:
        for slot, client in enumerate(self.slots):
            if client is not None:
                self.depart(slot, "lost")
                self.read()
        assert self.driver.is_empty()
        self.driver.pass_time(1000)
        self.every_candidate_is_accounted_for()


def _ufrag(name: str, mid: str) -> str:
    """Every third generation has a ufrag per section, as without BUNDLE."""
    return f"{name}s{mid}" if int(name.partition("g")[2]) % 3 == 2 else name


def _init(item: Item) -> dict[str, Any] | None:
    if not item.line and item.mid is None and item.ufrag is None:
        return None if item.order % 2 else {}
    init: dict[str, Any] = {"candidate": item.line}
    if item.mid is not None:
        init["sdpMid"] = item.mid
    if item.ufrag is not None:
        init["usernameFragment"] = item.ufrag
    return init


def _init_key(item: Item) -> tuple[str, str | None]:
    return item.line, item.mid


class TestRelay(Relay.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        PROFILE,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        print_blob=True,
    )

    @classmethod
    def tearDownClass(cls) -> None:
        assert Relay.steps >= (100_000 if IS_LONG else 100)


def test_the_record_is_json() -> None:
    """`_init` gives what a client would send."""
    item = Item(1, "candidate:1", "0", "u", 0.0, frozenset(), frozenset())
    assert json.loads(json.dumps(_init(item)))["sdpMid"] == "0"
