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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from history import History
from nodes import Node, Proxy, start_nodes
from redis_server import RedisServer, start_redis
from scenes import Device, Group

IS_LONG = os.environ.get("PARLEY_LONG") == "1"
FAULTS = int(os.environ.get("PARLEY_FAULTS", "200" if IS_LONG else "8"))
GROUPS = 4
SEED = int(os.environ.get("PARLEY_SEED", "1"))
WINDOW_S = 25.0


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
    history = History()
    with (
        start_nodes(tmp_path, redis.url, window_s=WINDOW_S) as nodes,
        Proxy(tmp_path, nodes).running() as proxy,
    ):
        groups = [Group(proxy, history, number, SEED) for number in range(GROUPS)]
        devices = [device for group in groups for device in group.devices]
        for device in devices:
            await device.open()
        gremlin = Gremlin(nodes, redis, devices)
        raging = asyncio.create_task(gremlin.rage(FAULTS))

        async def play(group: Group) -> None:
            while not raging.done():
                await group.play()

        try:
            async with asyncio.TaskGroup() as tasks:
                for group in groups:
                    tasks.create_task(play(group))
            await raging
        finally:
            raging.cancel()
            await asyncio.wait([raging])
            for device in devices:
                with contextlib.suppress(Exception):
                    await device.close()
            print(f"\nfaults {dict(gremlin.done)}, last {gremlin.last}")  # noqa: T201

    verdict = history.verdict()
    played = sum((group.played for group in groups), Counter[str]())
    resumes = sum(device.resumes for device in devices)
    lost = sum(device.sessions_lost for device in devices)
    print(  # noqa: T201
        f"\nfaults {dict(gremlin.done)}, calls {dict(played)}, {verdict.arrived} messages, "
        f"{resumes} resumes, {lost} sessions lost, {verdict.excused} excused"
    )
    assert verdict.is_good, verdict
    assert sum(gremlin.done.values()) == FAULTS
    assert verdict.arrived > 10 * FAULTS
    assert lost == 0
