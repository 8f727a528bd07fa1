"""What coturn's console says, and what is never said to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from turn_broker.coturn import console as module
from turn_broker.coturn.console import Console, ListedSession, parse_sessions
from turn_broker.fleet.turn_control import ControlLost

LISTING = """
    1) id=000000000000000003, user <1795272830:a.b>:
      realm: parley.test
      started 12 secs ago
      expiring in 600 secs
      client protocol UDP, relay protocol UDP
      client addr 127.0.0.1:58779, server addr 127.0.0.1:36653
      relay addr 127.0.0.1:20483
      usage: rp=3, rb=264, sp=2, sb=216
      peers:
          127.0.0.1

    2) id=001000000000000001, user <1795272830:c.d>:
      started 0 secs ago
      client protocol TLS, relay protocol UDP
      client addr [2001:db8::7]:36734, server addr [::1]:36653

  Total sessions: 2
"""


def test_the_list_of_sessions() -> None:
    assert list(parse_sessions(LISTING)) == [
        ListedSession(
            session="000000000000000003",
            username="1795272830:a.b",
            age_s=12,
            client="127.0.0.1",
            transport="udp",
        ),
        ListedSession(
            session="001000000000000001",
            username="1795272830:c.d",
            client="2001:db8::7",
            transport="tls",
        ),
    ]
    assert list(parse_sessions("\n  Total sessions: 0\n")) == []


@pytest.mark.parametrize(
    "command", ["", "stop", "psd /tmp/x", "ps\r\nstop", "ps a b", "cs 1;2", "cs x", "aas host:1"]
)
async def test_only_our_commands_are_sent(command: str) -> None:
    with pytest.raises(ValueError, match="not a command"):
        await Console(1, "pw").run(command)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake(serve: Serve) -> AsyncIterator[Console]:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    console = Console(server.sockets[0].getsockname()[1], "pw")
    try:
        yield console
    finally:
        await console.close()
        server.close()
        await server.wait_closed()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"TURN Server\r\nCoturn-4.6.1 'Gorst'\r\n\r\nEnter password: \r\n")
    assert await reader.readline() == b"pw\r\n"
    writer.write(b"> ")


async def test_one_answer_for_each_command_on_one_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        while line := await reader.readline():
            writer.write(b"you said " + line)
            await writer.drain()
            writer.write(b"> ")

    async with fake(serve) as console:
        answers = await asyncio.gather(*(console.run(f"cs {n}") for n in range(5)))
        assert [answer.split()[3] for answer in answers] == list("01234")
        assert console.version == (4, 6, 1)
        assert console.is_connected


async def test_a_wrong_password_is_said() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Enter password: \r\n")
        await reader.readline()
        writer.write(b"Enter password: \r\n")
        await reader.readline()

    async with fake(serve) as console:
        with pytest.raises(ControlLost, match="password"):
            await console.connect()
        assert not console.is_connected


async def test_a_closed_console_is_connected_anew() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readline()

    async with fake(serve) as console:
        for _ in range(2):
            with pytest.raises(ControlLost, match="answer"):
                await console.run("ps")


async def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.read()

    async with fake(serve) as console:
        with pytest.raises(ControlLost, match="answer"):
            await console.run("ps")


async def test_an_endless_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readline()
        while not writer.is_closing():
            writer.write(b"x" * 100)
            await writer.drain()

    async with fake(serve) as console:
        with pytest.raises(ControlLost):
            await console.run("ps")


async def test_a_cancelled_command_leaves_no_answer_behind() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await greet(reader, writer)
        await reader.readline()
        if connections > 1:
            writer.write(b"fine\r\n> ")
        await reader.read()

    async with fake(serve) as console:
        await console.connect()
        asking = asyncio.create_task(console.run("ps"))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await console.run("ps") == "fine\r\n> "


async def test_nobody_listens() -> None:
    with pytest.raises(ControlLost, match="reached"):
        await Console(1, "pw").connect()
