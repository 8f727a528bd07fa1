"""Several nodes and one journal in virtual time, for the clients of `simulated`.

The pure parts are real (`Replica`, `Link`, entries through their encoding); what the asyncio parts
do with Redis is acted out: batches and parcels take time, come twice or not at all, homes read
late, nodes are killed, freeze and come back, states are saved now and then, Redis fails over to a
replica that lacks the end of the journal, or is out of reach for one node or all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from simulated import BUSY_S, WINDOW_S, SimClient, World, board_for
from simulated import Link as ClientLink

from signal_server.backplane.entries import (
    Batch,
    Claimed,
    Entry,
    Item,
    Kind,
    Lost,
    Parcel,
    Tick,
    decode_entry,
    decode_parcels,
    encode,
    farewell,
)
from signal_server.backplane.facts import Facts
from signal_server.backplane.link import Fate, Link
from signal_server.backplane.replica import Replica
from signal_server.client_session import ClientSession
from signal_server.core import inputs
from signal_server.wire import messages as wire
from signal_server.wire.codec import Refusal, decode

ACCOUNT = "a"
LEASE_S = 2.0
MISSED_S = 3.0
"""A node that gave no sign for that long is lost."""
NODES = 3
PATIENCE_S = 6.0
"""How long the former home has to come back after Redis was lost."""
QUIET_S = 8.0
"""A link that has heard nothing for so long asks whether the home knows it."""
SLACK_S = 2.0
"""Between the last word of a client and the moment at which its loss is noticed."""


@dataclass
class Journal:
    """What is in Redis."""

    entries: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Ids, milliseconds, and encoded entries."""
    last_id: int = 0
    run: int = 0
    """Of the Redis that has it; another after a failover."""
    claimed_in_run: int = 0
    epoch: int = 0
    holder: str = ""
    lease_ends: float = 0.0
    saved: list[tuple[bytes | None, int]] = field(default_factory=lambda: [(None, 0)])
    """States, each with the id of the last entry that is in it."""

    def append(self, now: float, entries: list[Entry]) -> None:
        for entry in entries:
            self.last_id += 1
            self.entries.append((self.last_id, int(now * 1000), encode(entry)))

    def after(self, position: int) -> list[tuple[int, int, bytes]]:
        """What is there to be read: a saved state takes the place of what is in it."""
        position = max(position, self.saved[-1][1])
        return [entry for entry in self.entries[-1000:] if entry[0] > position]

    def lose_end(self, count: int) -> None:
        """Another Redis goes on, which had not got everything; but claims are waited for."""
        for _ in range(count):
            if self.entries and not isinstance(decode_entry(self.entries[-1][2]), Claimed):
                self.entries.pop()
        self.run += 1
        end = self.entries[-1][0] if self.entries else 0
        self.saved = [each for each in self.saved if each[1] <= end]


