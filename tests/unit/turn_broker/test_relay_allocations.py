"""The relay's state machine, request by request."""

from __future__ import annotations

import pytest
from relay_world import LISTENING_PORT, OLD_SECRET, PEER, START, World, flow
from turn_messages import EVEN_PORT, EVEN_PORT_AND_NEXT, Caller, channel_data, code_of, parsed

from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.authentication import Flow
from turn_broker.relay.effects import CloseRelay, OpenRelay, ToClient, ToPeer
from turn_broker.relay.peer_policy import PeerPolicy, networks
from turn_broker.relay.stun import (
    Attribute,
    Kind,
    Method,
    build,
    has_integrity,
    read_xor_address,
    xor_address,
)

FLOW = flow()
IPV4_FAMILY = (Attribute.REQUESTED_ADDRESS_FAMILY, b"\1\0\0\0")
IPV6_FAMILY = (Attribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
TOKEN = (Attribute.RESERVATION_TOKEN, bytes(8))


@pytest.fixture
def world() -> World:
    return World()


def _lifetime(raw: bytes) -> int:
    value = parsed(raw).first(Attribute.LIFETIME)
    assert value is not None
    return int.from_bytes(value)


def _challenged(world: World, ttl: int = 86_400) -> Caller:
    caller = world.caller(ttl)
    world.challenge(caller, FLOW)
    return caller


# Authentication


def test_challenge_names_realm_and_nonce(world: World) -> None:
    answer = parsed(world.answer(world.caller().allocate(), FLOW))
    assert code_of(answer.raw) == 401
    assert answer.first(Attribute.REALM) == b"parley.test"
    assert answer.first(Attribute.NONCE)


def test_allocate_succeeds_signed_and_says_where(world: World) -> None:
    caller = _challenged(world)
    answer = parsed(world.answer(caller.allocate(), FLOW))
    assert has_integrity(answer, caller.key)
    relayed = answer.first(Attribute.XOR_RELAYED_ADDRESS)
    mapped = answer.first(Attribute.XOR_MAPPED_ADDRESS)
    assert relayed is not None
    assert mapped is not None
    assert read_xor_address(relayed, answer.transaction_id) == world.relays[1]
    assert read_xor_address(mapped, answer.transaction_id) == (FLOW.host, FLOW.port)
    assert _lifetime(answer.raw) == 600


def test_two_secrets_are_good_a_third_is_not(world: World) -> None:
    for port, secret, code in ((1, "one", 0), (2, OLD_SECRET, 0), (3, "three", 401)):
        caller = world.caller(secret=secret)
        world.challenge(caller, flow(port))
        assert code_of(world.answer(caller.allocate(), flow(port))) == code


def test_a_secret_taken_away_ends_its_allocations_at_refresh(world: World) -> None:
    caller = world.allocated(world.caller(secret=OLD_SECRET))
    world.turn.replace_secrets(("one",))
    assert code_of(world.answer(caller.refresh(), FLOW)) == 401


def test_a_new_secret_signs_on(world: World) -> None:
    old = world.allocated(world.caller(secret=OLD_SECRET))
    new = Caller(world.credential(secret="one"), old.realm, old.nonce)
    answer = parsed(world.answer(new.refresh(), FLOW))
    assert answer.kind is Kind.SUCCESS
    assert has_integrity(answer, new.key)


@pytest.mark.parametrize(("ttl", "code"), [(1, 0), (0, 0), (-1, 401)])
def test_the_last_second_of_a_credential_counts(world: World, ttl: int, code: int) -> None:
    assert code_of(world.answer(_challenged(world, ttl).allocate(), FLOW)) == code


@pytest.mark.parametrize("missing", [Attribute.USERNAME, Attribute.REALM, Attribute.NONCE])
def test_a_signed_request_without_its_names_is_bad(world: World, missing: int) -> None:
    caller = _challenged(world)
    request = parsed(caller.allocate())
    kept = [pair for pair in request.attributes if pair[0] not in (missing, 8)]
    raw = build(Method.ALLOCATE, Kind.REQUEST, caller.next_id(), kept, key=caller.key)
    assert code_of(world.answer(raw, FLOW)) == 400


@pytest.mark.parametrize("username", [b"alice", b"\xff\xfe", b"99999999999:a", b"1:a b", b""])
def test_usernames_that_are_not_ours(world: World, username: bytes) -> None:
    caller = _challenged(world)
    attributes = (
        (Attribute.USERNAME, username),
        (Attribute.REALM, b"parley.test"),
        (Attribute.NONCE, caller.nonce),
    )
    raw = build(Method.ALLOCATE, Kind.REQUEST, caller.next_id(), attributes, key=b"x")
    assert code_of(world.answer(raw, FLOW)) == 401


def test_a_tampered_request_is_refused(world: World) -> None:
    raw = bytearray(_challenged(world).allocate())
    raw[24] ^= 1
    assert code_of(world.answer(bytes(raw), FLOW)) == 401


def test_nonce_goes_stale_and_the_new_one_works(world: World) -> None:
    caller = world.allocated()
    world.wait(599)
    assert code_of(world.answer(caller.refresh(), FLOW)) == 0
    world.wait(2)
    answer = parsed(world.answer(caller.refresh(), FLOW))
    assert code_of(answer.raw) == 438
    caller.nonce = answer.first(Attribute.NONCE) or b""
    assert code_of(world.answer(caller.refresh(), FLOW)) == 0


@pytest.mark.parametrize("other", [flow(50_001), flow(transport="tcp")])
def test_a_nonce_is_good_for_one_client_address(world: World, other: Flow) -> None:
    caller = _challenged(world)
    assert code_of(world.answer(caller.allocate(), other)) == 438


@pytest.mark.parametrize("nonce", [b"x", b"", b"\xff" * 28, b"zz" * 14, b"0" * 28, b"0" * 700])
def test_made_up_nonces_are_stale(world: World, nonce: bytes) -> None:
    caller = _challenged(world)
    raw = build(
        Method.ALLOCATE,
        Kind.REQUEST,
        caller.next_id(),
        (
            (Attribute.USERNAME, caller.credential.username.encode()),
            (Attribute.REALM, b"parley.test"),
            (Attribute.NONCE, nonce),
        ),
        key=caller.key,
    )
    assert code_of(world.answer(raw, FLOW)) == 438


def test_unknown_required_attributes_are_listed_to_the_known(world: World) -> None:
    caller = _challenged(world)
    strange = (0x7001, b"?")
    answer = parsed(world.answer(caller.allocate(strange, (0x8001, b"")), FLOW))
    assert code_of(answer.raw) == 420
    assert answer.first(Attribute.UNKNOWN_ATTRIBUTES) == b"\x70\x01"
    caller.nonce = b""
    assert code_of(world.answer(caller.allocate(strange), FLOW)) == 401


def test_dont_fragment_is_not_served(world: World) -> None:
    caller = _challenged(world)
    answer = parsed(world.answer(caller.allocate((Attribute.DONT_FRAGMENT, b"")), FLOW))
    assert code_of(answer.raw) == 420
    assert answer.first(Attribute.UNKNOWN_ATTRIBUTES) == b"\x00\x1a"


# Binding and strangers


def test_binding_needs_nothing_and_mirrors_the_fingerprint(world: World) -> None:
    for fingerprint in (False, True):
        raw = build(Method.BINDING, Kind.REQUEST, b"t" * 12, fingerprint=fingerprint)
        answer = parsed(world.answer(raw, FLOW))
        value = answer.first(Attribute.XOR_MAPPED_ADDRESS)
        assert value is not None
        assert read_xor_address(value, answer.transaction_id) == (FLOW.host, FLOW.port)
        assert answer.fingerprinted == fingerprint
        assert len(answer.raw) <= 40


def test_binding_with_a_required_attribute(world: World) -> None:
    raw = build(Method.BINDING, Kind.REQUEST, b"t" * 12, ((0x0003, bytes(4)),))
    assert code_of(world.answer(raw, FLOW)) == 420


def test_answers_to_strangers_stay_small(world: World) -> None:
    many = tuple((0x7000 + n, b"") for n in range(100))
    raw = build(Method.BINDING, Kind.REQUEST, b"t" * 12, many)
    assert len(world.answer(raw, FLOW)) < len(raw)
    bare = build(Method.ALLOCATE, Kind.REQUEST, b"t" * 12)
    assert len(world.answer(bare, FLOW)) <= 100


def test_strangers_are_rate_limited_by_address_and_over_udp_only() -> None:
    world = World(RelayLimits(unauthenticated_per_second=5))
    raw = build(Method.ALLOCATE, Kind.REQUEST, b"t" * 12)
    answers = [world.receive(raw, flow(port)) for port in range(100)]
    assert sum(map(bool, answers)) == 10
    assert world.turn.counters.rate_limited == 90
    assert world.receive(build(Method.BINDING, Kind.REQUEST, b"t" * 12), FLOW) == ()
    assert world.receive(raw, flow(1, "tcp"))
    world.wait(1)
    assert world.receive(raw, FLOW)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80" * 20,
        b"\xc0" * 200,
        bytes(20),
        build(Method.BINDING, Kind.SUCCESS, b"t" * 12),
        build(Method.DATA, Kind.INDICATION, b"t" * 12),
        build(0x0FF, Kind.REQUEST, b"t" * 12),
        build(Method.SEND, Kind.REQUEST, b"t" * 12),
        build(Method.SEND, Kind.INDICATION, b"t" * 12),
        channel_data(0x4000, b"hello"),
        b"\x40",
    ],
)
def test_what_gets_no_answer(world: World, raw: bytes) -> None:
    assert world.receive(raw, FLOW) == ()


