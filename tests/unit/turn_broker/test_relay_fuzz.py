"""The relay's state machine under hostile bytes and random histories, against a plain oracle.

The oracle is what RFC 8656 promises a peer: nobody hears from a relay unless its client asked, with
a valid credential and not too long ago, to be allowed to talk to that address.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from relay_world import World, flow
from turn_messages import Caller, channel_data, code_of

from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.authentication import Flow
from turn_broker.relay.effects import CloseRelay, ToClient
from turn_broker.relay.stun import Endpoint, Kind, parse

FLOWS = [flow(50_000 + n, transport) for n in range(2) for transport in ("udp", "tcp")]
PEERS: list[Endpoint] = [
    ("127.0.0.1", 5000),
    ("127.0.0.1", 5001),
    ("127.0.0.2", 5000),
    ("127.0.0.1", 53),
    ("10.0.0.1", 5000),
]
CHANNELS = [0x4000, 0x4001, 0x7FFF]
LIMITS = RelayLimits(
    max_allocations=3,
    allocations_per_identity=2,
    permissions_per_allocation=2,
    channels_per_allocation=2,
    unauthenticated_per_second=1_000,
)


def _reachable(peer: Endpoint) -> bool:
    return peer[0].startswith("127.") and peer[1] >= 1024


class RelayHistory(RuleBasedStateMachine):
    """Clients allocate, talk and vanish while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(LIMITS)
        self.callers: dict[Flow, Caller] = {}
        self.ends: dict[Flow, float] = {}
        self.permitted: dict[tuple[Flow, str], float] = {}

    @rule(
        source=st.sampled_from(FLOWS),
        who=st.sampled_from(["alice", "bob"]),
        secret=st.sampled_from(["one", "two", "wrong"]),
        ttl=st.sampled_from([-5, 5, 400, 86_400]),
    )
    def allocate(self, source: Flow, who: str, secret: str, ttl: int) -> None:
        caller = self.world.caller(ttl, who, secret)
        self.world.challenge(caller, source)
        if code_of(self.world.answer(caller.allocate(), source)) == 0:
            assert secret != "wrong"
            assert ttl > 0
            assert not self._alive(source)
            self.callers[source] = caller
            self.ends[source] = self.world.now.monotonic + min(600, ttl + 1)
            self._forget_permissions(source)

    @rule(source=st.sampled_from(FLOWS), lifetime=st.sampled_from([0, 1, 600, 3600]))
    def refresh(self, source: Flow, lifetime: int) -> None:
        caller = self._renonced(source)
        if caller and code_of(self.world.answer(caller.refresh(lifetime), source)) == 0:
            assert self._alive(source)
            expiry = int(caller.credential.username.split(":")[0]) + 1
            left = expiry - self.world.now.unix
            assert left > 0
            granted = min(max(lifetime, 600), left) if lifetime else 0
            self.ends[source] = self.world.now.monotonic + granted

    @rule(source=st.sampled_from(FLOWS), peer=st.sampled_from(PEERS))
    def permit(self, source: Flow, peer: Endpoint) -> None:
        caller = self._renonced(source)
        if caller and code_of(self.world.answer(caller.permit(peer), source)) == 0:
            assert self._alive(source)
            assert peer[0].startswith("127.")
            self._allow(source, peer[0], 300)

    @rule(source=st.sampled_from(FLOWS), peer=st.sampled_from(PEERS), ch=st.sampled_from(CHANNELS))
    def bind(self, source: Flow, peer: Endpoint, ch: int) -> None:
        caller = self._renonced(source)
        if caller and code_of(self.world.answer(caller.bind(ch, peer), source)) == 0:
            assert self._alive(source)
            assert _reachable(peer)
            self._allow(source, peer[0], 600)

    @rule(source=st.sampled_from(FLOWS), peer=st.sampled_from(PEERS))
    def send(self, source: Flow, peer: Endpoint) -> None:
        caller = self.callers.get(source)
        if caller:
            sent = self.world.to_peer(caller.send(peer, b"data"), source)
            assert (sent is not None) == (self._allowed(source, peer[0]) and _reachable(peer))

    @rule(source=st.sampled_from(FLOWS), ch=st.sampled_from(CHANNELS))
    def channel(self, source: Flow, ch: int) -> None:
        sent = self.world.to_peer(channel_data(ch, b"data"), source)
        if sent:
            assert self._allowed(source, sent.peer[0])
            assert _reachable(sent.peer)

    @rule(peer=st.sampled_from(PEERS))
    def peer_talks(self, peer: Endpoint) -> None:
        for number in list(self.world.relays):
            for effect in self.world.turn.peer_received(number, peer, b"x", self.world.now):
                assert isinstance(effect, ToClient)
                assert self._allowed(effect.flow, peer[0])

    @rule(seconds=st.sampled_from([0.5, 30, 290, 310, 599, 700]), tick=st.booleans())
    def time_passes(self, seconds: float, tick: bool) -> None:
        self.world.wait(seconds)
        if tick:
            self.world.settle(self.world.turn.expire(self.world.now))

    @rule(source=st.sampled_from(FLOWS))
    def vanish(self, source: Flow) -> None:
        self.world.settle(self.world.turn.flow_closed(source))
        self.ends.pop(source, None)

    @rule(number=st.integers(1, 20))
    def cut(self, number: int) -> None:
        for effect in self.world.settle(self.world.turn.cut(number)):
            assert isinstance(effect, CloseRelay)
            self.ends.pop(effect.flow, None)

    @rule(on=st.booleans())
    def drain(self, on: bool) -> None:
        self.world.turn.is_draining = on

    @rule(source=st.sampled_from(FLOWS), raw=st.binary(max_size=120))
    def garbage(self, source: Flow, raw: bytes) -> None:
        for effect in self.world.turn.received(source, raw, self.world.now):
            assert not isinstance(effect, ToClient) or len(effect.payload) <= 120

    @invariant()
    def bounds_hold(self) -> None:
        turn = self.world.turn
        assert len(turn) == len(self.world.relays) == len(turn._by_flow) <= LIMITS.max_allocations
        held = Counter(allocation.owner.identity for allocation in turn.sessions())
        opening = Counter(allocation.owner.identity for allocation in turn._by_number.values())
        assert held <= opening == turn._live
        assert all(count <= LIMITS.allocations_per_identity for count in opening.values())
        for allocation in turn._by_number.values():
            assert len(allocation.permissions) <= LIMITS.permissions_per_allocation
            assert len(allocation.channels) <= LIMITS.channels_per_allocation
            assert len(allocation.channel_of) == len(allocation.channels)

    def _renonced(self, source: Flow) -> Caller | None:
        caller = self.callers.get(source)
        if caller:
            self.world.challenge(caller, source)
        return caller

    def _alive(self, source: Flow) -> bool:
        return self.world.now.monotonic < self.ends.get(source, 0)

    def _allow(self, source: Flow, host: str, seconds: float) -> None:
        until = self.world.now.monotonic + seconds
        self.permitted[source, host] = max(until, self.permitted.get((source, host), 0))

    def _allowed(self, source: Flow, host: str) -> bool:
        until = self.permitted.get((source, host), 0)
        return self._alive(source) and self.world.now.monotonic < until

    def _forget_permissions(self, source: Flow) -> None:
        for key in [key for key in self.permitted if key[0] == source]:
            del self.permitted[key]


TestRelayHistory = RelayHistory.TestCase
TestRelayHistory.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def _mutate(raw: bytes, edits: list[tuple[int, int]], keep: int) -> bytes:
    changed = bytearray(raw)
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed[: len(changed) - keep])


@settings(deadline=None)
@given(
    which=st.integers(0, 5),
    edits=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=6),
    cut=st.sampled_from([0, 0, 0, 1, 4, 20]),
)
def test_damaged_requests_never_do_what_they_said(
    which: int, edits: list[tuple[int, int]], cut: int
) -> None:
    world = World(RelayLimits(unauthenticated_per_second=10_000))
    caller, source = world.allocated(), flow()
    valid = [
        caller.allocate(),
        caller.refresh(0),
        caller.permit(PEERS[0]),
        caller.bind(0x4000, PEERS[0]),
        caller.send(PEERS[0], b"x"),
        channel_data(0x4000, b"x"),
    ][which]
    raw = _mutate(valid, edits, cut)
    effects = world.receive(raw, source)
    if raw == valid:
        return
    for effect in effects:
        assert isinstance(effect, ToClient)
        answer = parse(effect.payload)
        assert answer is not None
        assert answer.kind is Kind.ERROR or answer.method == 1
    assert world.turn.holds(source)
