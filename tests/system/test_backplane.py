"""Three nodes and one Redis as one deployment: who sees what, and what remains of the dead."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_peers import Peer, peer, ticket
from nodes import Node, start_nodes, token
from redis_server import RedisServer, start_redis
from rtc import until
from websockets.asyncio.client import connect

WINDOW_S = 12.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with start_redis() as redis:
        yield redis


@pytest.fixture
def nodes(redis: RedisServer, tmp_path: Path) -> Iterator[list[Node]]:
    with start_nodes(tmp_path, redis.url, window_s=WINDOW_S, drain_s=1.0) as nodes:
        yield nodes


async def test_a_room_spans_nodes_and_every_node_administers_it(nodes: list[Node]) -> None:
    a, b, c = nodes
    async with peer(a, "alice") as alice, peer(b, "bob") as bob:
        assert (alice.welcome["node"], bob.welcome["node"]) == ("a", "b")
        joined = await alice.hear("peer_joined", identity="bob")
        assert joined["peer"] == bob.welcome["peer"]
        for number in range(50):
            await alice.say("message", to=bob.welcome["peer"], data=number)
        await until(lambda: len(bob.numbers()) == 50)
        assert bob.numbers() == list(range(50))
        shown = await asyncio.to_thread(c.admin, "GET", "/v1/rooms/r")
        assert isinstance(shown, dict)
        assert {m["identity"] for m in shown["members"]} == {"alice", "bob"}
        await asyncio.to_thread(
            c.admin, "DELETE", f"/v1/rooms/r/peers/{bob.welcome['peer']}?ban_s=60"
        )
        await until(lambda: bob.closed_with == 4503)
        await alice.hear("peer_left", identity="bob", reason="kicked")
        async with connect(a.ws_url) as socket:
            banned = Peer(socket)
            await banned.say("hello", token=token("bob"), room="r", id=1)
            assert (await banned.hear("error"))["code"] == "forbidden"
            await banned.end()


async def test_a_call_rings_on_devices_of_two_nodes(nodes: list[Node]) -> None:
    a, b, c = nodes
    async with (
        peer(a, "alice", None) as alice,
        peer(b, "bob", None) as phone,
        peer(c, "bob", None) as desk,
    ):
        call = (await alice.ask("call_invite", 1, to="bob", media={"audio": True}))["call"]
        await phone.hear("call_invite", call=call)
        await desk.hear("call_invite", call=call)
        assert (await desk.ask("call_accept", 1, call=call))["type"] == "ok"
        accepted = await alice.hear("call_accepted", call=call)
        assert accepted["device"] == desk.welcome["peer"]
        ended = await phone.hear("call_ended", call=call)
        assert ended["reason"] == "answered_elsewhere"
        await alice.hear("room", room=accepted["room"])
        await alice.say("message", to=desk.welcome["peer"], data=1)
        await desk.hear("message", data=1)


@pytest.mark.parametrize("victim", [0, 1], ids=["home", "another"])
async def test_a_killed_node_loses_nothing(nodes: list[Node], victim: int) -> None:
    """Node a is the home, for it had the first client."""
    dead = nodes[victim]
    rest = [node for node in nodes if node is not dead]
    async with peer(nodes[0], "first", "other"), peer(rest[0], "alice") as alice:
        async with peer(dead, "bob") as bob:
            await alice.hear("peer_joined", identity="bob")
            resume = ticket(bob)
            address = bob.welcome["peer"]
            killed_at = time.monotonic()
            await asyncio.to_thread(dead.kill)
        for number in range(20):
            answer = await alice.ask("message", 100 + number, to=address, data=number)
            assert answer["type"] == "ok"
        async with peer(rest[1], "bob", None, resume=resume) as again:
            assert again.welcome["node"] == rest[1].name
            await until(lambda: len(again.numbers()) == 20)
            assert again.numbers() == list(range(20))
            assert time.monotonic() - killed_at < 8
            await again.say("message", to=alice.welcome["peer"], data="back")
            await alice.hear("message", data="back")


async def test_who_vanished_with_its_node_is_shown_so_and_then_gone(nodes: list[Node]) -> None:
    async with peer(nodes[1], "alice") as alice:
        async with peer(nodes[0], "bob"):
            await alice.hear("peer_joined", identity="bob")
            killed_at = time.monotonic()
            await asyncio.to_thread(nodes[0].kill)
        await alice.hear("peer_updated", identity="bob", connected=False)
        assert time.monotonic() - killed_at <= 15
        left = await alice.hear("peer_left", within_s=WINDOW_S + 15, identity="bob")
        assert left["reason"] == "connection_lost"


async def test_a_frozen_node_is_fenced_when_it_wakes(nodes: list[Node]) -> None:
    a, b, c = nodes
    async with peer(a, "first", "other"), peer(b, "alice") as alice, peer(a, "bob") as bob:
        await alice.hear("peer_joined", identity="bob")
        address, resume = bob.welcome["peer"], ticket(bob)
        a.freeze()
        try:
            await alice.hear("peer_updated", within_s=15, identity="bob", connected=False)
            async with peer(c, "bob", None, resume=resume) as again:
                assert (await alice.ask("message", 1, to=address, data=1))["type"] == "ok"
                await again.hear("message", data=1)
                heard = len(bob.heard)
                a.thaw()
                # Its socket hears nothing that the session has heard elsewhere.
                await until(lambda: bob.closed_with is not None)
                assert [m for m in bob.heard[heard:] if m["type"] == "message"] == []
                await asyncio.to_thread(a.wait_ready)
                assert (await alice.ask("message", 2, to=address, data=2))["type"] == "ok"
                await again.hear("message", data=2)
                assert again.numbers() == [1, 2]
        finally:
            a.signal(signal.SIGCONT)


async def test_an_emptied_redis_loses_nothing(
    nodes: list[Node], redis: RedisServer, tmp_path: Path
) -> None:
    a, b, _ = nodes
    async with peer(a, "first", "other"), peer(a, "alice") as alice, peer(b, "bob") as bob:
        await alice.hear("peer_joined", identity="bob")
        address, resume = bob.welcome["peer"], ticket(bob)
        await asyncio.to_thread(redis.kill)
        redis.forget()
        await asyncio.to_thread(redis.start)
        await asyncio.to_thread(a.wait_ready)
        await asyncio.to_thread(b.wait_ready)
        answer = await alice.ask("message", 1, to=address, data=1)
        assert answer["type"] == "ok"
        if bob.closed_with is None:
            await bob.hear("message", data=1)
        else:
            async with peer(b, "bob", None, resume=resume) as again:
                await again.hear("message", data=1)


async def test_without_redis_a_node_goes_on_for_its_own(
    nodes: list[Node], redis: RedisServer
) -> None:
    a, b, _ = nodes
    async with (
        peer(a, "alice") as alice,
        peer(a, "carol") as carol,
        peer(b, "bob", "shared"),
    ):
        await alice.hear("peer_joined", identity="carol")
        hung_at = time.monotonic()
        redis.hang()
        try:
            await until(lambda: not a.is_ready, 10)
            assert time.monotonic() - hung_at <= 6
            assert a.status("/healthz") == 200
            # Node a is the home of what its own clients do. What they are told now is in no
            # journal: who takes it elsewhere must not pass for somebody who knows less.
            for one in (alice, carol):
                await one.hear("new_secret")
            answer = await alice.ask("message", 1, to=carol.welcome["peer"], data=1)
            assert answer["type"] == "ok"
            await carol.hear("message", data=1)
            # A room of which some are elsewhere takes nobody in.
            refused = await carol.ask("join", 2, room="shared")
            assert (refused["code"], refused["retryable"]) == ("unavailable", True)
            # Who has not noticed would take the home's place at once.
            await until(lambda: not b.is_ready, 10)
        finally:
            redis.resume()
        await until(lambda: a.is_ready and b.is_ready, 15)
        answer = await alice.ask("message", 3, to=carol.welcome["peer"], data=3)
        assert answer["type"] == "ok"
        await carol.hear("message", data=3)
        async with peer(b, "erin") as erin:
            await alice.hear("peer_joined", identity="erin")
            await erin.say("message", to=alice.welcome["peer"], data=4)
            await alice.hear("message", data=4)


async def test_without_redis_rooms_live_where_the_home_is_not(
    nodes: list[Node], redis: RedisServer
) -> None:
    """Node a is the home. What is on node b goes on, and begins anew when Redis is back."""
    a, b, _ = nodes
    async with (
        peer(a, "alice", "mixed") as alice,
        peer(b, "bob", "mixed") as bob,
        peer(b, "dave", "local") as dave,
        peer(b, "erin", "local") as erin,
    ):
        for number in range(10):
            answer = await dave.ask("message", number, to=erin.welcome["peer"], data=number)
            assert answer["type"] == "ok"
        await until(lambda: len(erin.numbers()) == 10)
        await alice.hear("peer_joined", identity="bob")
        redis.hang()
        try:
            secrets = [await one.hear("new_secret") for one in (alice, bob, dave, erin)]
            answer = await dave.ask("message", 10, to=erin.welcome["peer"], data=10)
            assert answer["type"] == "ok"
            await erin.hear("message", data=10)
            # Who is at another node is there, and cannot be reached.
            answer = await bob.ask("message", 1, to=alice.welcome["peer"], data=1)
            assert (answer["code"], answer["retryable"]) == ("peer_unreachable", True)
            assert (await bob.ask("message", 2, data=1))["code"] == "peer_unreachable"
            assert (await dave.ask("join", 11, room="mixed"))["code"] == "unavailable"
            assert (await dave.ask("join", 12, room="new"))["type"] == "ok"
            # A client of the home may not go on here with what the home still says.
            async with connect(b.ws_url) as socket:
                astray = Peer(socket)
                await astray.say("hello", token=token("alice"), resume=ticket(alice), id=1)
                assert (await astray.hear("error"))["code"] == "resume_gap"
                await astray.end()
        finally:
            redis.resume()
        await until(lambda: erin.closed_with == 4000, 15)
        resume = {**ticket(erin), "secret": secrets[-1]["resume"]["secret"]}
        async with connect(b.ws_url) as socket:
            back = Peer(socket)
            await back.say("hello", token=token("erin"), resume=resume, id=1)
            assert (await back.hear("error"))["code"] == "resume_expired"
            await back.say("hello", token=token("erin"), room="mixed", id=2)
            await back.hear("welcome")
            await alice.hear("peer_joined", identity="erin")
            await back.say("message", to=alice.welcome["peer"], data="again")
            await alice.hear("message", data="again")
            await back.end()
        assert alice.closed_with is None


async def test_a_draining_node_hands_everything_over(nodes: list[Node]) -> None:
    a, b, _ = nodes
    async with peer(a, "alice") as alice, peer(b, "bob") as bob:
        await alice.hear("peer_joined", identity="bob")
        address = alice.welcome["peer"]
        going = asyncio.create_task(asyncio.to_thread(a.drain))
        away = await alice.hear("go_away")
        assert away["reconnect_after_ms"] <= away["deadline_ms"]
        resume = ticket(alice)
        async with peer(b, "alice", None, resume=resume) as again:
            await until(lambda: alice.closed_with is not None)
            for number in range(20):
                assert (await bob.ask("message", number + 1, to=address, data=number))[
                    "type"
                ] == "ok"
            await until(lambda: len(again.numbers()) == 20)
            assert again.numbers() == list(range(20))
            await going


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
async def test_a_clock_five_minutes_off_harms_nobody(redis: RedisServer, tmp_path: Path) -> None:
    skewed = ["faketime", "-m", "-f", "+5m"]
    with start_nodes(tmp_path, redis.url, ("a", "b"), commands={"a": skewed}) as (a, b):
        async with peer(a, "alice") as alice, peer(b, "bob") as bob:
            await alice.hear("peer_joined", identity="bob")
            assert (await bob.ask("message", 1, to=alice.welcome["peer"], data=1))["type"] == "ok"
            await alice.hear("message", data=1)
            assert alice.closed_with is None