# Allocate


def test_a_retransmitted_allocate_is_answered_the_same(world: World) -> None:
    caller = _challenged(world)
    raw = caller.allocate()
    first = world.answer(raw, FLOW)
    assert world.answer(raw, FLOW) == first
    assert len(world.turn) == len(world.relays) == 1


def test_a_retransmission_while_the_port_opens_is_awaited(world: World) -> None:
    caller = _challenged(world)
    raw = caller.allocate()
    (opening,) = world.turn.received(FLOW, raw, world.now)
    assert isinstance(opening, OpenRelay)
    assert world.turn.received(FLOW, raw, world.now) == ()
    assert code_of(world.answer(caller.refresh(), FLOW)) == 437
    (answer,) = world.turn.relay_opened(opening.allocation, ("127.0.0.1", 20_000))
    assert isinstance(answer, ToClient)
    assert code_of(answer.payload) == 0


def test_a_second_allocate_is_a_mismatch(world: World) -> None:
    caller = world.allocated()
    assert code_of(world.answer(caller.allocate(), FLOW)) == 437


def test_a_new_allocate_may_follow_an_ended_one_at_once(world: World) -> None:
    caller = _challenged(world)
    raw = caller.allocate(transaction_id=b"same-id-12by")
    world.answer(raw, FLOW)
    world.wait(600)
    effects = world.receive(raw, FLOW)
    assert isinstance(effects[0], CloseRelay)
    assert list(world.relays) == [2]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        (((Attribute.REQUESTED_TRANSPORT, b"\x06\0\0\0"),), 442),
        (((Attribute.REQUESTED_TRANSPORT, b"\x11"),), 400),
        ((), 400),
    ],
)
def test_requested_transport(
    world: World, attributes: tuple[tuple[int, bytes], ...], code: int
) -> None:
    caller = _challenged(world)
    assert code_of(world.answer(caller.request(Method.ALLOCATE, *attributes), FLOW)) == code


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ([EVEN_PORT], 0),
        ([EVEN_PORT_AND_NEXT], 508),
        ([(Attribute.EVEN_PORT, b"")], 400),
        ([TOKEN], 508),
        ([TOKEN, EVEN_PORT], 400),
        ([TOKEN, IPV4_FAMILY], 400),
        ([IPV4_FAMILY], 0),
        ([IPV6_FAMILY], 0),
        ([(Attribute.REQUESTED_ADDRESS_FAMILY, b"\3\0\0\0")], 440),
        ([(Attribute.REQUESTED_ADDRESS_FAMILY, b"\1")], 440),
        ([(Attribute.LIFETIME, bytes(4))], 400),
        ([(Attribute.LIFETIME, b"\1")], 400),
    ],
)
def test_allocate_attributes(world: World, attributes: list[tuple[int, bytes]], code: int) -> None:
    caller = _challenged(world)
    assert code_of(world.answer(caller.allocate(*attributes), FLOW)) == code
    assert len(world.relays) == (code == 0)


