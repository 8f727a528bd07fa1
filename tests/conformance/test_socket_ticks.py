"""What happens inside one tick of the event loop: counted on a transport that only remembers."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from conformance.socket_wire import PING, PONG, TEXT, closing, masked, request

from signal_server.edge.handshake import Handshake, parse
from signal_server.edge.server import DUE_PER_TICK, SocketServer, SocketSettings
from signal_server.edge.socket import Socket
from signal_server.wire.limits import Limits

BUDGET = 16


class Remembering(asyncio.Transport):
    """Takes every write and never sends it; `stuck` bytes pretend to wait for the peer."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.stuck = 0
        self.ended = ""
        self.broken = False

    def write(self, data: Any) -> None:
        if self.broken:
            raise RuntimeError("the transport has a bug")
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "eof"

    def is_closing(self) -> bool:
        return self.ended in ("close", "abort")

    def close(self) -> None:
        self.ended = "close"

    def abort(self) -> None:
        self.ended = "abort"

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True


class Recorder:
    """An endpoint that writes everything down."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.codes: list[int] = []
        self.fail = False

    def opened(self, socket: Socket) -> None:
        return

    def received(self, socket: Socket, text: str) -> None:
        self.texts.append(text)
        if text == "close":
            socket.close(4000)

    def closed(self, socket: Socket, code: int) -> None:
        self.codes.append(code)
        assert not socket.is_open
        socket.send(b"too late")
        socket.close(4000)
        if self.fail:
            raise RuntimeError("from closed")


class World:
    def __init__(self, **limits: Any) -> None:
        self.endpoint = Recorder()
        settings = SocketSettings(limits=Limits(frames_per_tick=BUDGET, **limits))
        self.server = SocketServer({"/echo": self.endpoint}, settings)

    def open(self) -> tuple[Socket, Remembering]:
        handshake = parse(request())
        assert isinstance(handshake, Handshake)
        transport = Remembering()
        self.server.transports += 1
        socket = Socket(self.server, self.endpoint, transport, handshake, "192.0.2.1")
        socket.start(b"")
        return socket, transport


async def tick() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("frame", [masked(TEXT, b"x"), masked(PING), masked(PONG)])
async def test_a_tick_handles_no_more_frames_than_allowed(frame: bytes) -> None:
    world = World()
    socket, transport = world.open()
    socket.data_received(frame * (BUDGET * 3 + 1))
    for handled in (1, 2, 3):
        assert world.server.counters.frames_in == BUDGET * handled
        assert not transport.reading
        await tick()
    assert world.server.counters.frames_in == BUDGET * 3 + 1
    assert transport.reading


async def test_fragments_count_too() -> None:
    world = World()
    socket, transport = world.open()
    socket.data_received(masked(0x01, b"a") + masked(0x00) * BUDGET + masked(0x80, b"b"))
    assert (world.server.counters.frames_in, transport.reading) == (BUDGET, False)
    await tick()
    assert world.endpoint.texts == ["ab"]
    assert transport.reading


async def test_bytes_that_come_while_paused_are_not_lost() -> None:
    world = World()
    socket, _ = world.open()
    stream = b"".join(masked(TEXT, str(i).encode()) for i in range(BUDGET * 2))
    socket.data_received(stream[:-5])
    socket.data_received(stream[-5:])
    await tick()
    await tick()
    assert world.endpoint.texts == [str(i) for i in range(BUDGET * 2)]


async def test_one_write_per_socket_and_tick() -> None:
    world = World()
    pairs = [world.open() for _ in range(3)]
    for number in range(10):
        for socket, _ in pairs:
            socket.send(b"m%d" % number)
    assert [transport.writes for _, transport in pairs] == [[], [], []]
    await tick()
    for _, transport in pairs:
        assert transport.writes == [b"".join(b"\x81\x02m%d" % n for n in range(10))]
    assert world.server.counters.frames_out == 30


async def test_nothing_is_delivered_after_our_close_and_closed_comes_once() -> None:
    world = World()
    socket, transport = world.open()
    socket.data_received(masked(TEXT, b"close") + masked(TEXT, b"after") + masked(PING))
    socket.send(b"after")
    await tick()
    assert world.endpoint.texts == ["close"]
    assert transport.writes == [b"\x88\x02\x0f\xa0"]
    assert world.endpoint.codes == []
    socket.data_received(closing(4000) + masked(TEXT, b"after"))
    assert (world.endpoint.codes, transport.ended) == ([4000], "close")
    socket.data_received(masked(TEXT, b"after"))
    socket.connection_lost(None)
    assert world.endpoint.codes == [4000]
    assert (world.server.sockets, world.server.transports, world.server.wheel.size) == ({}, 0, 0)


async def test_a_burst_inside_one_tick_is_bounded_and_told_afterwards() -> None:
    world = World(outbound_bytes=10_000)
    socket, transport = world.open()
    transport.stuck = 20_000
    for _ in range(1000):
        socket.send(b"x" * 1000)
        assert world.endpoint.codes == []
    assert sum(map(len, transport.writes)) < 15_000
    assert not socket.is_open
    await tick()
    assert (world.endpoint.codes, transport.ended) == ([4002], "abort")
    assert world.server.counters.slow == 1
    assert world.server.counters.closed_by_us == {4002: 1}


async def test_a_burst_that_the_peer_takes_is_fine() -> None:
    world = World(outbound_bytes=10_000)
    socket, transport = world.open()
    for _ in range(100):
        socket.send(b"x" * 1000)
    await tick()
    assert socket.is_open
    assert sum(map(len, transport.writes)) == 100 * 1004


async def test_a_fault_on_one_transport_does_not_eat_the_others_messages() -> None:
    world = World()
    (bad, broken), (good, healthy) = world.open(), world.open()
    broken.broken = True
    bad.send(b"x")
    good.send(b"y")
    await tick()
    assert healthy.writes == [b"\x81\x01y"]
    assert broken.ended == "abort"
    assert world.endpoint.codes == [4099]


async def test_an_exception_in_closed_is_counted_and_contained() -> None:
    world = World()
    world.endpoint.fail = True
    socket, _ = world.open()
    socket.connection_lost(ConnectionResetError())
    assert world.endpoint.codes == [1006]
    assert world.server.counters.endpoint_errors == 1
    assert world.server.counters.lost == 1
    assert world.server.sockets == {}


async def test_the_pings_of_a_whole_node_are_spread_over_ticks() -> None:
    world = World(ping_interval_s=0.2, ping_timeout_s=0.2, handshake_timeout_s=0.2)
    transports = [world.open()[1] for _ in range(DUE_PER_TICK * 2 + 10)]
    pinged = [0]
    async with asyncio.timeout(30):
        while pinged[-1] < len(transports):
            await tick()
            count = sum(bool(transport.writes) for transport in transports)
            if count != pinged[-1]:
                pinged.append(count)
    assert max(b - a for a, b in pairwise(pinged)) <= DUE_PER_TICK
    for socket in list(world.server.sockets.values()):
        socket.connection_lost(None)