class Home:
    """One account's replica on a node."""

    def __init__(self, node: Node, epoch: int, island: Replica | None = None) -> None:
        self.node = node
        self.epoch = epoch
        self.holder = f"{node.name} {epoch}" if island is None else ""
        self.is_behind = island is None
        self.is_alone = False
        self._held: list[tuple[str, Parcel]] = []
        self.is_over = False
        if island is not None:
            self.replica = island
            self.go_alone()
            return
        journal = node.cluster.redis
        self.claimed_at = journal.last_id
        """The claim is the last entry."""
        self.replica = Replica(ACCOUNT, board_for(node.cluster.seed), Facts(1000), 64)
        state, self.position = journal.saved[-1]
        if state is not None:
            self.replica.restore(state)
        self._again()

    # Without Redis --------------------------------------------------------------------------

    def go_alone(self) -> None:
        self.is_alone = True
        node, cluster = self.node, self.node.cluster
        now_ms = int(cluster.time.now * 1000)
        outcome = self.replica.go_alone(
            node.name, node.link.number, now_ms, lambda: f"x{next(cluster.marks)}"
        )
        assert outcome.failures == []
        self._held += outcome.parcels
        self._speak()
        self._look_after_alone()

    def _look_after_alone(self) -> None:
        cluster, node = self.node.cluster, self.node
        if not self.is_alone or self.is_over or node.is_dead:
            return
        due = self.replica.next_deadline()
        if due is not None and due <= cluster.time.now and node.thaws_at <= cluster.time.now:
            self.apply_alone(Tick())
        cluster.time.after(0.1, self._look_after_alone)

    def apply_alone(self, entry: Entry) -> None:
        outcome = self.replica.apply(entry, int(self.node.cluster.time.now * 1000))
        assert outcome.failures == []
        self._held += outcome.parcels
        self._speak()

    def rejoin(self) -> bool:
        """Unless there was another home meanwhile, or this is none."""
        journal, now = self.node.cluster.redis, self.node.cluster.time.now
        if not self.holder or journal.epoch != self.epoch:
            return False
        journal.epoch = self.epoch = self.epoch + 1
        claimed = Claimed(self.node.name, self.epoch)
        journal.append(now, [claimed])
        journal.holder = self.holder = f"{self.node.name} {self.epoch}"
        journal.lease_ends = now + LEASE_S
        self.position = self.claimed_at = journal.last_id
        self.is_alone = False
        self.replica.stay_alone(None)
        self.replica.apply(claimed, int(now * 1000))
        self._held += self.replica.cut_others(self.node.name, int(now * 1000)).parcels
        self._speak()
        self.sees_a_failover()
        self._again()
        return True

    # The journal ----------------------------------------------------------------------------

    def _again(self) -> None:
        cluster = self.node.cluster
        cluster.time.after(cluster.dice.uniform(0.001, 0.05), self._read)

    def _read(self) -> None:
        node, cluster = self.node, self.node.cluster
        if node.is_dead or self.is_over or self.is_alone:
            return
        if node.is_out:
            self._again()
            return
        if node.thaws_at > cluster.time.now:
            cluster.time.after(node.thaws_at - cluster.time.now, self._read)
            return
        journal = cluster.redis
        if journal.holder == self.holder:
            journal.lease_ends = cluster.time.now + LEASE_S
        else:
            # Another home may have trimmed the journal behind what is applied here.
            self.is_over, node.home = True, None
            return
        after = journal.after(self.position)
        for self.position, unix_ms, octets in after:
            entry = decode_entry(octets)
            outcome = self.replica.apply(entry, unix_ms)
            assert outcome.failures == []
            if isinstance(entry, Claimed) and entry.is_doubtful:
                self._held.clear()
            if not self.is_behind and self.replica.home != node.name:
                self.is_over, node.home = True, None
                return
            self._held += outcome.parcels
            if self.position >= self.claimed_at:
                self.is_behind = False
                self._speak()
        if not self.is_behind:
            self._look_after()
        self._again()

    def _look_after(self) -> None:
        cluster = self.node.cluster
        journal, now = cluster.redis, cluster.time.now
        due = self.replica.next_deadline()
        if due is not None and due <= now:
            journal.append(now, [Tick()])
        for name in self.replica.nodes():
            if cluster.silent_since.get(name, now) + MISSED_S <= now:
                journal.append(now, [Lost(name)])
        if journal.holder == self.holder and cluster.dice.random() < 0.02:
            self._save()

    def _save(self) -> None:
        self.node.cluster.redis.saved.append((self.replica.capture(), self.position))

    def sees_a_failover(self) -> None:
        """The journal's end is only here now."""
        redis = self.node.cluster.redis
        if redis.holder == self.holder and not self.node.is_dead and not self.is_over:
            self._save()
            redis.claimed_in_run = redis.run

    def hand_over(self) -> None:
        """As a node that is stopped does."""
        journal = self.node.cluster.redis
        if self.is_alone or self.node.is_out:
            return
        if journal.holder == self.holder and not self.is_behind:
            self._save()
            journal.lease_ends = 0.0
            self.is_over, self.node.home = True, None

    def _speak(self) -> None:
        held, self._held = self._held, []
        for name, parcel in held:
            (parcel,) = decode_parcels(encode([parcel]))
            self.node.cluster.look_at(parcel)
            if name == self.node.name:
                self.node.deliver(parcel)
            elif not self.is_alone:
                self.node.cluster.dispatch(self.node, name, parcel)