@pytest.mark.parametrize(
    ("asked", "granted"), [(None, 600), (1, 600), (600, 600), (1800, 1800), (86_400, 3600)]
)
def test_lifetimes_are_coturns(world: World, asked: int | None, granted: int) -> None:
    caller = world.allocated()
    assert _lifetime(world.answer(caller.refresh(asked), FLOW)) == granted


def test_quota_by_identity_whatever_the_credential() -> None:
    world = World(RelayLimits(allocations_per_identity=2))
    world.allocated(world.caller(who="alice.one"), flow(1))
    world.allocated(world.caller(who="alice.two"), flow(2))
    third = world.caller(who="alice.three")
    world.challenge(third, flow(3))
    assert code_of(world.answer(third.allocate(), flow(3))) == 486
    world.allocated(world.caller(who="bob"), flow(4))
    world.settle(world.turn.flow_closed(flow(1)))
    assert code_of(world.answer(third.allocate(), flow(3))) == 0


def test_quota_in_all() -> None:
    world = World(RelayLimits(max_allocations=2))
    for port in (1, 2):
        world.allocated(world.caller(who=f"id{port}"), flow(port))
    third = world.caller(who="id3")
    world.challenge(third, flow(3))
    assert code_of(world.answer(third.allocate(), flow(3))) == 508


