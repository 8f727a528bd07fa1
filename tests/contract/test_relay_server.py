"""The embedded relay on real sockets: time, limits, hostile clients, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aioice.turn
import pytest
import uvloop
from turn_client import RawClient, echo_peer, eventually, raw_client
from turn_messages import UDP_TRANSPORT, Caller, channel_data, code_of, parsed

from turn_broker.credentials import TurnCredential, mint
from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.ports import bind_listeners, bind_relay
from turn_broker.relay.server import Relay, RelaySettings
from turn_broker.relay.stun import Attribute, Kind, Method, build

REALM = "parley.test"
SECRETS = ("new", "old")
BINDING = build(Method.BINDING, Kind.REQUEST, b"binding-12by")
IPV6_FAMILY = (Attribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Clocks:
    """Real clocks that a test may put forward."""

    ahead = 0.0

    def unix(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@asynccontextmanager
async def running(clocks: Clocks | None = None, **settings: Any) -> AsyncIterator[Relay]:
    """A relay that looks at its clocks all the time."""
    clocks = clocks or Clocks()
    wanted = RelaySettings(**{"realm": REALM, "secrets": SECRETS, "tick": 0.01, **settings})
    relay = await Relay.start(wanted, now_unix=clocks.unix, monotonic=clocks.monotonic)
    try:
        yield relay
    finally:
        await relay.close()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def relay(clocks: Clocks) -> AsyncIterator[Relay]:
    async with running(clocks) as relay:
        yield relay


def _credential(ttl: int = 600, who: str = "alice", secret: str = "new") -> TurnCredential:
    return mint(secret, who, int(time.time()) + ttl)


def _address(relay: Relay) -> tuple[str, int]:
    return ("127.0.0.1", relay.port)


async def _answers(client: RawClient) -> None:
    assert parsed(await client.exchange(BINDING)).kind is Kind.SUCCESS


# Time


async def test_a_retransmitted_allocate_gets_the_same_answer(relay: Relay) -> None:
    async with raw_client(_address(relay)) as client:
        caller = Caller(_credential(), REALM)
        await client.challenge(caller)
        raw = caller.allocate()
        first = await client.exchange(raw)
        assert code_of(first) == 0
        assert await client.exchange(raw) == first
        assert relay.stats.allocations == 1


async def test_a_credential_that_ends_takes_its_allocation_along(
    relay: Relay, clocks: Clocks
) -> None:
    async with raw_client(_address(relay)) as client, echo_peer() as peer:
        caller, relayed = await client.allocate(_credential(ttl=30), REALM)
        assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
        clocks.ahead = 32
        assert code_of(await client.exchange(caller.refresh())) == 401
        await eventually(lambda: relay.stats.allocations == 0)
        with socket.socket(type=socket.SOCK_DGRAM) as taken:
            taken.bind(relayed)


async def test_a_nonce_goes_stale_and_aioice_carries_on(relay: Relay, clocks: Clocks) -> None:
    credential = _credential(ttl=86_400)
    transport, protocol = await aioice.turn.create_turn_endpoint(
        _Lost,
        server_addr=_address(relay),
        username=credential.username,
        password=credential.password,
        lifetime=3600,
    )
    clocks.ahead = 700
    transport.close()
    await asyncio.wait_for(protocol.lost.wait(), 10)
    assert relay.stats.allocations == 0
    assert relay.stats.counters.challenged == 2


class _Lost(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def test_an_allocation_nobody_refreshes_ends(relay: Relay, clocks: Clocks) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        await client.allocate(_credential(ttl=86_400), REALM)
        clocks.ahead = 601
        await eventually(lambda: relay.stats.allocations == 0)


# Quotas, ports, revocation


async def test_a_denied_peer(relay: Relay) -> None:
    async with raw_client(_address(relay)) as client:
        caller, _ = await client.allocate(_credential(), REALM)
        for host in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255"):
            assert code_of(await client.exchange(caller.permit((host, 5000)))) == 403
        for peer in (("127.0.0.1", 53), ("127.0.0.1", relay.port)):
            assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 403


async def test_a_tcp_relay_is_not_offered(relay: Relay) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        caller = Caller(_credential(), REALM)
        await client.challenge(caller)
        tcp = (Attribute.REQUESTED_TRANSPORT, b"\x06\0\0\0")
        raw = caller.request(Method.ALLOCATE, tcp)
        assert code_of(await client.exchange(raw)) == 442


async def test_relayed_ports_come_from_the_range_and_run_out() -> None:
    first = _free_range(3)
    async with (
        running(min_port=first, max_port=first + 2) as relay,
        contextlib.AsyncExitStack() as s,
    ):
        found = set()
        for _ in range(3):
            client = await s.enter_async_context(raw_client(_address(relay)))
            _, (_, port) = await client.allocate(_credential(), REALM)
            found.add(port)
        assert found == {first, first + 1, first + 2}
        fourth = await s.enter_async_context(raw_client(_address(relay)))
        caller = Caller(_credential(), REALM)
        await fourth.challenge(caller)
        assert code_of(await fourth.exchange(caller.allocate())) == 508


def _free_range(size: int) -> int:
    for first in random.sample(range(12_000, 15_000), 100):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + size):
                    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free range")


@pytest.mark.parametrize("ports", [None, range(12_000, 15_000)])
def test_even_ports(ports: range | None) -> None:
    for _ in range(5):
        sock = bind_relay("127.0.0.1", ports, even=True)
        assert sock is not None
        with sock:
            assert sock.getsockname()[1] % 2 == 0


def test_no_address_no_port() -> None:
    assert bind_relay("192.0.2.1", None, even=False) is None


def test_a_taken_listening_port_is_an_error() -> None:
    udp, tcp = bind_listeners("127.0.0.1", 0)
    with udp, tcp, pytest.raises(OSError, match="in use"):
        bind_listeners("127.0.0.1", udp.getsockname()[1])


async def test_a_cut_ends_and_usage_counts(relay: Relay) -> None:
    async with raw_client(_address(relay)) as client, echo_peer() as peer:
        credential = _credential()
        caller, _ = await client.allocate(credential, REALM)
        await client.exchange(caller.bind(0x4000, peer))
        await client.send(channel_data(0x4000, b"1234567"))
        await client.receive()
        (session,) = relay.sessions()
        assert (session.sent_bytes, session.received_bytes) == (7, 12)
        assert relay.cut(session.number)
        assert not relay.cut(session.number)
        assert code_of(await client.exchange(caller.refresh())) == 437
        other, _ = await client.allocate(_credential(ttl=601), REALM)
        relay.replace_secrets(("old",))
        assert code_of(await client.exchange(other.refresh())) == 401


async def test_an_ipv6_relay() -> None:
    async with running(host="::1", relay_address=None, relay_address_v6="::1") as relay:
        address = ("::1", relay.port)
        async with raw_client(address) as client, echo_peer("::1") as peer:
            caller = Caller(_credential(), REALM)
            await client.challenge(caller)
            assert code_of(await client.exchange(caller.allocate())) == 440
            assert code_of(await client.exchange(caller.allocate(IPV6_FAMILY))) == 0
            assert code_of(await client.exchange(caller.permit(peer))) == 0
            await client.send(caller.send(peer, b"six"))
            assert parsed(await client.receive()).first(Attribute.DATA) == b"echo:six"


# Hostile clients


async def test_random_bytes_over_udp(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    with caplog.at_level(logging.WARNING):
        async with raw_client(_address(relay)) as client:
            for _ in range(500):
                await client.send(chance.randbytes(chance.randrange(0, 200)))
                await client.send(BINDING[: chance.randrange(20)] + chance.randbytes(8))
            await client.send(build(Method.ALLOCATE, Kind.REQUEST, b"t" * 12, (UDP_TRANSPORT,)))
            while parsed(await client.receive()).method != Method.ALLOCATE:
                pass
            await _answers(client)
    assert not caplog.records


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(100),
        b"\0\1\xff\xfc\x21\x12\xa4\x42" + bytes(12),
        b"\x40\0\xff\xff",
        b"\xff" * 5000,
        bytes(100),
    ],
)
async def test_junk_over_tcp_ends_the_connection(relay: Relay, junk: bytes) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        await client.send(junk)
        await client.closed()
    async with raw_client(_address(relay), transport="tcp") as client:
        await _answers(client)


@pytest.mark.parametrize(
    ("said", "seconds"), [(b"", 11), (BINDING[:8], 11), (BINDING, 61), (b"\x40\0\0\x10abcd", 11)]
)
async def test_the_silent_and_the_unfinished_are_cut(
    relay: Relay, clocks: Clocks, said: bytes, seconds: float
) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        await client.send(said)
        await _noticed(relay)
        clocks.ahead += seconds - 2
        await _tick(relay)
        assert relay.stats.connections == 1
        clocks.ahead += 2
        await client.closed()


async def _noticed(relay: Relay) -> None:
    """What was sent before has been read: a later client has had its answer."""
    async with raw_client(_address(relay), transport="tcp") as probe:
        await _answers(probe)
    await eventually(lambda: relay.stats.connections == 1)


async def _tick(relay: Relay) -> None:
    before = relay._timer
    await eventually(lambda: relay._timer is not before)


async def test_a_client_with_an_allocation_may_be_silent(relay: Relay, clocks: Clocks) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        caller, _ = await client.allocate(_credential(), REALM)
        clocks.ahead += 500
        await _tick(relay)
        await _answers(client)
        assert code_of(await client.exchange(caller.refresh())) == 0


async def test_a_frame_once_begun_must_end_even_with_an_allocation(
    relay: Relay, clocks: Clocks
) -> None:
    async with raw_client(_address(relay), transport="tcp") as client:
        await client.allocate(_credential(), REALM)
        await client.send(b"\x40\0\0\x10abcd")
        (stream,) = relay._streams.values()
        await eventually(lambda: stream._frames.partial)
        clocks.ahead += 11
        await client.closed()


async def test_a_steady_stream_cut_anywhere_goes_on(relay: Relay, clocks: Clocks) -> None:
    async with raw_client(_address(relay), transport="tcp") as client, echo_peer() as peer:
        caller, _ = await client.allocate(_credential(), REALM)
        await client.exchange(caller.bind(0x4000, peer))
        whole = channel_data(0x4000, b"12345678")
        await client.send(whole[:4])
        (stream,) = relay._streams.values()
        await eventually(lambda: stream._frames.partial)
        for _ in range(3):
            clocks.ahead += 8
            await client.send(whole[4:] + whole[:4])
            assert await client.receive() == channel_data(0x4000, b"echo:12345678")
        await _tick(relay)
        assert relay.stats.connections == 1


async def test_connections_are_bounded() -> None:
    async with running(max_connections=2) as relay, contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(raw_client(_address(relay), transport="tcp"))
            for _ in range(2)
        ]
        for client in clients:
            await _answers(client)
        async with raw_client(_address(relay), transport="tcp") as third:
            await third.closed()
        for client in clients:
            await _answers(client)


async def test_a_client_that_does_not_read_loses_data_then_its_connection(clocks: Clocks) -> None:
    limits = RelayLimits(bytes_per_second=10**9)
    async with running(clocks, limits=limits, max_write_buffer=100_000) as relay:
        address = _address(relay)
        async with raw_client(address, transport="tcp", receive_buffer=4096) as client:
            caller, relayed = await client.allocate(_credential(), REALM)
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.bind(("127.0.0.1", 0))
                assert code_of(await client.exchange(caller.permit(peer.getsockname()))) == 0
                await _flood(relay, peer, relayed)
            (stream,) = relay._streams.values()
            assert stream._transport is not None
            assert stream._transport.get_write_buffer_size() < 100_000 + 65_600
            clocks.ahead += 4
            await _tick(relay)
            assert relay.stats.connections == 1
            clocks.ahead += 2
            await eventually(lambda: relay.stats.connections == 0)
            assert relay.stats.allocations == 0


async def _flood(relay: Relay, peer: socket.socket, relayed: tuple[str, int]) -> None:
    deadline = time.monotonic() + 30
    while relay.stats.unsent < 5:
        assert time.monotonic() < deadline
        peer.sendto(bytes(60_000), relayed)
        await asyncio.sleep(0)


async def test_a_flood_through_one_allocation_does_not_starve_another(relay: Relay) -> None:
    async with raw_client(_address(relay)) as flooder, raw_client(_address(relay)) as other:
        caller, _ = await flooder.allocate(_credential(who="flooder"), REALM)
        async with echo_peer() as peer:
            await flooder.exchange(caller.bind(0x4000, peer))
            answer = asyncio.ensure_future(other.receive())
            for _ in range(50):
                for _ in range(200):
                    with contextlib.suppress(BlockingIOError):
                        flooder.sock.send(channel_data(0x4000, bytes(1000)))
                await other.send(BINDING)
                await asyncio.sleep(0)
                if answer.done():
                    break
            assert parsed(await answer).kind is Kind.SUCCESS
            (session,) = relay.sessions()
            assert session.sent_bytes <= 4_000_000 * 2


# Both loops, and what stays behind


async def _calls_over_both_transports() -> None:
    async with running() as relay, echo_peer() as peer:
        for transport in ("udp", "tcp"):
            async with raw_client(_address(relay), transport=transport) as client:
                caller, _ = await client.allocate(_credential(), REALM)
                assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
                for size in (1, 1200, 30_000):
                    await client.send(channel_data(0x4000, b"x" * size))
                    assert await client.receive() == channel_data(0x4000, b"echo:" + b"x" * size)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_either_loop_serves_and_leaves_nothing(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    async def rounds() -> tuple[int, int]:
        await _calls_over_both_transports()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await _calls_over_both_transports()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return before, len(os.listdir("/proc/self/fd"))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        before, after = runner.run(rounds())
    assert after <= before
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_close_in_the_middle_of_a_call_frees_its_port() -> None:
    async with running() as relay:
        port = relay.port
        async with (
            raw_client(_address(relay)) as udp,
            raw_client(_address(relay), transport="tcp") as tcp,
        ):
            await udp.allocate(_credential(), REALM)
            await tcp.allocate(_credential(), REALM)
            await relay.close()
            await tcp.closed()
            assert relay.stats.connections == 0
    async with running(port=port) as again:
        assert (again.udp_port, again.tcp_port) == (port, port)


async def test_nothing_about_clients_is_logged(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="parley"):
        async with raw_client(_address(relay)) as client:
            caller, relayed = await client.allocate(_credential(), REALM)
            await client.exchange(caller.refresh(0))
    text = " ".join(str(record.__dict__) for record in caplog.records if "parley" in record.name)
    assert caller.credential.username not in text
    assert str(relayed[1]) not in text
