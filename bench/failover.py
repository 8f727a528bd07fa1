"""How long sessions take to go on after `kill -9` of their node: 2,000 of them, all on the home.

The clients know the other two nodes and wait like ours do (full jitter from 0.5 s). It asserts
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from light_client import Client  # noqa: E402
from nodes import Node, start_nodes, token  # noqa: E402
from redis_server import start_redis  # noqa: E402

BACKOFF_S = 0.5
LONGEST_S = 15.0
ANSWER_S = 10.0


class Session:
    """One client that comes back."""

    def __init__(self, number: int, others: Sequence[Node]) -> None:
        self.resumed_at = 0.0
        self.is_new = False
        self._identity = f"i{number}"
        self._room = f"r{number // 2}"
        self._others = others
        self._last = 0
        self._ticket: dict[str, str] = {}
        self._greeted = asyncio.Event()
        self._lost = asyncio.Event()

    async def open(self, node: Node) -> None:
        client = await self._connect(node)
        hello = {"type": "hello", "token": token(self._identity), "room": self._room}
        client.say(hello)
        await self._greeted.wait()

    async def come_back(self) -> None:
        """From the loss of the connection on."""
        await self._lost.wait()
        attempt = 0
        while True:
            await asyncio.sleep(random.uniform(0, min(LONGEST_S, BACKOFF_S * 2**attempt)))
            attempt += 1
            self._greeted.clear()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    client = await self._connect(random.choice(self._others))
                    resume = {**self._ticket, "last_seq": self._last}
                    client.say({"type": "hello", "token": token(self._identity), "resume": resume})
                    await self._greeted.wait()
                    self.resumed_at = time.perf_counter()
                    return

    async def _connect(self, node: Node) -> Client:
        loop = asyncio.get_running_loop()
        self._lost.clear()
        _, client = await loop.create_connection(
            lambda: Client(self._hear, self._lost.set), "127.0.0.1", node.port
        )
        await client.opened
        return client

    def _hear(self, text: bytes) -> None:
        message = json.loads(text)
        self._last = message.get("seq", 0) or self._last
        if message["type"] in ("welcome", "resumed"):
            self._ticket = {
                "session": message["session"],
                "secret": message["resume"]["secret"],
            }
            self._greeted.set()
        elif message["type"] == "error":
            self.is_new = True


async def measure(nodes: list[Node], count: int) -> dict[str, float]:
    sessions = [Session(number, nodes[1:]) for number in range(count)]
    for first in range(0, count, 50):
        await asyncio.gather(*(each.open(nodes[0]) for each in sessions[first : first + 50]))
    await asyncio.sleep(2)
    coming = [asyncio.ensure_future(each.come_back()) for each in sessions]
    killed_at = time.perf_counter()
    await asyncio.to_thread(nodes[0].kill)
    async with asyncio.timeout(60):
        await asyncio.gather(*coming)
    times = sorted(each.resumed_at - killed_at for each in sessions)
    return {
        "sessions": count,
        "p50_s": round(times[count // 2], 2),
        "p99_s": round(times[int(count * 0.99)], 2),
        "last_s": round(times[-1], 2),
        "not_resumed": sum(each.is_new for each in sessions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, start_redis() as redis:
        redis.command("CONFIG", "SET", "appendonly", "no")
        with start_nodes(Path(home), redis.url, ("a", "b", "c")) as nodes:
            print(json.dumps(asyncio.run(measure(nodes, options.sessions))))


if __name__ == "__main__":
    main()