def test_no_port_no_allocation(world: World) -> None:
    caller = _challenged(world)
    world.can_open = False
    answer = parsed(world.answer(caller.allocate(), FLOW))
    assert code_of(answer.raw) == 508
    assert has_integrity(answer, caller.key)
    assert len(world.turn) == 0
    world.can_open = True
    assert code_of(world.answer(caller.allocate(), FLOW)) == 0


def test_answers_for_allocations_that_are_gone(world: World) -> None:
    assert world.turn.relay_opened(7, PEER) == ()
    assert world.turn.relay_failed(7) == ()
    assert world.turn.flow_closed(FLOW) == ()
    assert world.turn.peer_received(7, PEER, b"x", world.now) == ()


# Refresh, expiry, revocation


def test_refresh_with_zero_deletes(world: World) -> None:
    caller = world.allocated()
    effects = world.receive(caller.refresh(0), FLOW)
    assert [type(effect) for effect in effects] == [CloseRelay, ToClient]
    assert len(world.turn) == 0
    assert code_of(world.answer(caller.refresh(0), FLOW)) == 437


def test_refresh_of_another_family(world: World) -> None:
    caller = world.allocated()
    assert code_of(world.answer(caller.request(Method.REFRESH, IPV4_FAMILY), FLOW)) == 0
    assert code_of(world.answer(caller.request(Method.REFRESH, IPV6_FAMILY), FLOW)) == 443
    bad = caller.request(Method.REFRESH, (Attribute.LIFETIME, b""))
    assert code_of(world.answer(bad, FLOW)) == 400


def test_another_user_may_not_touch_the_allocation(world: World) -> None:
    caller = world.allocated()
    other = Caller(world.credential(who="bob"), caller.realm, caller.nonce)
    assert code_of(world.answer(other.refresh(0), FLOW)) == 441


def test_an_allocation_ends_by_itself(world: World) -> None:
    caller = world.allocated()
    world.receive(caller.permit(PEER), FLOW)
    world.wait(599.9)
    assert world.settle(world.turn.expire(world.now)) == ()
    world.wait(0.1)
    assert code_of(world.answer(caller.refresh(), FLOW)) == 437
    (closed,) = world.settle(world.turn.expire(world.now))
    assert closed == CloseRelay(1, FLOW)
    assert not world.relays
    assert not world.turn.holds(FLOW)


