"""Hostile peers against `parley serve`: each gets a coded no, and its neighbours notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from rtc import traceless, until
from servers import Server, cpu_s, rates_toml, start_serve

from signal_server.client import SignalingClient
from signal_server.client_connect import ClientSettings
from signal_server.client_wire import SignalingError
from signal_server.wire import messages as wire
from signal_server.wire.codes import CloseCode
from signal_server.wire.limits import Limits

TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A
CONTINUATION, TEXT_BEGINS = 0x00, 0x01
PROMPT_S = 1.0
"""The most that the server may work before it relays a neighbour's message, in processor time."""
FLOOD_FRAMES = 1_000_000
PATIENCE = ClientSettings(request_timeout_s=30.0)
_SECRETS = {name: secrets.token_hex(32) for name in ("turn", "key-1", "key-2", "auth")}
ACCOUNT = {number: f"AC{number}" + "0" * 31 for number in (1, 2)}
KEY = {number: f"SK{number}" + "0" * 31 for number in (1, 2)}

CONFIG = f"""
[server]
port = 0
drain_s = 0

[limits]
hello_timeout_s = 3.0
handshake_timeout_s = 3.0

[guesses]
first_delay_s = 0
failures = 1000

{rates_toml()}

[turn]
secret = "{_SECRETS["turn"]}"
urls = ["turn:192.0.2.1:3478"]

[[accounts]]
sid = "{ACCOUNT[1]}"
auth_token = "{_SECRETS["auth"]}"
keys = [{{sid = "{KEY[1]}", secret = "{_SECRETS["key-1"]}"}}]

[[accounts]]
sid = "{ACCOUNT[2]}"
auth_token = "{_SECRETS["auth"]}x"
keys = [{{sid = "{KEY[2]}", secret = "{_SECRETS["key-2"]}"}}]
"""


