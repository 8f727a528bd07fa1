"""The HTTP fallback on a node of several workers: whichever of them a request reaches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import httpx
import pytest
from links import Talker
from nodes import Node, config, token
from redis_server import start_redis

WORKERS = 3
MESSAGES = 12
_rooms = (f"workers-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("workers")
    with start_redis() as redis:
        quick = "ping_interval_s = 1.0\nping_timeout_s = 4.0"
        node = Node(home, "many", config(redis.url, drain_s=0.5, more=quick))
        node.start("--workers", str(WORKERS))
        try:
            yield node
            assert "Traceback" not in node.log_file.read_text()
        finally:
            node.drain()


async def all_workers(node: Node) -> None:
    """The port is open as soon as one of them is ready."""
    names: set[str] = set()
    async with asyncio.timeout(20):
        while len(names) < WORKERS:
            async with httpx.AsyncClient(base_url=node.url) as http:
                names.add((await http.get("/v1/probes/ping")).json()["node"])


@pytest.mark.parametrize("way", ["long-poll", "sse"])
async def test_a_conversation_over_many_connections(node: Node, way: str) -> None:
    await all_workers(node)
    room = next(_rooms)
    ann, bob = Talker(node.url, token("ann")), Talker(node.url, token("bob"))
    for talker, how in ((ann, "websocket"), (bob, way)):
        assert (await talker.hello(how, room=room))["type"] == "welcome"
    await ann.sees("peer_joined")
    path, secret = f"/v1/sessions/{bob.session}", {"Authorization": f"Bearer {bob.secret}"}
    for number in range(MESSAGES):
        await ann.ask("message", to=bob.peer, data=number)
        # A connection of its own each time, so that the kernel chooses anew.
        async with httpx.AsyncClient(base_url=node.url, headers=secret) as http:
            said = {"type": "message", "to": ann.peer, "data": number, "id": f"x{number}"}
            reply = await http.post(f"{path}/messages", json=[said])
            assert (reply.status_code, reply.json()["results"][0]["type"]) == (200, "ok")
    for talker in (ann, bob):
        await talker.sees("message", MESSAGES)
        assert [each["data"] for each in talker.of_type("message")] == list(range(MESSAGES))
    assert bob.link.ended == ""
    async with httpx.AsyncClient(base_url=node.url) as http:
        assert (
            await http.delete(path, headers={"Authorization": "Bearer wrong"})
        ).status_code == 401
        assert (await http.get(f"{path}x/messages", headers=secret)).status_code == 404
        assert (await http.delete(path, headers=secret)).status_code == 204
    assert (await ann.sees("peer_left"))["reason"] == "left"
    await asyncio.gather(ann.link.cut(), bob.link.cut())


async def test_a_client_that_vanishes_is_noticed(node: Node) -> None:
    """Also where its request had been passed on."""
    room = next(_rooms)
    ann = Talker(node.url, token("ann"))
    await ann.hello("websocket", room=room)
    bobs = [Talker(node.url, token(f"bob{number}")) for number in range(4)]
    for bob in bobs:
        await bob.hello("long-poll", room=room)
    await ann.sees("peer_joined", len(bobs))
    for bob in bobs:
        await bob.link.cut()
    await ann.sees("peer_updated", len(bobs))
    assert {each["connected"] for each in ann.of_type("peer_updated")} == {False}
    await ann.link.cut()
