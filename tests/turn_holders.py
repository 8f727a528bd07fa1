"""Those who hold relays of a TURN site (tests/turn_sites.py), and what they see when one ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from turn_client import RawClient, echo_peer, raw_client
from turn_messages import Caller, channel_data, code_of, parsed
from turn_sites import PATIENCE_S, Issued, TurnSite

from turn_broker.relay.stun import Attribute

CHANNEL = 0x4000
CLOSED = 0xDEAD
CUT = (437, CLOSED)
"""What a holder meets on a relay that is gone: a refusal, or a closed connection."""
UNAUTHORIZED = 401


@dataclass
class Relay:
    """An allocation, and who holds it."""

    client: RawClient
    caller: Caller

    async def refreshed(self, lifetime: int | None = None) -> int:
        """The code of a refresh; what peers sent meanwhile is passed over."""
        try:
            await self.client.send(self.caller.refresh(lifetime))
            answer = await self.client.receive()
            while answer and answer[0] & 0xC0:  # ChannelData
                answer = await self.client.receive()
        except ConnectionError:
            return CLOSED
        return code_of(answer) if answer else CLOSED

    async def ended(self) -> float:
        """Seconds until a refresh is refused."""
        began = time.monotonic()
        while await self.refreshed() not in CUT:
            assert time.monotonic() - began < PATIENCE_S, "the relay goes on"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def send(self, count: int, size: int) -> None:
        """Payload to a peer that sends back 5 bytes more of each; waits for every echo."""
        async with echo_peer() as peer:
            assert code_of(await self.client.exchange(self.caller.bind(CHANNEL, peer))) == 0
            for _ in range(count):
                await self.client.send(channel_data(CHANNEL, b"x" * size))
                assert await self.client.receive()

    async def send_until_cut(self, size: int, most: int) -> int:
        """Packets of so many bytes that went through; at most `most`."""
        async with echo_peer() as peer:
            assert code_of(await self.client.exchange(self.caller.bind(CHANNEL, peer))) == 0
            for count in range(most):
                try:
                    await self.client.send(channel_data(CHANNEL, b"x" * size))
                except ConnectionError:
                    return count
                if await self.refreshed() in CUT:
                    return count
        return most


@dataclass
class Holders:
    """TURN clients of one test; over TCP, because coturn remembers a UDP client's port."""

    site: TurnSite
    stack: AsyncExitStack

    async def relay(self, issued: Issued, node: str = "", source: str = "") -> Relay:
        client = await self.stack.enter_async_context(
            raw_client(self._address(issued, node), transport="tcp", source=source)
        )
        caller, _ = await client.allocate(issued.credential, self.site.realm)
        return Relay(client, caller)

    async def answer(self, issued: Issued, node: str = "") -> int:
        """0, or the code with which an allocation is refused; it is given back at once."""
        async with raw_client(self._address(issued, node), transport="tcp") as client:
            caller = Caller(issued.credential, self.site.realm)
            challenge = await client.exchange(caller.allocate())
            if code_of(challenge) != UNAUTHORIZED:
                return code_of(challenge)
            caller.nonce = parsed(challenge).first(Attribute.NONCE) or b""
            code = code_of(await client.exchange(caller.allocate()))
            if code == 0:
                await client.exchange(caller.refresh(0))
            return code

    async def seen(self, issued: Issued, count: int) -> None:
        """Waits until the agents report so many relays of the credential."""
        deadline = time.monotonic() + PATIENCE_S
        path = f"/v1/tokens/{issued.id}"
        while self.site.ask("GET", path).json()["usage"]["live"] < count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    def _address(self, issued: Issued, node: str) -> tuple[str, int]:
        return ("127.0.0.1", self.site.ports[node]) if node else issued.address


@asynccontextmanager
async def holders_of(site: TurnSite) -> AsyncIterator[Holders]:
    """Their connections end with the block."""
    async with AsyncExitStack() as stack:
        yield Holders(site, stack)
