"""Clients that know several nodes of one deployment: the nearest, then the next."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from coturn import LOOPBACK, free_port
from nodes import Node, start_nodes
from redis_server import start_redis
from rtc import until

from signal_server.client import SignalingClient
from signal_server.client_connect import ClientSettings
from signal_server.client_session import SessionLost
from signal_server.client_wire import NoAnswerError, NotAllowedError
from signal_server.wire import messages as wire

QUICK = ClientSettings(backoff_base_s=0.05, backoff_cap_s=0.5)
_rooms = (f"addresses-{number}" for number in itertools.count())


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    with (
        start_redis() as redis,
        start_nodes(tmp_path, redis.url, ("a", "b"), window_s=20.0, drain_s=1.0) as nodes,
    ):
        yield nodes


def nowhere() -> str:
    return f"ws://{LOOPBACK}:{free_port()}/v1/signal"


class Listener:
    """Everything that a client iterates."""

    def __init__(self, client: SignalingClient) -> None:
        self.client = client
        self.heard: list[object] = []

    async def listen(self) -> None:
        async for event in self.client:
            self.heard.append(event)

    @property
    def data(self) -> list[bytes]:
        return [bytes(each.data) for each in self.heard if isinstance(each, wire.RelayedMessage)]

    @property
    def resumed_at(self) -> list[str]:
        return [each.node for each in self.heard if isinstance(each, wire.Resumed)]


@asynccontextmanager
async def listening(client: SignalingClient) -> AsyncIterator[Listener]:
    listener = Listener(client)
    async with client:
        task = asyncio.create_task(listener.listen())
        yield listener
        task.cancel()
    assert not [each for each in listener.heard if isinstance(each, SessionLost)]


@pytest.mark.parametrize("how", ["kill", "drain"])
async def test_peer_goes_on_at_the_other_node(nodes: list[Node], how: str) -> None:
    room = next(_rooms)
    urls = [nowhere(), *(node.ws_url for node in nodes)]
    moves = SignalingClient(urls, nodes[0].token("moves"), room=room, settings=QUICK)
    async with listening(moves) as listener:
        peer = moves.peer
        gone, stays_up = sorted(nodes, key=lambda node: node.name != moves.welcome.node)
        stays = SignalingClient(stays_up.ws_url, stays_up.token("stays"), room=room)
        async with listening(stays):
            await until(lambda: peer in stays.roster.peers)
            await stays.send(peer, 0)
            await asyncio.to_thread(getattr(gone, how))
            await stays.send(peer, 1)
            await until(lambda: len(listener.data) == 2)
            assert listener.data == [b"0", b"1"]
            assert (moves.peer, listener.resumed_at) == (peer, [stays_up.name])


async def test_peer_tries_every_address_before_it_gives_up(nodes: list[Node]) -> None:
    a, _ = nodes
    with pytest.raises(NoAnswerError):
        await SignalingClient([nowhere(), nowhere()], a.token("x"), settings=QUICK).__aenter__()
    with pytest.raises(NotAllowedError):
        await SignalingClient([nowhere(), a.ws_url], "wrong", settings=QUICK).__aenter__()
