"""Calls over three nodes and one Redis while nodes die, freeze, restart, and Redis hangs.

The history says what became of every message: nothing lost, doubled or reordered outside declared
gaps. PARLEY_LONG=1 injects 200 faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from history import History, Verdict
from nodes import Node, Proxy, start_nodes
from redis_server import RedisServer, start_redis
from scenes import Device, Group

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
FAULTS = int(os.environ.get("PARLEY_FAULTS", "200" if IS_LONG else "8"))
GROUPS = 4
SEED = int(os.environ.get("PARLEY_SEED", "1"))
WINDOW_S = 40.0
"""A client on a frozen node notices after 15 s, and may meet the next trouble then."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with start_redis() as redis:
        yield redis


class Gremlin:
    """Breaks one thing after the other, and lets it heal."""

    def __init__(
        self, nodes: Sequence[Node], redis: RedisServer, devices: Sequence[Device]
    ) -> None:
        self.done: Counter[str] = Counter()
        self.last = ""
        self._nodes = nodes
        self._redis = redis
        self._devices = devices
        self._dice = random.Random(SEED)

    async def rage(self, count: int) -> None:
        faults: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.kill, 4),
            (self.freeze, 2),
            (self.drain, 2),
            (self.cut_lines, 3),
            (self.hang_redis, 2),
        ]
        for _ in range(count):
            await asyncio.sleep(0.2 + self._dice.random())
            (fault,) = self._dice.choices([f for f, _ in faults], weights=[w for _, w in faults])
            self.last = fault.__name__
            await fault()
            self.done[fault.__name__] += 1

    async def restart_all(self) -> None:
        """One after the other."""
        for node in self._nodes:
            await asyncio.sleep(1)
            await asyncio.to_thread(node.drain)
            await asyncio.to_thread(node.start)
            self.done["drain"] += 1

    async def kill(self) -> None:
        node = self._dice.choice(self._nodes)
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(self._dice.random() * 3)
        await asyncio.to_thread(node.start)

    async def freeze(self) -> None:
        node = self._dice.choice(self._nodes)
        node.freeze()
        await asyncio.sleep(0.5 + self._dice.random() * 9)
        node.thaw()
        await asyncio.to_thread(node.wait_ready)

    async def drain(self) -> None:
        node = self._dice.choice(self._nodes)
        await asyncio.to_thread(node.drain)
        await asyncio.to_thread(node.start)

    async def cut_lines(self) -> None:
        for device in self._devices:
            device.break_line()

    async def hang_redis(self) -> None:
        """Shorter than the nodes' patience."""
        self._redis.hang()
        await asyncio.sleep(self._dice.random() * 1.5)
        self._redis.resume()


@pytest.mark.timeout(7200 if IS_LONG else 300)
async def test_nothing_is_lost_between_nodes(redis: RedisServer, tmp_path: Path) -> None:
    with deployment(redis, tmp_path) as (nodes, proxy):
        # Who vanishes holds everybody up for the whole window.
        played = await play(nodes, proxy, redis, lambda g: g.rage(FAULTS), may_vanish=IS_LONG)
    assert sum(played.faults.values()) == FAULTS
    assert played.verdict.arrived > 10 * FAULTS


@pytest.mark.timeout(300)
async def test_a_rolling_restart_harms_no_call(redis: RedisServer, tmp_path: Path) -> None:
    with deployment(redis, tmp_path) as (nodes, proxy):
        played = await play(nodes, proxy, redis, lambda g: g.restart_all(), may_vanish=False)
    assert played.faults == {"drain": len(nodes)}
    assert played.resumes >= 12


@contextlib.contextmanager
def deployment(redis: RedisServer, home: Path) -> Iterator[tuple[list[Node], Proxy]]:
    with (
        start_nodes(home, redis.url, window_s=WINDOW_S) as nodes,
        Proxy(home, nodes).running() as proxy,
    ):
        yield nodes, proxy


@dataclass
class Played:
    """What became of it."""

    verdict: Verdict
    faults: Counter[str]
    resumes: int


async def play(
    nodes: Sequence[Node],
    proxy: Proxy,
    redis: RedisServer,
    trouble: Callable[[Gremlin], Coroutine[None, None, None]],
    *,
    may_vanish: bool = True,
) -> Played:
    """Calls, while there is trouble; nothing may be lost, doubled or reordered."""
    history = History()
    groups = [
        Group(proxy, history, number, SEED, may_vanish=may_vanish) for number in range(GROUPS)
    ]
    devices = [device for group in groups for device in group.devices]
    for device in devices:
        await device.open()
    gremlin = Gremlin(nodes, redis, devices)
    raging = asyncio.create_task(trouble(gremlin))

    async def on_and_on(group: Group) -> None:
        while not raging.done():
            await group.play()

    try:
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(on_and_on(group))
        await raging
    finally:
        raging.cancel()
        await asyncio.wait([raging])
        for device in devices:
            with contextlib.suppress(Exception):
                await device.close()
        verdict = history.verdict()
        calls = sum((group.played for group in groups), Counter[str]())
        resumes = sum(device.resumes for device in devices)
        print(  # noqa: T201
            f"\nfaults {dict(gremlin.done)}, last {gremlin.last}, calls {dict(calls)}, "
            f"{verdict.arrived} messages, {resumes} resumes, {verdict.excused} excused"
        )
    assert verdict.is_good, verdict
    assert sum(device.sessions_lost for device in devices) == 0
    return Played(verdict, gremlin.done, resumes)
