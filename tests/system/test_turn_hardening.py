"""A real coturn with the configuration that we write, against what TURN servers are abused for."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from coturn import has_coturn
from coturn_node import REALM, SECRET, CoturnNode, coturn_node
from turn_client import RawClient, raw_client
from turn_messages import Caller, code_of, parsed

from turn_broker.credentials import mint
from turn_broker.relay.stun import Attribute, Endpoint, Kind, Method, build

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]

FORBIDDEN, WRONG_FAMILY = 403, 443
PEERS_V4 = [
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.2",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.1.2.3",
    "255.255.255.255",
]
PEERS_V6 = [
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "2002:a00:1::1",
    "2001:0:a00:1::1",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
]
PUBLIC = "1.1.1.1"


@pytest.fixture(scope="module")
def node() -> Iterator[CoturnNode]:
    # Relaying from loopback, so that the machine's own address is one that is denied as well.
    with coturn_node(
        allow_loopback_peers=False,
        denied_peers=["1.0.0.0/24"],
        allowed_peers=["10.9.9.9/32"],
        allocations_per_credential=3,
    ) as node:
        yield node


@pytest.fixture
async def client(node: CoturnNode) -> AsyncIterator[RawClient]:
    async with raw_client(node.address) as client:
        yield client


@pytest.fixture
async def caller(client: RawClient, request: pytest.FixtureRequest) -> Caller:
    # A name for each test: there is a quota.
    name = f"{abs(hash(request.node.name)):x}.one"
    caller, _ = await client.allocate(mint(SECRET, name, int(time.time()) + 600), REALM)
    return caller


async def _codes(client: RawClient, caller: Caller, peer: Endpoint) -> tuple[int, int]:
    permitted = code_of(await client.exchange(caller.permit(peer)))
    bound = code_of(await client.exchange(caller.bind(0x4001, peer)))
    return permitted, bound


@pytest.mark.parametrize("host", PEERS_V4)
async def test_what_is_not_public_is_denied(client: RawClient, caller: Caller, host: str) -> None:
    assert await _codes(client, caller, (host, 80)) == (FORBIDDEN, FORBIDDEN)


@pytest.mark.parametrize("host", PEERS_V6)
async def test_no_ipv6_spelling_goes_round_it(client: RawClient, caller: Caller, host: str) -> None:
    for code in await _codes(client, caller, (host, 80)):
        assert code in (FORBIDDEN, WRONG_FAMILY)


async def test_own_denials_and_exceptions_count(client: RawClient, caller: Caller) -> None:
    assert await _codes(client, caller, ("1.0.0.7", 5000)) == (FORBIDDEN, FORBIDDEN)
    assert code_of(await client.exchange(caller.permit(("10.9.9.9", 5000)))) == 0
    assert code_of(await client.exchange(caller.permit((PUBLIC, 5000)))) == 0


async def test_one_bad_peer_spoils_the_request(client: RawClient, caller: Caller) -> None:
    both = caller.permit((PUBLIC, 5000), ("10.0.0.1", 5000))
    assert code_of(await client.exchange(both)) == FORBIDDEN


async def test_the_relay_itself_and_its_ports_are_no_peers(
    node: CoturnNode, client: RawClient, caller: Caller
) -> None:
    for port in (node.settings.listening_port, node.settings.console_port, node.settings.min_port):
        assert await _codes(client, caller, ("127.0.0.1", port)) == (FORBIDDEN, FORBIDDEN)


async def test_there_is_no_tcp_relay(node: CoturnNode, caller: Caller) -> None:
    async with raw_client(node.address, transport="tcp") as stream:
        asking = Caller(caller.credential, REALM)
        await stream.challenge(asking)
        tcp = asking.request(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, b"\x06\0\0\0"))
        assert code_of(await stream.exchange(tcp)) == 442


async def test_no_ipv6_relay_is_given(node: CoturnNode, caller: Caller) -> None:
    async with raw_client(node.address) as client:
        asking = Caller(caller.credential, REALM)
        await client.challenge(asking)
        family = (Attribute.REQUESTED_ADDRESS_FAMILY, b"\x02\0\0\0")
        assert code_of(await client.exchange(asking.allocate(family))) == 440


async def test_the_quota_of_a_credential(
    node: CoturnNode, client: RawClient, caller: Caller
) -> None:
    for expected in (0, 0, 486):
        async with raw_client(node.address) as other:
            asking = Caller(caller.credential, REALM)
            await other.challenge(asking)
            assert code_of(await other.exchange(asking.allocate())) == expected


async def test_answers_to_strangers_are_small_and_say_little(node: CoturnNode) -> None:
    async with raw_client(node.address) as client:
        raw = await client.exchange(build(Method.BINDING, Kind.REQUEST, b"x" * 12))
        assert len(raw) <= 3 * 20
        assert parsed(raw).first(Attribute.SOFTWARE) is None
        asking = Caller(mint(SECRET, "alice.one", int(time.time()) + 600), REALM).allocate()
        raw = await client.exchange(asking)
        assert (code_of(raw), len(raw) <= 5 * len(asking)) == (401, True), len(raw) / len(asking)


def test_the_console_is_on_loopback_and_wants_its_password(node: CoturnNode) -> None:
    with socket.create_connection(("127.0.0.1", node.settings.console_port), timeout=5) as console:
        console.settimeout(5)
        greeting = console.recv(4096)
        console.sendall(b"wrong\r\nps\r\n")
        answer = greeting + console.recv(4096)
    assert b"Enter password" in answer
    assert b"Total sessions" not in answer
    listening = {
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    port = f":{node.settings.console_port:04X}"
    assert [each for each in listening if each.endswith(port)] == [f"0100007F{port}"]


async def test_with_relay_to_itself_two_clients_of_the_node_reach_each_other() -> None:
    with coturn_node() as node:
        async with raw_client(node.address) as one, raw_client(node.address) as two:
            expiry = int(time.time()) + 600
            first, here = await one.allocate(mint(SECRET, "alice.one", expiry), REALM)
            second, there = await two.allocate(mint(SECRET, "bob.one", expiry), REALM)
            assert code_of(await one.exchange(first.permit(there))) == 0
            assert code_of(await two.exchange(second.permit(here))) == 0
            await one.send(first.send(there, b"hello"))
            assert parsed(await two.receive()).first(Attribute.DATA) == b"hello"


async def test_without_it_they_do_not() -> None:
    with coturn_node(relay_to_itself=False) as node:
        async with raw_client(node.address) as one:
            first, here = await one.allocate(
                mint(SECRET, "alice.one", int(time.time()) + 600), REALM
            )
            assert await _codes(one, first, here) == (FORBIDDEN, FORBIDDEN)
