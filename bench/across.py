"""Relay between two nodes on one Redis, saturated, at a given rate, and one message at a time.

CPU per message and latency. Both peers of a pair are on different nodes, so every message crosses.
CPU is that of both nodes and of Redis together. It asserts nothing; quote ratios to the same run's
single node. On a busy machine messages share ticks, so that the paced CPU is too low and the paced
latency too high; one message at a time is always alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from light_client import Client  # noqa: E402
from nodes import Node, start_nodes, token  # noqa: E402
from redis_server import RedisServer, start_redis  # noqa: E402

_TICKS = os.sysconf("SC_CLK_TCK")
_PADDING = "x" * 120


class Pair:
    """One says, the other hears."""

    def __init__(self) -> None:
        self.heard = 0
        self.said = 0
        self.delays_ms: list[float] = []
        self._to = ""
        self._names: list[str] = []
        self._talker: Client
        self._listener: Client
        self._seq = 0
        self.has_news = asyncio.Event()

    async def open(self, first: Node, second: Node, room: str) -> None:
        self._talker = await self._client(first, f"{room}-a", room, lambda _: None)
        self._listener = await self._client(second, f"{room}-b", room, self._hear)
        self._to = self._names[1]

    async def _client(
        self, node: Node, identity: str, room: str, then: Callable[[bytes], None]
    ) -> Client:
        greeted = asyncio.Event()

        def hear(text: bytes) -> None:
            if text.startswith(b'{"type":"welcome"'):
                self._names.append(json.loads(text)["peer"])
                greeted.set()
            else:
                then(text)

        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(hear), "127.0.0.1", node.port)
        await client.opened
        client.say({"type": "hello", "token": token(identity), "room": room})
        await greeted.wait()
        return client

    def say(self) -> None:
        self.said += 1
        data = {"at": time.perf_counter(), "padding": _PADDING}
        self._talker.say({"type": "message", "to": self._to, "data": data})

    def _hear(self, text: bytes) -> None:
        if not text.startswith(b'{"type":"message"'):
            return
        self.heard += 1
        sent = float(text.split(b'"at":', 1)[1].split(b",", 1)[0])
        self.delays_ms.append((time.perf_counter() - sent) * 1000)
        if self.heard % 50 == 0:
            self._listener.say(
                {"type": "ack", "seq": int(text.split(b'"seq":', 1)[1].split(b",", 1)[0])}
            )
        self.has_news.set()

    def close(self) -> None:
        self._talker.close()
        self._listener.close()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def saturate(pair: Pair, until: float, window: int) -> None:
    while time.perf_counter() < until:
        while pair.said - pair.heard < window:
            pair.say()
        pair.has_news.clear()
        await pair.has_news.wait()


async def take_turns(pair: Pair, until: float) -> None:
    """The next message when the last one was heard."""
    while time.perf_counter() < until:
        pair.has_news.clear()
        pair.say()
        await pair.has_news.wait()


async def pace(pairs: list[Pair], until: float, per_s: float) -> None:
    began, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < until:
        while count < (now - began) * per_s:
            pairs[count % len(pairs)].say()
            count += 1
        await asyncio.sleep(0.001)


async def measure(
    nodes: list[Node], redis: RedisServer, options: argparse.Namespace
) -> dict[str, float]:
    pairs = [Pair() for _ in range(options.pairs)]
    for number, pair in enumerate(pairs):
        await pair.open(nodes[0], nodes[-1], f"r{number}")
    pids = [redis.pid, *(node.process.pid for node in nodes if node.process is not None)]
    result: dict[str, float] = {}

    async def watched(name: str, load: Awaitable[object]) -> None:
        for pair in pairs:
            pair.delays_ms.clear()
        before, said = sum(map(cpu_s, pids)), sum(pair.heard for pair in pairs)
        began = time.perf_counter()
        await load
        ended = time.perf_counter()
        await asyncio.sleep(0.2)
        count = sum(pair.heard for pair in pairs) - said
        delays = sorted(delay for pair in pairs for delay in pair.delays_ms)
        result[f"{name}_per_s"] = round(count / (ended - began))
        result[f"{name}_cpu_us"] = round((sum(map(cpu_s, pids)) - before) / count * 1e6, 1)
        result[f"{name}_p50_ms"] = round(statistics.median(delays), 3)
        result[f"{name}_p99_ms"] = round(delays[int(len(delays) * 0.99)], 3)

    end = time.perf_counter() + options.seconds
    flood = (saturate(pair, end, options.window) for pair in pairs)
    await watched("saturated", asyncio.gather(*flood))
    end = time.perf_counter() + options.seconds
    await watched("paced", pace(pairs, end, options.rate))
    end = time.perf_counter() + options.seconds
    await watched("alone", take_turns(pairs[0], end))
    for pair in pairs:
        pair.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4000)
    options = parser.parse_args()
    for names in (("a",), ("a", "b")):
        with (
            tempfile.TemporaryDirectory() as home,
            start_redis("--maxclients", "1000") as redis,
        ):
            redis.command("CONFIG", "SET", "appendonly", "no")
            with start_nodes(Path(home), redis.url, names) as nodes:
                result = asyncio.run(measure(nodes, redis, options))
        print(json.dumps({"nodes": len(names), **result}))


if __name__ == "__main__":
    main()
