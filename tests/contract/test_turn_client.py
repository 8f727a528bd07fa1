"""The product's TURN client at the embedded relay, at coturn, and at servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from certificates import Authority
from coturn import LOOPBACK, free_port, has_coturn, start_coturn
from turn_client import echo_peer, eventually

from turn_broker.credentials import TurnCredential, mint
from turn_broker.ice_servers import TurnUri, parse_turn_uri
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.nodes.prober import Prober, ProberSettings
from turn_broker.relay.server import Relay, RelaySettings
from turn_broker.relay.stun import Attribute, Kind, Method, build, error_code, parse
from turn_broker.turn.client import MAX_ATTEMPTS, MAX_KEPT, MAX_PORTS, TurnClient
from turn_broker.turn.dialogue import Allocation, Failure, Reason, Received, RelayProof, Step
from turn_broker.turn.proof import prove_relay
from turn_broker.turn.wire import MAX_WAITING, Wire, reason_of

REALM = "parley.test"
SECRET = "the-new-secret"
needs_coturn = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]


@dataclass
class Server:
    port: int

    def uri(self, transport: str = "udp") -> TurnUri:
        return parse_turn_uri(f"turn:{LOOPBACK}:{self.port}?transport={transport}")

    def client(self, transport: str = "udp", secret: str = SECRET) -> TurnClient:
        return TurnClient(self.uri(transport), credential(secret), timeout_s=5)


def credential(secret: str = SECRET) -> TurnCredential:
    return mint(secret, "alice", int(time.time()) + 3600)


@pytest.fixture(params=["relay", pytest.param("coturn", marks=needs_coturn)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "coturn":
        with start_coturn(secret=SECRET, realm=REALM) as coturn:
            yield Server(coturn.port)
        return
    settings = RelaySettings(realm=REALM, secrets=(SECRET,))
    relay = await Relay.start(settings, now_unix=time.time, monotonic=time.monotonic)
    try:
        yield Server(relay.port)
    finally:
        await relay.close()


both_transports = pytest.mark.parametrize("transport", ["udp", "tcp"])


# Good servers -----------------------------------------------------------------------------------


@both_transports
async def test_every_step(server: Server, transport: str) -> None:
    async with server.client(transport) as turn, echo_peer() as peer:
        mapped = await turn.bind()
        allocation = await turn.allocate(lifetime_s=700)
        assert isinstance(allocation, Allocation)
        assert allocation.mapped == mapped
        assert allocation.realm == turn.realm == REALM
        assert allocation.lifetime_s == 700
        assert turn.server == (LOOPBACK, server.port)
        assert turn.tls is None
        assert await turn.permit(peer) is None
        turn.send(peer, b"hello")
        assert await turn.receive() == Received(peer, b"echo:hello")
        assert await turn.refresh(800) == 800
        assert await turn.refresh(0) == 0
        assert turn.allocation is None


@both_transports
async def test_packets_come_through_both_ways(server: Server, transport: str) -> None:
    async with server.client(transport) as turn, server.client(transport) as other:
        await turn.allocate()
        proof = await prove_relay(turn, other, timeout_s=5, always_loop=True)

    assert proof == RelayProof(peer="carried", loop="carried")


async def test_a_proof_needs_an_allocation(server: Server) -> None:
    async with server.client() as turn, server.client() as other:
        with pytest.raises(ValueError, match="no allocation"):
            await prove_relay(turn, other, timeout_s=5)


async def test_leaving_ends_the_allocation(server: Server) -> None:
    async with server.client() as turn:
        allocation = await turn.allocate()
        assert isinstance(allocation, Allocation)
    assert turn.server is None
    assert turn.allocation is None

    def is_free() -> bool:
        with closing(socket.socket(type=socket.SOCK_DGRAM)) as again:
            try:
                again.bind(allocation.relayed)
            except OSError:
                return False
            return True

    await eventually(is_free)


async def test_a_wrong_secret_and_a_second_allocation(server: Server) -> None:
    async with server.client(secret="wrong") as turn:
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert (failure.step, failure.reason, failure.realm) == (
        Step.ALLOCATE,
        Reason.UNAUTHORIZED,
        REALM,
    )
    async with server.client() as turn:
        await turn.allocate()
        failure = await turn.allocate()
        assert isinstance(failure, Failure)
        assert failure.reason is Reason.ALLOCATION_MISMATCH


async def test_what_needs_an_allocation_says_so(server: Server) -> None:
    async with server.client() as turn:
        failures = [await turn.permit((LOOPBACK, 1)), await turn.refresh()]
    assert [failure.step for failure in failures if isinstance(failure, Failure)] == [
        Step.PERMISSION,
        Step.REFRESH,
    ]


async def test_silence_ends_at_the_deadline(server: Server) -> None:
    async with server.client() as turn:
        await turn.allocate()
        assert await turn.receive(0.02) == Failure(step=Step.RELAY, reason=Reason.TIMEOUT)


async def test_the_prober_on_the_embedded_relay(server: Server) -> None:
    urls = (server.uri("udp"), server.uri("tcp"))
    nodes = NodeList([TurnNode("a", "eu", urls)])
    settings = ProberSettings(timeout_s=5)
    prober = Prober(nodes, credential, settings, clock=time.time, chance=lambda: 0.5)
    await prober.probe_all()

    assert {h.verdict for status in nodes.statuses() for h in status.urls} == {"up"}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def walk() -> list[str]:
        settings = RelaySettings(realm=REALM, secrets=(SECRET,))
        relay = await Relay.start(settings, now_unix=time.time, monotonic=time.monotonic)
        found: list[str] = []
        for transport in ("udp", "tcp"):
            server = Server(relay.port)
            async with server.client(transport) as turn, server.client(transport) as other:
                await turn.allocate()
                found.append((await prove_relay(turn, other, timeout_s=5)).verdict)
            refused = TurnClient(parse_turn_uri(f"turn:{LOOPBACK}:{free_port()}"), credential())
            async with refused:
                failure = await refused.allocate()
            assert isinstance(failure, Failure)
            found.append(failure.reason)
        await relay.close()
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(walk()) == ["up", "refused"] * 2


# Bad servers ------------------------------------------------------------------------------------


class Scripted(asyncio.DatagramProtocol):
    """Answers each datagram as it is told."""

    def __init__(self, respond: Callable[[bytes], list[bytes]]) -> None:
        self._respond = respond
        self.heard = 0
        self.clients: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard += 1
        self.clients.append(addr[1])
        for raw in self._respond(data):
            self._transport.sendto(raw, addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def scripted(
    respond: Callable[[bytes], list[bytes]], timeout_s: float = 5
) -> AsyncIterator[tuple[TurnClient, Scripted]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Scripted(respond), local_addr=(LOOPBACK, 0)
    )
    uri = parse_turn_uri(f"turn:{LOOPBACK}:{transport.get_extra_info('sockname')[1]}")
    try:
        async with TurnClient(uri, credential(), timeout_s=timeout_s) as turn:
            yield turn, server
    finally:
        transport.close()


def challenge(request: bytes, code: int = 401) -> bytes:
    message = parse(request)
    assert message is not None
    attributes = (
        (Attribute.ERROR_CODE, error_code(code, "")),
        (Attribute.REALM, REALM.encode()),
        (Attribute.NONCE, b"nonce"),
    )
    return build(message.method, Kind.ERROR, message.transaction_id, attributes)


async def test_a_lost_request_is_sent_again() -> None:
    seen: list[bytes] = []

    def second_time(request: bytes) -> list[bytes]:
        seen.append(request)
        return [challenge(request, 486)] if len(seen) == 2 else []

    async with scripted(second_time) as (turn, _):
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.QUOTA
    assert seen[0] == seen[1]


async def test_a_port_that_the_server_remembers_is_left_for_another() -> None:
    ports: list[int] = []

    def remembers(request: bytes) -> list[bytes]:
        return [challenge(request, 486 if len(ports) == MAX_PORTS else 437)]

    async with scripted(remembers) as (turn, server):
        server.clients = ports
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.QUOTA
    assert len(set(ports)) == MAX_PORTS


async def test_other_ports_are_not_tried_for_ever() -> None:
    async with scripted(lambda request: [challenge(request, 437)]) as (turn, server):
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.ALLOCATION_MISMATCH
    assert server.heard == MAX_PORTS


async def test_a_nonce_that_is_always_stale_ends() -> None:
    async with scripted(lambda raw: [challenge(raw, 438 if b"nonce" in raw else 401)]) as (
        turn,
        server,
    ):
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.STALE_NONCE
    assert server.heard == MAX_ATTEMPTS


async def test_noise_and_strangers_answers_are_not_ours() -> None:
    def noisy(request: bytes) -> list[bytes]:
        stranger = build(Method.ALLOCATE, Kind.ERROR, b"somebodyelse", [(9, error_code(400, ""))])
        return [b"noise", stranger, challenge(request, 508)]

    async with scripted(noisy) as (turn, _):
        failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.CAPACITY


async def test_successes_without_content() -> None:
    def empty(request: bytes) -> list[bytes]:
        message = parse(request)
        assert message is not None
        return [build(message.method, Kind.SUCCESS, message.transaction_id)]

    async with scripted(empty) as (turn, _):
        outcomes = [await turn.bind(), await turn.allocate(), await turn.refresh()]
    assert [o.reason for o in outcomes if isinstance(o, Failure)] == [Reason.MALFORMED] * 3


async def test_payloads_that_arrive_before_an_answer_are_kept_within_bounds() -> None:
    from turn_broker.turn.dialogue import send_indication

    def flood(request: bytes) -> list[bytes]:
        sent = parse(send_indication((LOOPBACK, 9), b"data", b"123456789012"))
        assert sent is not None
        data = build(Method.DATA, Kind.INDICATION, b"123456789012", sent.attributes)
        return [data] * (MAX_KEPT + 10) + [challenge(request, 508)]

    async with scripted(flood) as (turn, _):
        await turn.allocate()
        kept = 0
        while isinstance(await turn.receive(0.05), Received):
            kept += 1
    assert kept == MAX_KEPT


async def test_what_a_wire_keeps_is_bounded() -> None:
    wire = Wire(is_stream=False)
    for _ in range(MAX_WAITING + 10):
        wire.datagram_received(b"x", None)
    wire.error_received(ConnectionRefusedError())
    wire.error_received(RuntimeError())
    wire.send(b"nowhere")
    await wire.close()

    assert [await wire.receive() for _ in range(MAX_WAITING)] == [b"x"] * MAX_WAITING
    assert await wire.receive() is Reason.REFUSED


@asynccontextmanager
async def listening(
    respond: Callable[[asyncio.StreamWriter], None], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A port whose connections are answered at once and kept until the client goes."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        respond(writer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, LOOPBACK, 0, ssl=tls) as listener:
        yield listener.sockets[0].getsockname()[1]
        await asyncio.gather(*serving)


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (lambda writer: writer.close(), Reason.CLOSED),
        (lambda writer: writer.transport.abort(), Reason.CLOSED),
        (lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Reason.NOT_STUN),
        (lambda writer: None, Reason.TIMEOUT),
    ],
)
async def test_streams_that_are_no_turn(
    respond: Callable[[asyncio.StreamWriter], None], reason: Reason
) -> None:
    async with listening(respond) as port:
        uri = parse_turn_uri(f"turn:{LOOPBACK}:{port}?transport=tcp")
        async with TurnClient(uri, credential(), timeout_s=1) as turn:
            failure = await turn.allocate()
    assert isinstance(failure, Failure)
    assert failure.reason is reason


async def test_nobody_there() -> None:
    port = free_port()
    for text, reason in (
        (f"turn:{LOOPBACK}:{port}", Reason.REFUSED),
        (f"turn:{LOOPBACK}:{port}?transport=tcp", Reason.REFUSED),
        (f"turns:{LOOPBACK}:{port}", Reason.REFUSED),
        (f"stuns:{LOOPBACK}:{port}", Reason.REFUSED),
        ("turn:nowhere.invalid", Reason.DNS),
        (f"turn:{'a' * 64}.test", Reason.DNS),
    ):
        async with TurnClient(parse_turn_uri(text), timeout_s=10) as turn:
            failure = await turn.bind()
        assert isinstance(failure, Failure)
        assert failure.reason is reason, text


async def test_a_tls_handshake_that_never_ends() -> None:
    with closing(socket.create_server((LOOPBACK, 0))) as listener:
        uri = parse_turn_uri(f"turns:{LOOPBACK}:{listener.getsockname()[1]}")
        async with TurnClient(uri, timeout_s=0.2) as turn:
            assert await turn.open() == Failure(step=Step.CONNECT, reason=Reason.TIMEOUT)


@pytest.mark.parametrize("name", ["127.0.0.1", "turn.example.test"])
async def test_tls_is_checked_against_the_url_and_not_the_address(
    tmp_path: Path, name: str
) -> None:
    authority = Authority(tmp_path)
    pair = authority.leaf("leaf", (name,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async with listening(lambda _: None, context) as port:
        uri = parse_turn_uri(f"turns:{name}:{port}")
        async with TurnClient(uri, timeout_s=5, tls=authority.trust(), address=LOOPBACK) as turn:
            assert await turn.open() is None
            assert turn.tls is not None
            assert turn.tls.version() == "TLSv1.3"
            assert await turn.open() is None


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        (ConnectionResetError(), Reason.CLOSED),
        (TimeoutError(), Reason.TIMEOUT),
        (OSError(101, "Network is unreachable"), Reason.UNREACHABLE),
        (ssl.SSLError(1, "[SSL: UNKNOWN] unknown"), Reason.TLS_OTHER),
    ],
)
def test_reasons_of_errors(flaw: OSError, reason: Reason) -> None:
    assert reason_of(flaw) is reason