def test_an_allocation_does_not_outlive_its_credential(world: World) -> None:
    caller = world.allocated(world.caller(ttl=60))
    answer = world.answer(caller.refresh(3600), FLOW)
    assert _lifetime(answer) == 61
    world.answer(caller.bind(0x4000, PEER), FLOW)
    world.wait(60.9)
    assert world.to_peer(channel_data(0x4000, b"x"), FLOW)
    assert world.to_peer(caller.send(PEER, b"x"), FLOW)
    world.wait(0.1)
    assert world.to_peer(channel_data(0x4000, b"x"), FLOW) is None
    assert world.to_peer(caller.send(PEER, b"x"), FLOW) is None
    assert world.from_peer(b"x") is None
    for raw in (caller.refresh(), caller.permit(PEER), caller.bind(0x4000, PEER)):
        assert code_of(world.answer(raw, FLOW)) == 401
    assert world.settle(world.turn.expire(world.now)) == (CloseRelay(1, FLOW, 2, 0),)


def test_a_clock_set_forward_ends_credentials_too(world: World) -> None:
    world.allocated(world.caller(ttl=60))
    world.now = world.now._replace(unix=START.unix + 3600)
    assert len(world.settle(world.turn.expire(world.now))) == 1


def test_a_cut_ends_one_allocation_and_tells_what_it_relayed(world: World) -> None:
    caller, other = world.allocated(source=flow(1)), world.allocated(source=flow(2))
    world.answer(caller.permit(PEER), flow(1))
    world.to_peer(caller.send(PEER, b"12345"), flow(1))
    world.from_peer(b"123")
    assert world.settle(world.turn.cut(1)) == (CloseRelay(1, flow(1), 5, 3),)
    assert world.turn.cut(1) == ()
    assert code_of(world.answer(caller.refresh(), flow(1))) == 437
    assert code_of(world.answer(other.refresh(), flow(2))) == 0
    assert world.turn.sessions() == (world.turn.session(2),)


def test_draining_refuses_new_allocations_only(world: World) -> None:
    caller, late = world.allocated(source=flow(1)), world.caller()
    world.turn.is_draining = True
    world.challenge(late, flow(2))
    assert code_of(world.answer(late.allocate(), flow(2))) == 508
    assert code_of(world.answer(caller.refresh(), flow(1))) == 0
    world.turn.is_draining = False
    assert code_of(world.answer(late.allocate(), flow(2))) == 0


# Permissions and channels


def test_data_needs_a_permission_both_ways(world: World) -> None:
    caller = world.allocated()
    assert world.to_peer(caller.send(PEER, b"hi"), FLOW) is None
    assert world.from_peer(b"hi") is None
    assert code_of(world.answer(caller.permit(PEER, ("127.0.0.2", 0)), FLOW)) == 0
    assert world.to_peer(caller.send(PEER, b"hi"), FLOW) == ToPeer(1, b"hi", PEER)
    assert world.to_peer(caller.send(("127.0.0.2", 5000), b""), FLOW)
    raw = world.from_peer(b"hey")
    assert raw is not None
    message = parsed(raw)
    assert (message.method, message.kind) == (Method.DATA, Kind.INDICATION)
    assert message.first(Attribute.DATA) == b"hey"
    address = message.first(Attribute.XOR_PEER_ADDRESS)
    assert address is not None
    assert read_xor_address(address, message.transaction_id) == PEER
    world.wait(300)
    assert world.to_peer(caller.send(PEER, b"hi"), FLOW) is None
    assert world.from_peer(b"hi") is None