class Node:
    """A process: the connections of some clients, and perhaps the home."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.is_dead = False
        self.thaws_at = 0.0
        self.home: Home | None = None
        self.connections: dict[int, ClientLink] = {}
        self.link = self._new_link()
        self.is_alone = self.is_cut_off = False
        self._claims_from = 0.0
        self._is_writing = False
        self._heard_at = 0.0
        self._watch()

    @property
    def is_out(self) -> bool:
        """Redis does not answer, or not here."""
        return self.cluster.is_out or self.is_cut_off

    def _new_link(self) -> Link:
        return Link(self.cluster.dice.getrandbits(31), ACCOUNT, self.name)

    def when_awake(self, do: Callable[[], None]) -> None:
        """Now, or when the node has thawed; never on a dead one."""
        time = self.cluster.time
        if self.is_dead:
            return
        if self.thaws_at > time.now:
            time.after(self.thaws_at - time.now, lambda: self.when_awake(do))
        else:
            do()

    # From clients ---------------------------------------------------------------------------

    def hears(self, link: ClientLink, text: str) -> None:
        message = decode(text, 64)
        assert not isinstance(message, Refusal)
        if isinstance(message, wire.Hello):
            self.connections[link.number] = link
            self.link.submit(self.cluster.greeting(link, message))
        elif link.number in self.connections:
            self.link.say(link.number, text)
        self._write_soon()

    def loses(self, link: ClientLink) -> None:
        if self.connections.pop(link.number, None) is not None:
            self.link.submit(inputs.Closed(link.number, "connection_lost"))
            self._write_soon()

    # To clients -----------------------------------------------------------------------------

    def deliver(self, parcel: Parcel) -> None:
        if self.is_dead:
            return
        if parcel.link != self.link.number:
            if parcel.number:
                # The journal has lost that it was cut.
                self._bid_farewell(parcel.link)
            return
        self._heard_at = self.cluster.time.now
        heard = self.link.hear(parcel)
        if isinstance(heard, Fate):
            self.cut()
            return
        for item in heard:
            self._speak(item)
        self._write_soon()

    def _speak(self, item: Item) -> None:
        link = self.connections.get(item[1])
        if link is None:
            return
        if item[0] == Kind.SEND:
            link.to_client(item[3])
        elif item[0] == Kind.CLOSE:
            link.cut()

    def cut(self) -> None:
        """Its clients must resume, on a new link."""
        self.cluster.cuts += 1
        gone, self.connections = self.connections, {}
        old, self.link = self.link, self._new_link()
        self._bid_farewell(old.number)
        for link in gone.values():
            link.cut()

    def _bid_farewell(self, link: int) -> None:
        if self.is_out:
            again = partial(self._bid_farewell, link)
            self.cluster.time.after(0.3, lambda: self.when_awake(again))
            return
        self.cluster.redis.append(self.cluster.time.now, [farewell(link, self.name)])

    # Without Redis --------------------------------------------------------------------------

    def go_alone(self) -> None:
        """As `Post.go_alone`."""
        if not self.is_out or self.is_alone:
            return
        self.is_alone = True
        home = self.home
        if home is None or home.is_behind:
            if home is not None:
                home.is_over = True
            home = self._start_alone(self._stood_by())
        else:
            home.go_alone()
        for connection in self.link.take_back_hellos():
            gone = self.connections.pop(connection, None)
            if gone is not None:
                gone.cut()
        for batch in self.link.pending:
            home.apply_alone(batch)

    def _start_alone(self, replica: Replica) -> Home:
        known = replica.links.get(self.link.number)
        last = 0 if known is None else known.parcels
        if self.link.heard > last:
            replica.doubt()
        if self.link.heard != last:
            self.cut()
        else:
            self.cluster.stays += 1
        replica.home = self.name
        self.home = Home(self, 0, replica)
        return self.home

    def _stood_by(self) -> Replica:
        """What a standby has read: not always everything, and sometimes nothing."""
        cluster = self.cluster
        replica = Replica(ACCOUNT, board_for(cluster.seed), Facts(1000), 64)
        if cluster.dice.random() < 0.1:
            return replica
        state, position = cluster.redis.saved[-1]
        if state is not None:
            replica.restore(state)
        end = cluster.redis.last_id - cluster.dice.randint(0, 6)
        for entry_id, unix_ms, octets in cluster.redis.after(position):
            if entry_id <= end:
                replica.apply(decode_entry(octets), unix_ms)
        return replica

    def rejoin(self) -> None:
        """As `Post.rejoin`."""
        if not self.is_alone or self.is_out:
            return
        self.is_alone = False
        self._claims_from = self.cluster.time.now + PATIENCE_S
        if self.home is not None and not self.home.rejoin():
            self.home.is_over, self.home = True, None
            self.cut()

    # The courier ----------------------------------------------------------------------------

    def _write_soon(self) -> None:
        if not self._is_writing and self.link.has_news:
            self._is_writing = True
            self.cluster.time.after(
                self.cluster.dice.uniform(0.0, 0.01), lambda: self.when_awake(self._take)
            )

    def _take(self) -> None:
        seen, self.link.seen = self.link.seen, None
        batch = self.link.take(f"f{next(self.cluster.marks)}")
        self._write(self.link, [each for each in (seen, batch) if each is not None])

    def _write(self, link: Link, entries: list[Entry]) -> None:
        dice, time = self.cluster.dice, self.cluster.time
        if link is not self.link or (self.is_alone and self.home is not None):
            self._is_writing = False
            for entry in entries if link is self.link else []:
                if isinstance(entry, Batch) and self.home is not None:
                    self.home.apply_alone(entry)
            self._write_soon()
            return
        if self.is_out:
            time.after(0.1, lambda: self.when_awake(lambda: self._write(link, entries)))
            return
        journal = self.cluster.redis

        def land() -> None:
            # A request that is under way arrives even though its sender is dead.
            journal.append(time.now, entries)

        def landed() -> None:
            self._is_writing = False
            if not self.is_dead:
                self._write_soon()

        time.after(dice.uniform(0.001, 0.02), land)
        if dice.random() < 0.05:
            # Its answer was lost, so it is written again.
            time.after(dice.uniform(0.02, 0.1), land)
            time.after(0.1, landed)
        else:
            time.after(0.02, landed)

    # The home -------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.is_dead:
            return
        time, journal = self.cluster.time, self.cluster.redis
        is_wanted = bool(self.connections) or self.link.is_waiting or self.link.has_news
        is_awake = self.thaws_at <= time.now
        has_redis = not self.is_out and not self.is_alone
        may_claim = is_awake and has_redis and self._claims_from <= time.now
        if may_claim and self.home is None and is_wanted and journal.lease_ends <= time.now:
            journal.epoch += 1
            is_doubtful = journal.claimed_in_run != journal.run
            journal.append(time.now, [Claimed(self.name, journal.epoch, is_doubtful)])
            journal.claimed_in_run = journal.run
            journal.lease_ends = time.now + LEASE_S
            self.home = Home(self, journal.epoch)
            journal.holder = self.home.holder
            if is_doubtful and self.cluster.dice.random() < 0.3:
                # So that the next one, which does not doubt, has to.
                time.after(
                    self.cluster.dice.uniform(0, 0.1), lambda: self.cluster.forget_again(self)
                )
            self.cluster.claims += 1
        if is_awake and self.connections and time.now - self._heard_at > QUIET_S:
            self._heard_at = time.now
            self.link.ask()
            self._write_soon()
        time.after(self.cluster.dice.uniform(0.1, 0.25), self._watch)


class Cluster(World):
    """Clients come to any node; faults are drawn from the seed."""

    loses_both = False
    """Also the end of the journal and the home together: what is lost must be declared."""

    has_outages = False
    """Of Redis, for all nodes or one."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.is_out = False
        self.redis = Journal()
        self.silent_since: dict[str, float] = {}
        """Nodes that are dead or frozen."""
        self.forgot_at = -2 * WINDOW_S
        """When a journal's end was lost together with the home."""
        self._failed_over_at = 0.0
        self.cuts = self.claims = self.faults = self.forgets = self.outages = self.stays = 0
        self._names = itertools.count(1)
        self._at: dict[int, Node] = {}
        self._resuming: dict[int, str] = {}
        """Sessions by the connection that asked for them."""
        self._spoke_at: dict[str, float] = {}
        """By session."""
        self._arrives_at: dict[str, float] = {}
        self.nodes = [self._new_node() for _ in range(NODES)]

    @property
    def home(self) -> Home | None:
        """The one that holds the lease."""
        homes = [node.home for node in self.nodes if node.home is not None]
        return next((home for home in homes if home.holder == self.redis.holder), None)

    def deadlines(self) -> None:
        """The home's business; faults instead."""
        self.time.after(3, self.break_something)

    def move(self) -> None:
        """Homes do it."""
        if self.loses_both:
            self.time.after(BUSY_S + self.dice.uniform(-1, 2), self._fail_over_at_last)

    def _fail_over_at_last(self) -> None:
        self._fail_over(self.nodes[0])

    # Nodes ----------------------------------------------------------------------------------

    def _new_node(self) -> Node:
        return Node(self, f"n{next(self._names)}")

    def dispatch(self, sender: Node, name: str, parcel: Parcel) -> None:
        """In order, late, and some of it twice."""
        node = next((each for each in self.nodes if each.name == name), None)
        if node is None:
            return
        at = max(self._arrives_at.get(name, 0.0), self.time.now + self.dice.uniform(0.001, 0.03))
        self._arrives_at[name] = at
        sent_at, is_safe = self.time.now, not self.loses_both or self.dice.random() < 0.5

        def arrive() -> None:
            if node.is_out or (sender.is_out and not sender.is_dead):
                self.time.after(0.2, arrive)
            elif is_safe or self._failed_over_at < sent_at:
                node.when_awake(lambda: node.deliver(parcel))

        self.time.at(at, arrive)
        if self.dice.random() < 0.02:
            again = at - self.time.now + self.dice.uniform(0, 1)
            self.time.after(again, lambda: node.when_awake(lambda: node.deliver(parcel)))

    def break_something(self) -> None:
        if not self.is_busy:
            return
        self.faults += 1
        node = self.dice.choice(self.nodes)
        faults = [self._kill, self._freeze, self._lose_parcels, self._stop, self._fail_over]
        if self.has_outages:
            faults += [self._lose_redis, self._cut_off]
        self.dice.choice(faults)(node)
        self.time.after(self.dice.expovariate(1 / 5), self.break_something)

    def _kill(self, node: Node) -> None:
        if node.is_dead:
            return
        node.is_dead = True
        self.silent_since[node.name] = self.time.now
        self.nodes.remove(node)
        node.connections = {}
        for number in [number for number, at in self._at.items() if at is node]:
            self._links[number].cut()
        self.nodes.append(self._new_node())
        if self.is_out:
            self._goes_alone_soon(self.nodes[-1])

    def forget_again(self, node: Node) -> None:
        self.forgot_at = self.time.now
        self._kill(node)

    def _freeze(self, node: Node) -> None:
        if node.thaws_at > self.time.now:
            return
        seconds = self.dice.uniform(0.5, 8)
        node.thaws_at = self.time.now + seconds
        self.silent_since[node.name] = self.time.now

        def thaw() -> None:
            if not node.is_dead:
                self.silent_since.pop(node.name, None)

        self.time.after(seconds, thaw)

    def _fail_over(self, node: Node) -> None:
        """The journal loses its end, and perhaps the home, which still knew it."""
        home = self.home
        if self.is_out or home is None or home.is_alone:
            return
        if not home.is_behind and home.node.thaws_at <= self.time.now:
            self.redis.lose_end(self.dice.randint(1, 8))
            self._failed_over_at = self.time.now
            if not self.loses_both:
                home.sees_a_failover()
                return
            self.time.after(self.dice.uniform(0, 0.4), home.sees_a_failover)
            if self.dice.random() < 0.6:
                self.forgets += 1
                self.forgot_at = self.time.now
                self.time.after(self.dice.choice((0, 0.01, 0.2)), lambda: self._kill(home.node))

    def _lose_redis(self, node: Node) -> None:
        """For long enough to go on without it, or not."""
        if self.is_out:
            return
        self.is_out, self.forgot_at = True, self.time.now
        self.outages += 1
        for each in self.nodes:
            self._goes_alone_soon(each)
        self.time.after(self.dice.uniform(1, 15), self._redis_is_back)

    def _cut_off(self, node: Node) -> None:
        """From Redis; clients still come."""
        if self.home is not None and self.dice.random() < 0.5:
            node = self.home.node
        if node.is_out or node.thaws_at > self.time.now:
            return
        node.is_cut_off, self.forgot_at = True, self.time.now
        self.outages += 1
        self.silent_since[node.name] = self.time.now
        self._goes_alone_soon(node)

        def heal() -> None:
            node.is_cut_off, self.forgot_at = False, self.time.now
            if not node.is_dead:
                self.silent_since.pop(node.name, None)
            self._rejoins_soon(node)

        self.time.after(self.dice.uniform(1, 15), heal)

    def _goes_alone_soon(self, node: Node) -> None:
        self.time.after(self.dice.uniform(2.5, 4), lambda: node.when_awake(node.go_alone))

    def _redis_is_back(self) -> None:
        self.is_out, self.forgot_at = False, self.time.now
        for each in self.nodes:
            self._rejoins_soon(each)

    def _rejoins_soon(self, node: Node) -> None:
        self.time.after(self.dice.uniform(0, 1), lambda: node.when_awake(node.rejoin))

    def _lose_parcels(self, node: Node) -> None:
        """There were too many for it."""
        if node.home is None:
            node.link.hear(Parcel(ACCOUNT, node.link.number, 0, 0, 0, 0, []))
            node.cut()

    def _stop(self, node: Node) -> None:
        """Gracefully."""
        if node.home is not None and node.thaws_at <= self.time.now:
            node.home.hand_over()

    # Clients' connections -------------------------------------------------------------------

    def link(self, client: SimClient) -> ClientLink:
        link = super().link(client)
        self._at[link.number] = self.dice.choice(self.nodes)
        return link

    def server_hears(self, link: ClientLink, text: str) -> None:
        node, session = self._at.get(link.number), link.client.session
        if node is None:
            return
        if link.client.is_up and session is not None and node.thaws_at <= self.time.now:
            self._spoke_at[session.id] = self.time.now
        node.when_awake(lambda: node.hears(link, text))

    def server_notices(self, link: ClientLink) -> None:
        self._links.pop(link.number, None)
        node = self._at.pop(link.number, None)
        if node is not None:
            node.when_awake(lambda: node.loses(link))

    def greeting(self, link: ClientLink, hello: wire.Hello) -> inputs.Input:
        fresh = f"{self.seed}-{next(self.marks)}"
        permit = inputs.Permit(account=ACCOUNT, identity=link.client.name, may_turn=False)
        admission = inputs.Admission(permit=permit, token_life_s=1e6, resume_secret=f"x{fresh}")
        if hello.resume is not None:
            self._resuming[link.number] = hello.resume.session
            return inputs.Resumed(connection=link.number, admission=admission, resume=hello.resume)
        self.unheard.add(f"p{fresh}")
        self._spoke_at[f"s{fresh}"] = self.time.now
        return inputs.Opened(
            connection=link.number,
            admission=admission,
            session=f"s{fresh}",
            peer=f"p{fresh}",
            hello=hello,
        )

    def lost_session(self, session: ClientSession, code: str) -> None:
        """Only after a silence: the window has ended, or the log was too short for it."""
        self.history.gap(session.peer)
        if self.time.now - self.forgot_at < 2 * WINDOW_S:
            return
        silence_s = self.time.now - self._spoke_at[session.id]
        is_gap = session.id in self._with_gap
        assert is_gap or code == "resume_expired"
        assert silence_s > (0.5 if is_gap else WINDOW_S - SLACK_S), (code, silence_s)

    def look_at(self, parcel: Parcel) -> None:
        """Who is told of a gap may not hear it, and is told `resume_expired` when it asks again."""
        for item in parcel.items:
            if item[0] == Kind.SEND and b'"resume_gap"' in item[3]:
                self._with_gap.add(self._resuming[item[1]])
