"""TURN clients on sockets for tests: one that speaks byte by byte, and an echoing peer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from turn_messages import Caller, code_of, parsed

from turn_broker.credentials import TurnCredential
from turn_broker.relay.framing import MAX_FRAME, StreamFrames, stream_frame
from turn_broker.relay.stun import Attribute, Endpoint, read_xor_address

DEADLINE = 20.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until it is so; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - conditions of other processes send no event
            await asyncio.sleep(0.005)


@dataclass
class RawClient:
    """One socket to a TURN server."""

    sock: socket.socket
    stream: bool
    _frames: StreamFrames

    async def send(self, raw: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sock, stream_frame(raw) if self.stream else raw)

    async def receive(self) -> bytes:
        """The next message; b"" when the server has closed the connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            while True:
                if self.stream and (frame := self._frames.next()) is not None:
                    return frame
                try:
                    chunk = await loop.sock_recv(self.sock, 65_536)
                except ConnectionError:
                    return b""
                if not self.stream or not chunk:
                    return chunk
                self._frames.feed(chunk)

    async def exchange(self, raw: bytes) -> bytes:
        """A request and its answer, which must be the next thing that comes."""
        await self.send(raw)
        answer = await self.receive()
        assert answer[4:20] == raw[4:20], answer.hex()
        return answer

    async def closed(self) -> None:
        """Waits until the server closes the connection."""
        while await self.receive():
            pass

    async def challenge(self, caller: Caller) -> None:
        """Gets a nonce."""
        caller.nonce = b""
        nonce = parsed(await self.exchange(caller.allocate())).first(Attribute.NONCE)
        assert nonce is not None
        caller.nonce = nonce

    async def allocate(self, credential: TurnCredential, realm: str) -> tuple[Caller, Endpoint]:
        """An allocation: who holds it, and its relayed address."""
        caller = Caller(credential, realm)
        await self.challenge(caller)
        raw = await self.exchange(caller.allocate())
        assert code_of(raw) == 0, code_of(raw)
        answer = parsed(raw)
        value = answer.first(Attribute.XOR_RELAYED_ADDRESS)
        assert value is not None
        relayed = read_xor_address(value, answer.transaction_id)
        assert relayed is not None
        return caller, relayed


@asynccontextmanager
async def raw_client(
    address: tuple[str, int], *, transport: str = "udp", receive_buffer: int = 0, source: str = ""
) -> AsyncIterator[RawClient]:
    """A client of the TURN server at `address`, from the address `source` if there is one."""
    stream = transport == "tcp"
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        frames = StreamFrames()
        frames.max_frame = MAX_FRAME
        yield RawClient(sock, stream, frames)


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(b"echo:" + data, addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def echo_peer(host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
    """A UDP peer that echoes; its address."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Echo, local_addr=(host, 0))
    try:
        yield transport.get_extra_info("sockname")[:2]
    finally:
        transport.close()
