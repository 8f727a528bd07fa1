"""What a TURN server owes its clients: one suite for the embedded relay and for a real coturn."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aioice.stun
import aioice.turn
import pytest
from coturn import has_coturn, start_coturn
from turn_client import echo_peer, raw_client
from turn_messages import Caller, channel_data, code_of, parsed

from turn_broker.credentials import TurnCredential, mint
from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.server import Relay, RelaySettings
from turn_broker.relay.stun import Attribute, Endpoint, Kind, Method, build, read_xor_address

REALM = "parley.test"
SECRET = "the-new-secret"
OLD_SECRET = "the-old-secret"
QUOTA = 4
TRANSPORTS = ["udp", "tcp"]


@dataclass
class TurnUnderTest:
    """Where it is, and credentials for it."""

    address: tuple[str, int]

    def credential(
        self, ttl: int = 600, secret: str = SECRET, who: str = "alice"
    ) -> TurnCredential:
        return mint(secret, who, int(time.time()) + ttl)


@pytest.fixture(
    params=[
        "relay",
        pytest.param(
            "coturn",
            marks=[
                pytest.mark.coturn,
                pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
            ],
        ),
    ]
)
async def turn(request: pytest.FixtureRequest) -> AsyncIterator[TurnUnderTest]:
    if request.param == "relay":
        limits = RelayLimits(allocations_per_identity=QUOTA)
        settings = RelaySettings(realm=REALM, secrets=(SECRET, OLD_SECRET), limits=limits)
        relay = await Relay.start(settings, now_unix=time.time, monotonic=time.monotonic)
        try:
            yield TurnUnderTest(("127.0.0.1", relay.port))
        finally:
            await relay.close()
        return
    extra = [
        f"static-auth-secret={OLD_SECRET}",
        f"user-quota={QUOTA}",
        "denied-peer-ip=10.0.0.0-10.255.255.255",
    ]
    with start_coturn(secret=SECRET, realm=REALM, extra=extra) as coturn:
        yield TurnUnderTest(coturn.address)


class _Received(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queue.put_nowait(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def _endpoint(
    turn: TurnUnderTest, credential: TurnCredential, transport: str = "udp"
) -> tuple[aioice.turn.TurnTransport, _Received]:
    endpoint: tuple[aioice.turn.TurnTransport, _Received] = await asyncio.wait_for(
        aioice.turn.create_turn_endpoint(
            _Received,
            server_addr=turn.address,
            username=credential.username,
            password=credential.password,
            transport=transport,
        ),
        10,
    )
    return endpoint


async def _close(transport: aioice.turn.TurnTransport, received: _Received) -> None:
    transport.close()
    await asyncio.wait_for(received.lost.wait(), 10)


async def _refusal(turn: TurnUnderTest, credential: TurnCredential) -> int:
    with pytest.raises(aioice.stun.TransactionFailed) as failed:
        await _endpoint(turn, credential)
    code: int = failed.value.response.attributes["ERROR-CODE"][0]
    return code


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_aioice_relays_data_there_and_back(turn: TurnUnderTest, transport: str) -> None:
    relayed, received = await _endpoint(turn, turn.credential(), transport)
    async with echo_peer() as peer:
        for size in (1, 2, 3, 4, 1200):
            relayed.sendto(b"x" * size, peer)
            answer = await asyncio.wait_for(received.queue.get(), 10)
            assert answer == b"echo:" + b"x" * size
    await _close(relayed, received)


async def test_both_secrets_are_good(turn: TurnUnderTest) -> None:
    for secret in (SECRET, OLD_SECRET):
        await _close(*await _endpoint(turn, turn.credential(secret=secret)))


async def test_an_expired_credential_is_refused(turn: TurnUnderTest) -> None:
    assert await _refusal(turn, turn.credential(ttl=-2)) == 401


async def test_a_wrong_secret_is_refused(turn: TurnUnderTest) -> None:
    assert await _refusal(turn, turn.credential(secret="something else")) == 401


async def test_the_quota_is_per_identity(turn: TurnUnderTest) -> None:
    held = [await _endpoint(turn, turn.credential(ttl=600 + n)) for n in range(QUOTA)]
    assert await _refusal(turn, turn.credential(ttl=700)) == 486
    held.append(await _endpoint(turn, turn.credential(who="bob")))
    for endpoint in held:
        await _close(*endpoint)


async def test_binding_tells_the_source_address(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        answer = parsed(await client.exchange(build(Method.BINDING, Kind.REQUEST, b"t" * 12)))
        value = answer.first(Attribute.XOR_MAPPED_ADDRESS)
        assert value is not None
        assert read_xor_address(value, answer.transaction_id) == client.sock.getsockname()


async def test_lifetimes_and_refresh_zero(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        caller, _ = await client.allocate(turn.credential(ttl=86_400), REALM)
        for asked, granted in ((None, 600), (1, 600), (3600, 3600), (86_400, 3600)):
            answer = parsed(await client.exchange(caller.refresh(asked)))
            assert int.from_bytes(answer.first(Attribute.LIFETIME) or b"") == granted
        answer = parsed(await client.exchange(caller.refresh(0)))
        assert answer.first(Attribute.LIFETIME) == bytes(4)


async def test_a_second_allocate_on_one_flow_is_a_mismatch(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        caller, _ = await client.allocate(turn.credential(), REALM)
        assert code_of(await client.exchange(caller.allocate())) == 437


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_channel_and_indications(turn: TurnUnderTest, transport: str) -> None:
    async with raw_client(turn.address, transport=transport) as client, echo_peer() as peer:
        caller, _ = await client.allocate(turn.credential(), REALM)
        await client.send(caller.send(peer, b"before a permission"))
        assert code_of(await client.exchange(caller.permit(peer))) == 0
        await client.send(caller.send(peer, b"indication"))
        message = parsed(await client.receive())
        assert message.first(Attribute.DATA) == b"echo:indication"
        address = message.first(Attribute.XOR_PEER_ADDRESS)
        assert address is not None
        assert read_xor_address(address, message.transaction_id) == peer
        assert code_of(await client.exchange(caller.bind(0x4001, peer))) == 0
        await client.send(channel_data(0x4001, b"channel"))
        assert (await client.receive())[:16] == channel_data(0x4001, b"echo:channel")


async def test_two_relayed_addresses_talk(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as one, raw_client(turn.address) as other:
        caller, relayed = await one.allocate(turn.credential(), REALM)
        callee, far = await other.allocate(turn.credential(), REALM)
        assert code_of(await one.exchange(caller.bind(0x4000, far))) == 0
        assert code_of(await other.exchange(callee.bind(0x4005, relayed))) == 0
        await one.send(channel_data(0x4000, b"1234"))
        assert await other.receive() == channel_data(0x4005, b"1234")


@pytest.mark.parametrize(
    ("peer", "code"), [(("10.1.2.3", 5000), 403), (("::1", 5000), 443), (("127.0.0.1", 5000), 0)]
)
async def test_peers_that_may_not_be(turn: TurnUnderTest, peer: Endpoint, code: int) -> None:
    async with raw_client(turn.address) as client:
        caller, _ = await client.allocate(turn.credential(), REALM)
        assert code_of(await client.exchange(caller.permit(peer))) == code


async def test_channel_rules(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        caller, _ = await client.allocate(turn.credential(), REALM)
        peer, other = ("127.0.0.1", 5000), ("127.0.0.1", 5001)
        assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
        assert code_of(await client.exchange(caller.bind(0x4000, peer))) == 0
        assert code_of(await client.exchange(caller.bind(0x4000, other))) == 400
        assert code_of(await client.exchange(caller.bind(0x4001, peer))) == 400
        assert code_of(await client.exchange(caller.bind(0x3FFF, other))) == 400


async def test_strange_requests(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        caller = Caller(turn.credential(), REALM)
        await client.challenge(caller)
        assert code_of(await client.exchange(caller.refresh())) == 437
        assert code_of(await client.exchange(caller.allocate((0x7001, b"?")))) == 420
        caller.nonce = b"0" * len(caller.nonce)
        assert code_of(await client.exchange(caller.allocate())) == 438


async def test_a_challenge_is_no_better_amplifier_than_coturns(turn: TurnUnderTest) -> None:
    async with raw_client(turn.address) as client:
        answer = await client.exchange(build(Method.ALLOCATE, Kind.REQUEST, b"t" * 12))
        assert code_of(answer) == 401
        assert len(answer) <= 120


@pytest.mark.skipif(not shutil.which("turnutils_uclient"), reason="coturn's tools are missing")
async def test_coturns_own_client_loses_nothing(turn: TurnUnderTest) -> None:
    outputs = await asyncio.gather(*map(_uclient, [turn] * 2, ["-y", "-ty"]))
    for output in outputs:
        assert "Total lost packets 0 (0.000000%)" in output, output


async def _uclient(turn: TurnUnderTest, flags: str) -> str:
    host, port = turn.address
    arguments = [
        flags,
        "-c",
        "-n",
        "20",
        "-m",
        "1",
        "-l",
        "170",
        "-z",
        "5",
        "-u",
        "uclient" + flags,
    ]
    process = await asyncio.create_subprocess_exec(
        "turnutils_uclient",
        *arguments,
        *("-W", SECRET, "-p", str(port), "-L", host, host),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()