def token(account: int = 1, *, key: str | None = None, **changes: Any) -> str:
    """An access token; `changes` replace claims, or drop them with None."""
    now = int(time.time())
    claims = {
        "iss": ACCOUNT[account],
        "aud": "parley",
        "sub": "mallory",
        "iat": now,
        "exp": now + 86_400,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    secret = key or _SECRETS[f"key-{account}"]
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": KEY[account]})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_serve(CONFIG) as server:
        yield server
        assert server.metric("signaling_internal_errors_total") == 0
        assert traceless(server.log_file)
        assert "eyJ" not in server.log(), "no token in the log"


class Neighbours:
    """Two well-behaved peers that keep talking to each other."""

    def __init__(self, server: Server, one: SignalingClient, other: SignalingClient) -> None:
        self.one = one
        self.other = other
        self._server = server

    async def slowest_relay_s(self, messages: int = 20) -> float:
        """Relay messages there and back, one after another; the longest one way, in CPU time."""
        slowest = 0.0
        for number in range(messages):
            for sender, receiver in ((self.one, self.other), (self.other, self.one)):
                began = cpu_s(self._server.pid)
                await sender.send(receiver.peer, number)
                async for message in receiver:
                    if isinstance(message, wire.RelayedMessage) and message.sender == sender.peer:
                        break
                slowest = max(slowest, cpu_s(self._server.pid) - began)
        return slowest

    async def slowest_relay_until(self, attack: asyncio.Task[Any]) -> float:
        slowest = await self.slowest_relay_s()
        while not attack.done():
            slowest = max(slowest, await self.slowest_relay_s(1))
        return slowest


@pytest.fixture
async def neighbours(server: Server) -> AsyncIterator[Neighbours]:
    async with (
        SignalingClient(server.ws_url, token(sub="ann"), room="home", settings=PATIENCE) as one,
        SignalingClient(server.ws_url, token(sub="bob"), room="home", settings=PATIENCE) as other,
    ):
        await until(lambda: other.peer in one.roster.peers)
        neighbours = Neighbours(server, one, other)
        yield neighbours
        assert await neighbours.slowest_relay_s() < PROMPT_S


class Raw:
    """A WebSocket of bare frames, which may break every rule."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, first: int, payload: bytes = b"") -> None:
        """One frame with a zero mask."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", first, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, 0xFE, size)
        else:
            head = struct.pack("!BBQ", first, 0xFF, size)
        self.writer.write(head + bytes(4) + payload)

    def say(self, text: str) -> None:
        self.send(TEXT, text.encode())

    def hello(self, **fields: Any) -> None:
        self.say(json.dumps({"type": "hello", "id": "hello", "token": token(), **fields}))

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def message(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these types."""
        async with asyncio.timeout(10):
            while True:
                opcode, payload = await self.frame()
                assert opcode == 1, (opcode, payload)
                message: dict[str, Any] = json.loads(payload)
                if message["type"] in kinds:
                    return message

    async def end(self) -> tuple[list[str], int | None]:
        """The error codes up to the end, and the close code; None for a bare disconnect."""
        errors: list[str] = []
        try:
            async with asyncio.timeout(20):
                while True:
                    opcode, payload = await self.frame()
                    if opcode == 8:
                        return errors, struct.unpack("!H", payload[:2])[0]
                    if opcode == 1 and (message := json.loads(payload))["type"] == "error":
                        errors.append(message["code"])
        except (asyncio.IncompleteReadError, ConnectionError):
            return errors, None

    async def is_welcome(self) -> None:
        """The session still works."""
        self.say('{"type":"ping","t":4}')
        assert (await self.message("pong"))["t"] == 4


@asynccontextmanager
async def raw(server: Server, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    at = urlsplit(server.url)
    tcp = socket.socket()
    if receive_buffer is not None:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    tcp.setblocking(False)
    await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", at.port))
    reader, writer = await asyncio.open_connection(sock=tcp)
    try:
        writer.write(
            b"GET /v1/signal HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: parley.v1.json\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def guest(server: Server, **fields: Any) -> AsyncIterator[Raw]:
    """A raw connection that has been let in."""
    async with raw(server) as connection:
        connection.hello(**fields)
        await connection.message("ok")
        yield connection


BAD_MESSAGES = {
    "not JSON": "hello?",
    "empty": "",
    "half JSON": '{"type":"ping"',
    "two": '{"type":"ping"}{"type":"ping"}',
    "array": "[]",
    "null": "null",
    "number": "1",
    "no type": "{}",
    "unknown type": '{"type":"sudo"}',
    "type of wrong type": '{"type":7}',
    "wrong types": '{"type":"offer","to":5,"sdp":[]}',
    "missing fields": '{"type":"offer"}',
    "id of wrong type": '{"type":"ping","id":{}}',
    "id too long": json.dumps({"type": "ping", "id": "x" * 65}),
    "NaN": '{"type":"ping","t":NaN}',
    "Infinity": '{"type":"message","data":-Infinity}',
    "huge number": '{"type":"applied","to":"x","negotiation":1e400}',
    "long integer": '{"type":"ping","t":' + "9" * 5000 + "}",
    "lone surrogate": '{"type":"message","data":"\\ud800"}',
    "lone surrogate as key": '{"type":"message","data":{"\\udfff":1}}',
    "control character": '{"type":"join","room":"a\\u0000b"}',
    "room too long": json.dumps({"type": "join", "room": "r" * 129}),
    "deep": '{"type":"message","data":' + "[" * 100_000,
    "deep and closed": '{"type":"message","data":' + "[" * 60_000 + "]" * 60_000 + "}",
    "deep where nobody looks": '{"type":"ping","x":' + '{"x":' * 20_000 + "1" + "}" * 20_001,
    "candidate of wrong type": '{"type":"candidate","to":"x","candidate":7}',
    "candidate without mid": '{"type":"candidate","to":"%s","candidate":{"candidate":"c"}}',
}


async def test_peer_hostile_messages_are_refused(server: Server, neighbours: Neighbours) -> None:
    """One after another on one session, which goes on."""
    async with guest(server, room="home") as mallory:
        for what, text in BAD_MESSAGES.items():
            mallory.say(text.replace("%s", neighbours.one.peer))
            error = await mallory.message("error")
            assert error["code"] == "bad_request", what
            assert not error.get("retryable"), what
            await mallory.is_welcome()
    assert await neighbours.slowest_relay_s() < PROMPT_S


async def test_peer_hostile_message_gets_its_id_back(server: Server) -> None:
    async with guest(server) as mallory:
        mallory.say('{"type":"offer","id":"mine","to":5}')
        assert (await mallory.message("error"))["id"] == "mine"


async def test_peer_hostile_payload_reaches_nobody(server: Server, neighbours: Neighbours) -> None:
    """What a strict receiver could not parse is not relayed; what it can is, unchanged."""
    async with guest(server, room="home") as mallory:
        for data in ("NaN", '"\\ud800"', "[" * 65 + "]" * 65, '"\\ud83d\\ude00"'):
            mallory.say(f'{{"type":"message","to":"{neighbours.one.peer}","data":{data}}}')
        async with asyncio.timeout(10):
            async for message in neighbours.one:
                if isinstance(message, wire.RelayedMessage):
                    assert json.loads(bytes(message.data)) == "\U0001f600"
                    assert message.identity == "mallory"
                    break


async def test_peer_hostile_forged_sender_is_ignored(
    server: Server, neighbours: Neighbours
) -> None:
    async with guest(server, room="home") as mallory:
        forged = {"from": neighbours.other.peer, "identity": "bob", "seq": 1}
        mallory.say(json.dumps({"type": "message", "to": neighbours.one.peer, "data": 1, **forged}))
        async with asyncio.timeout(10):
            async for message in neighbours.one:
                if isinstance(message, wire.RelayedMessage):
                    assert message.identity == "mallory"
                    assert message.sender != neighbours.other.peer
                    break


@pytest.mark.parametrize(
    ("first", "payload", "code"),
    [
        (BINARY, b"\x00\x01", CloseCode.UNSUPPORTED_DATA),
        (TEXT, b'{"type":"ping","t":"\xed\xa0\x80"}', CloseCode.INVALID_TEXT),
        (TEXT, b"\xff", CloseCode.INVALID_TEXT),
        (TEXT, b'"' + b"x" * Limits().message_bytes + b'"', CloseCode.TOO_BIG),
        (0xF1, b"", CloseCode.PROTOCOL),
        (CONTINUATION, b"", CloseCode.PROTOCOL),
    ],
    ids=["binary", "surrogate in UTF-8", "not UTF-8", "too big", "reserved bits", "no beginning"],
)
async def test_peer_hostile_frames_end_the_connection(
    server: Server, neighbours: Neighbours, first: int, payload: bytes, code: CloseCode
) -> None:
    async with guest(server) as mallory:
        mallory.send(first, payload)
        assert await mallory.end() == ([], code)
    assert await neighbours.slowest_relay_s() < PROMPT_S


async def test_peer_hostile_fragments_over_the_limit(server: Server) -> None:
    async with guest(server) as mallory:
        mallory.send(TEXT_BEGINS, b'"')
        for _ in range(5):
            mallory.send(CONTINUATION, b"x" * (Limits().message_bytes // 4))
        assert await mallory.end() == ([], CloseCode.TOO_BIG)


async def test_peer_hostile_message_before_hello(server: Server, neighbours: Neighbours) -> None:
    async with raw(server) as mallory:
        mallory.say(json.dumps({"type": "message", "to": neighbours.one.peer, "data": 1}))
        assert await mallory.end() == (["unauthenticated"], CloseCode.UNAUTHENTICATED)


BAD_TOKENS = {
    "no token": None,
    "garbage": "garbage",
    "not ASCII": "\u2603.\u2603.\u2603",
    "wrong secret": token(key="0" * 64),
    "other account's key": token(1, key=_SECRETS["key-2"]),
    "other account's name": token(2, iss=ACCOUNT[1]),
    "other audience": token(aud="elsewhere"),
    "no expiry": token(exp=None),
    "no subject": token(sub=None),
    "expiry far off": token(exp=10**400),
    "alg none": jwt.encode(
        {"iss": ACCOUNT[1], "aud": "parley", "sub": "mallory", "exp": int(time.time()) + 86_400},
        "",
        algorithm="none",
        headers={"kid": KEY[1]},
    ),
    "long": token(name="n" * 20_000),
}


@pytest.mark.parametrize("what", BAD_TOKENS)
async def test_peer_hostile_token_is_refused(server: Server, what: str) -> None:
    async with raw(server) as mallory:
        mallory.hello(token=BAD_TOKENS[what], room="home")
        assert await mallory.end() == (["unauthenticated"], CloseCode.UNAUTHENTICATED)


async def test_peer_hostile_expired_token_says_so(server: Server) -> None:
    async with raw(server) as mallory:
        mallory.hello(token=token(exp=int(time.time()) - 3600))
        assert await mallory.end() == (["token_expired"], CloseCode.TOKEN_EXPIRED)
    with pytest.raises(SignalingError, match="token_expired"):
        await SignalingClient(
            server.ws_url, token(exp=int(time.time()) - 3600), settings=PATIENCE
        ).__aenter__()


@pytest.mark.parametrize(
    ("account", "room"), [(1, "elsewhere"), (2, "home")], ids=["other room", "other account"]
)
async def test_peer_hostile_stranger_cannot_reach_the_room(
    server: Server, neighbours: Neighbours, account: int, room: str
) -> None:
    """The same answer as for a peer that does not exist, so that ids cannot be tried out."""
    target = neighbours.one.peer
    async with guest(server, token=token(account), room=room) as mallory:
        for message in (
            {"type": "offer", "sdp": "v=0"},
            {"type": "answer", "sdp": "v=0"},
            {"type": "candidate", "candidate": None},
            {"type": "applied", "negotiation": 1},
            {"type": "message", "data": 1},
            {"type": "state", "state": "connected"},
            {"type": "renegotiate"},
        ):
            replies = []
            for to in (target, "p_does_not_exist"):
                mallory.say(json.dumps({"to": to, **message}))
                error = await mallory.message("error")
                replies.append((error["code"], error["message"]))
            assert replies[0][0] == "not_found"
            assert replies[0] == replies[1]
        mallory.say('{"type":"message","data":"to all"}')
        await mallory.is_welcome()
    await neighbours.one.ping()
    assert [each for each in drained(neighbours.one) if isinstance(each, wire.RelayedMessage)] == []


def drained(client: SignalingClient) -> list[Any]:
    queue = client._incoming
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def test_peer_hostile_token_for_one_room_opens_no_other(server: Server) -> None:
    async with guest(server, token=token(room="mine-*"), room="mine-1") as mallory:
        mallory.say('{"type":"join","room":"home"}')
        assert (await mallory.message("error"))["code"] == "forbidden"
        mallory.say('{"type":"join","id":2,"room":"mine-2"}')
        assert (await mallory.message("ok"))["room"] == "mine-2"


FLOODS = {
    "empty text": (TEXT, b"", True),
    "ping": (PING, b"", False),
    "pong": (PONG, b"", False),
    "continuation": (CONTINUATION, b"", False),
    "app ping": (TEXT, b'{"type":"ping"}', False),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_peer_hostile_flood_of_tiny_frames(
    server: Server, neighbours: Neighbours, what: str
) -> None:
    """Measured until the server has worked off the last frame, or has cut the connection."""
    first, payload, is_cut = FLOODS[what]
    frame = struct.pack("!BB", first, 0x80 | len(payload)) + bytes(4) + payload
    frames = FLOOD_FRAMES if not payload else FLOOD_FRAMES // 10
    async with guest(server, room="home") as mallory:
        if first == CONTINUATION:
            mallory.send(TEXT_BEGINS, b"")
        attack = asyncio.create_task(flooded(mallory, frame, frames))
        slowest = await neighbours.slowest_relay_until(attack)
        assert await attack == is_cut
        assert slowest < PROMPT_S


async def flooded(mallory: Raw, frame: bytes, frames: int) -> bool:
    """Send the frames and read all answers; whether the connection was cut for it."""

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(frames // 10_000):
                mallory.writer.write(frame * 10_000)
                await mallory.writer.drain()
            if frame[0] == CONTINUATION:
                mallory.send(CONTINUATION | 0x80)
            mallory.say('{"type":"ping","t":-1}')

    sending = asyncio.create_task(send())
    seen = b""
    try:
        while b'"t":-1' not in seen and (some := await mallory.reader.read(1 << 16)):
            # A million pongs are told from the rest without looking at each.
            seen = (seen + some).replace(b"\x8a\x00", b"")[-256:]
            if b"\x89\x00" in seen:
                mallory.send(PONG)
    except ConnectionError:
        return True
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return b'"t":-1' not in seen


async def test_peer_hostile_client_that_stops_reading(
    server: Server, neighbours: Neighbours
) -> None:
    """It is cut when its share of memory is used up, and the room hears of it."""
    before = server.metric("signaling_slow_consumer_closes_total")
    async with raw(server, receive_buffer=4096) as mallory:
        mallory.hello(room="home")
        name = (await mallory.message("welcome"))["peer"]
        await mallory.message("ok")
        await until(lambda: name in neighbours.one.roster.peers)
        mallory.writer.transport.pause_reading()  # type: ignore[attr-defined]
        text = "x" * 60_000
        sent = 0
        peers = neighbours.one.roster.peers
        while peers[name].connected:
            with contextlib.suppress(SignalingError):
                await neighbours.one.send(name, text)
            sent += 1
            assert sent < 500, "30 MB wait for somebody who does not read"
        assert await neighbours.slowest_relay_s() < PROMPT_S
    assert server.metric("signaling_slow_consumer_closes_total") == before + 1


async def test_peer_hostile_silence_is_timed(server: Server, neighbours: Neighbours) -> None:
    """A handshake that never ends, one that drips, and a connection that never says hello."""
    at = urlsplit(server.url)

    async def half_a_handshake() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /v1/signal HTTP/1.1\r\nHost: x\r\nUpgrade: websoc")
        answer = await reader.read()
        writer.close()
        return answer

    async def dripping_handshake() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /v1/signal HTTP/1.1\r\n")
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait([answer], timeout=0.1)
        writer.close()
        return answer.result()

    async def no_handshake() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        answer = await reader.read()
        writer.close()
        return answer

    async def no_hello() -> tuple[list[str], int | None]:
        async with raw(server) as mallory:
            return await mallory.end()

    async with asyncio.timeout(30):
        half, dripping, silent, wordless = await asyncio.gather(
            half_a_handshake(), dripping_handshake(), no_handshake(), no_hello()
        )
    assert half.startswith(b"HTTP/1.1 408 ")
    assert dripping.startswith(b"HTTP/1.1 408 ")
    assert silent == b"" or silent.startswith(b"HTTP/1.1 408 ")
    assert wordless == (["unauthenticated"], CloseCode.UNAUTHENTICATED)
    assert await neighbours.slowest_relay_s() < PROMPT_S


async def test_peer_hostile_malformed_messages_end_some_day(server: Server) -> None:
    async with guest(server) as mallory:
        for _ in range(2000):
            mallory.say("?")
        errors, code = await mallory.end()
        assert code in (CloseCode.PROTOCOL_ERROR, CloseCode.RATE_LIMITED)
        assert set(errors) == {"bad_request"}