@pytest.mark.parametrize(
    ("peers", "code"),
    [
        ([("10.0.0.1", 5000)], 403),
        ([PEER, ("169.254.169.254", 80)], 403),
        ([("::1", 5000)], 443),
        ([("::ffff:127.0.0.1", 5000)], 443),
        ([PEER, ("::1", 5000)], 443),
        ([], 400),
    ],
)
def test_refused_permissions_install_nothing(
    world: World, peers: list[tuple[str, int]], code: int
) -> None:
    caller = world.allocated()
    assert code_of(world.answer(caller.permit(*peers), FLOW)) == code
    assert world.to_peer(caller.send(PEER, b"hi"), FLOW) is None


def test_an_indication_to_nowhere_is_dropped(world: World) -> None:
    world.allocated()
    attributes = ((Attribute.XOR_PEER_ADDRESS, b"\0\1"), (Attribute.DATA, b"x"))
    raw = build(Method.SEND, Kind.INDICATION, b"t" * 12, attributes)
    assert world.to_peer(raw, FLOW) is None


def test_a_malformed_peer_is_a_bad_request(world: World) -> None:
    caller = world.allocated()
    raw = caller.request(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, b"\0\1"))
    assert code_of(world.answer(raw, FLOW)) == 400


@pytest.mark.parametrize("port", [0, 53, 1023, LISTENING_PORT])
def test_low_ports_and_the_relay_itself_are_out_of_reach(world: World, port: int) -> None:
    caller = world.allocated()
    world.answer(caller.permit(PEER), FLOW)
    assert world.to_peer(caller.send(("127.0.0.1", port), b"hi"), FLOW) is None
    assert code_of(world.answer(caller.bind(0x4000, ("127.0.0.1", port)), FLOW)) == 403


def test_a_channel_carries_data_both_ways(world: World) -> None:
    caller = world.allocated()
    assert code_of(world.answer(caller.bind(0x4000, PEER), FLOW)) == 0
    assert world.to_peer(channel_data(0x4000, b"hi") + b"\0\0", FLOW) == ToPeer(1, b"hi", PEER)
    assert world.from_peer(b"hey") == channel_data(0x4000, b"hey")
    other_port = world.from_peer(b"hey", ("127.0.0.1", 40_001))
    assert other_port is not None
    assert parsed(other_port).method == Method.DATA
    for raw in (channel_data(0x4001, b"x"), b"\x40\0\0", b"\x40\0\0\5abcd"):
        assert world.to_peer(raw, FLOW) is None


def test_a_channel_keeps_its_permission_as_in_coturn(world: World) -> None:
    caller = world.allocated()
    world.answer(caller.refresh(3600), FLOW)
    world.answer(caller.bind(0x4000, PEER), FLOW)
    world.answer(caller.permit(PEER), FLOW)
    world.wait(599)
    assert world.from_peer(b"hey") == channel_data(0x4000, b"hey")
    assert world.to_peer(channel_data(0x4000, b"x"), FLOW)
    world.wait(1)
    assert world.from_peer(b"hey") is None
    assert world.to_peer(channel_data(0x4000, b"x"), FLOW) is None


def test_channels_outlived_by_a_permission_fall_back_to_indications(world: World) -> None:
    caller = world.allocated()
    world.answer(caller.refresh(3600), FLOW)
    world.answer(caller.bind(0x4000, PEER), FLOW)
    world.wait(500)
    world.answer(caller.permit(PEER), FLOW)
    world.wait(101)
    raw = world.from_peer(b"hey")
    assert raw is not None
    assert parsed(raw).method == Method.DATA
    assert world.settle(world.turn.expire(world.now)) == ()
    world.challenge(caller, FLOW)
    assert code_of(world.answer(caller.bind(0x4000, ("127.0.0.1", 5001)), FLOW)) == 0


def test_channel_binding_rules(world: World) -> None:
    caller = world.allocated()
    assert code_of(world.answer(caller.bind(0x4000, PEER), FLOW)) == 0
    assert code_of(world.answer(caller.bind(0x4000, PEER), FLOW)) == 0
    assert code_of(world.answer(caller.bind(0x4001, PEER), FLOW)) == 400
    assert code_of(world.answer(caller.bind(0x4000, ("127.0.0.1", 5000)), FLOW)) == 400
    assert code_of(world.answer(caller.bind(0x3FFF, PEER), FLOW)) == 400
    assert code_of(world.answer(caller.bind(0x8000, PEER), FLOW)) == 400
    assert code_of(world.answer(caller.bind(0x4002, ("10.0.0.1", 5000)), FLOW)) == 403
    no_peer = caller.request(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, b"\x40\5\0\0"))
    assert code_of(world.answer(no_peer, FLOW)) == 400


