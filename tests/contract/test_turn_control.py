"""What a node agent may expect of a TURN server: one suite for the relay and for a real coturn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from coturn import has_coturn
from coturn_node import REALM, SECRET, coturn_node
from turn_client import DEADLINE, RawClient, echo_peer, raw_client
from turn_messages import Caller, code_of

from turn_broker.credentials import TurnCredential, mint
from turn_broker.fleet.turn_control import (
    ControlLost,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    SessionUsed,
    TurnControl,
)
from turn_broker.relay.control import RelayControl
from turn_broker.relay.server import Relay, RelaySettings


@dataclass
class Server:
    """A TURN server under control."""

    address: tuple[str, int]
    control: TurnControl
    end: Callable[[], None] | None = None

    def credential(self, who: str = "alice.one", secret: str = SECRET) -> TurnCredential:
        return mint(secret, who, int(time.time()) + 600)


@dataclass
class Seen:
    """The events so far, read in the background."""

    control: TurnControl
    events: list[SessionEvent] = field(default_factory=list)
    lost: str = ""

    async def read(self) -> None:
        try:
            async with aclosing(self.control.events()) as events:
                async for event in events:
                    self.events.append(event)
        except ControlLost as flaw:
            self.lost = str(flaw)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - files and other processes send no event
                await asyncio.sleep(0.005)

    def of(self, kind: type) -> list[SessionEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def opened(self, count: int) -> SessionOpened:
        await self.until(lambda: len(self.of(SessionOpened)) >= count)
        last = self.of(SessionOpened)[-1]
        assert isinstance(last, SessionOpened)
        return last

    async def closed(self, session: str) -> None:
        await self.until(lambda: SessionClosed(session=session) in self.events)


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
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "relay":
        settings = RelaySettings(realm=REALM, secrets=(SECRET,))
        relay = await Relay.start(settings, now_unix=time.time, monotonic=time.monotonic)
        control = RelayControl(relay)
        try:
            yield Server(("127.0.0.1", relay.port), control)
        finally:
            await control.close()
            await relay.close()
        return
    with coturn_node() as node:
        by_console = node.control()
        try:
            yield Server(node.address, by_console, node.stop)
        finally:
            await by_console.close()


@pytest.fixture
async def seen(server: Server) -> AsyncIterator[Seen]:
    seen = Seen(server.control)
    reading = asyncio.create_task(seen.read())
    try:
        # Events are being followed for sure once one of a first client has been seen.
        async with raw_client(server.address) as client:
            await client.allocate(server.credential("first.one"), REALM)
            first = await seen.opened(1)
            await server.control.cut(first.session)
            await seen.closed(first.session)
        seen.events.clear()
        yield seen
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _exchange(client: RawClient, caller: Caller, payloads: list[bytes]) -> None:
    async with echo_peer() as peer:
        assert code_of(await client.exchange(caller.permit(peer))) == 0
        for payload in payloads:
            await client.send(caller.send(peer, payload))
            await client.receive()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_session_opens_is_used_and_closes(
    server: Server, seen: Seen, transport: str
) -> None:
    async with raw_client(server.address, transport=transport) as client:
        credential = server.credential()
        caller, _ = await client.allocate(credential, REALM)
        opened = await seen.opened(1)
        assert opened == SessionOpened(
            session=opened.session,
            username=credential.username,
            client="127.0.0.1",
            transport=transport,
        )
        await _exchange(client, caller, [b"x" * 100] * 5)
        assert code_of(await client.exchange(caller.refresh(0))) == 0
    await seen.closed(opened.session)
    used = [event for event in seen.events if isinstance(event, SessionUsed)]
    assert {event.session for event in used} == {opened.session}
    assert sum(event.sent_bytes for event in used) == 500
    assert sum(event.received_bytes for event in used) == 525
    assert seen.events[-1] == SessionClosed(session=opened.session)


async def test_events_begin_with_what_exists(server: Server, seen: Seen) -> None:
    async with raw_client(server.address) as client:
        await client.allocate(server.credential(), REALM)
        opened = await seen.opened(1)
        assert opened.age_s is None
        anew = Seen(server.control)
        await asyncio.sleep(0)
        reading = asyncio.create_task(anew.read())
        again = await anew.opened(1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert again.session == opened.session
        assert again.age_s in range(5)


async def test_a_cut_ends_one_session_at_once(server: Server, seen: Seen) -> None:
    async with raw_client(server.address) as client, raw_client(server.address) as other:
        caller, _ = await client.allocate(server.credential(), REALM)
        session = (await seen.opened(1)).session
        unharmed, _ = await other.allocate(server.credential("bob.one"), REALM)
        await seen.opened(2)
        assert await server.control.cut(session)
        await seen.closed(session)
        # coturn has forgotten the client altogether, its nonce included.
        assert code_of(await client.exchange(caller.refresh())) in (437, 438)
        assert code_of(await other.exchange(unharmed.refresh())) == 0
        assert not await server.control.cut(session)
        assert not await server.control.cut("no session")


async def test_exactly_the_secrets_verify(server: Server) -> None:
    async def code(secret: str) -> int:
        async with raw_client(server.address) as client:
            caller = Caller(server.credential(secret=secret), REALM)
            await client.challenge(caller)
            return code_of(await client.exchange(caller.allocate()))

    await server.control.set_secrets((SECRET, "another"))
    assert [await code(secret) for secret in (SECRET, "another", "third")] == [0, 0, 401]
    await server.control.set_secrets(("third",))
    assert [await code(secret) for secret in (SECRET, "another", "third")] == [401, 401, 0]


async def test_draining_refuses_new_allocations_only(server: Server) -> None:
    async with raw_client(server.address) as client, raw_client(server.address) as late:
        await server.control.drain(False)
        caller, _ = await client.allocate(server.credential(), REALM)
        newcomer = Caller(server.credential("bob.one"), REALM)
        for _ in range(2):
            await server.control.drain(True)
        await late.challenge(newcomer)
        assert code_of(await late.exchange(newcomer.allocate())) in (300, 401, 486, 508)
        assert code_of(await client.exchange(caller.refresh())) == 0
        for _ in range(2):
            await server.control.drain(False)
        await late.challenge(newcomer)
        assert code_of(await late.exchange(newcomer.allocate())) == 0


async def test_a_lost_server_ends_the_events(server: Server, seen: Seen) -> None:
    async with raw_client(server.address) as client:
        await client.allocate(server.credential(), REALM)
        await seen.opened(1)
        if server.end is None:
            await server.control.close()
        else:
            server.end()
        await seen.until(lambda: bool(seen.lost))


async def test_the_software_is_named(server: Server, seen: Seen) -> None:
    async with raw_client(server.address) as client:
        await client.allocate(server.credential(), REALM)
        await seen.opened(1)
    assert server.control.software in ("embedded", "coturn 4.6.1")