def test_requests_without_an_allocation_mismatch(world: World) -> None:
    caller = _challenged(world)
    for raw in (caller.refresh(), caller.permit(PEER), caller.bind(0x4000, PEER)):
        assert code_of(world.answer(raw, FLOW)) == 437


def test_permissions_and_channels_are_bounded() -> None:
    world = World(RelayLimits(permissions_per_allocation=2, channels_per_allocation=1))
    caller = world.allocated()
    assert code_of(world.answer(caller.bind(0x4000, PEER), FLOW)) == 0
    assert code_of(world.answer(caller.bind(0x4001, ("127.0.0.1", 5000)), FLOW)) == 508
    assert code_of(world.answer(caller.permit(("127.0.0.2", 0)), FLOW)) == 0
    assert code_of(world.answer(caller.permit(("127.0.0.3", 0)), FLOW)) == 508
    world.wait(300)
    assert code_of(world.answer(caller.permit(("127.0.0.3", 0)), FLOW)) == 0


def test_send_with_dont_fragment_is_discarded(world: World) -> None:
    caller = world.allocated()
    world.answer(caller.permit(PEER), FLOW)
    assert world.to_peer(caller.send(PEER, b"x", (Attribute.DONT_FRAGMENT, b"")), FLOW) is None


def test_an_ipv6_allocation(world: World) -> None:
    caller = _challenged(world)
    assert code_of(world.answer(caller.allocate(IPV6_FAMILY), FLOW)) == 0
    peer = ("::1", 40_000)
    assert code_of(world.answer(caller.permit(peer), FLOW)) == 0
    assert code_of(world.answer(caller.permit(PEER), FLOW)) == 443
    assert code_of(world.answer(caller.permit(("::ffff:127.0.0.1", 5000)), FLOW)) == 403
    assert world.to_peer(caller.send(peer, b"x"), FLOW) == ToPeer(1, b"x", peer)
    raw = world.from_peer(b"x", peer)
    assert raw is not None
    address = parsed(raw).first(Attribute.XOR_PEER_ADDRESS)
    assert address == xor_address(peer, parsed(raw).transaction_id)


# Rates and usage


def test_bytes_are_counted_and_limited_each_way() -> None:
    world = World(RelayLimits(bytes_per_second=1000))
    caller = world.allocated()
    world.answer(caller.bind(0x4000, PEER), FLOW)
    sent = [world.to_peer(channel_data(0x4000, bytes(400)), FLOW) for _ in range(5)]
    assert [effect is not None for effect in sent] == [True, True, False, False, False]
    assert world.from_peer(bytes(900))
    assert world.from_peer(bytes(900)) is None
    (session,) = world.turn.sessions()
    used = (session.sent_bytes, session.received_bytes, session.dropped_packets)
    assert used == (800, 900, 4)
    world.wait(1)
    assert world.to_peer(channel_data(0x4000, bytes(400)), FLOW)


def test_payloads_that_no_indication_could_carry_are_dropped(world: World) -> None:
    caller = world.allocated()
    world.answer(caller.permit(PEER), FLOW)
    assert world.from_peer(bytes(65_001)) is None
    assert world.from_peer(bytes(65_000)) is not None


def test_a_wider_policy_reaches_further() -> None:
    world = World(policy=PeerPolicy(allowed=networks("10.0.0.0/8"), min_port=1))
    caller = world.allocated()
    assert code_of(world.answer(caller.permit(PEER), FLOW)) == 403
    assert code_of(world.answer(caller.permit(("10.1.2.3", 0)), FLOW)) == 0
    assert world.to_peer(caller.send(("10.1.2.3", 53), b"x"), FLOW)
