"""Microseconds a message costs between the socket and the socket, in process: `bench/micro.py`.

Drives a whole node's dispatcher with clients that only count, so neither the kernel nor frames are
in the figures. `--root DIR` takes another checkout, `--profile` prints where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import importlib
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANDIDATES = 10
WORKLOADS = ("relay", "setup", "join", "again")
_REPEATS = 20


class Client:
    """A connection as the dispatcher sees it."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.token: str | None = None
        self.remote = "127.0.0.1"
        self.seq = 0
        self.subprotocol: str | None = None
        self._welcome = b""

    @property
    def peer(self) -> str:
        return str(json.loads(self._welcome)["peer"])

    def send(self, payload: bytes, seq: int = 0) -> None:
        self.seq = seq or self.seq
        self._welcome = self._welcome or payload

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(f"closed: {code} {reason}")


class World:
    """Pairs in rooms of two on one node."""

    def __init__(self, root: Path) -> None:
        sys.path.insert(0, str(root))
        load = importlib.import_module("signal_server.config").load
        node = importlib.import_module("signal_server.app").Node
        write = importlib.import_module("parley_config").write
        with tempfile.TemporaryDirectory() as name:
            write(Path(name))
            built = node(load(Path(name) / "parley.toml", {}), is_dev=False)
            built.backplane.listen(built.dispatcher)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*importlib.import_module("signal_server.running").GC_THRESHOLDS)
            self.dispatcher: Any = built.dispatcher
            self.tokens = (Path(name) / "tokens").read_text().split()
        self.number = 0
        self.connections = 0

    def join(self) -> Client:
        """Say hello, two clients a room."""
        self.number += 1
        self.connections += 1
        client = Client(self.connections)
        self.dispatcher.opened(client)
        token = self.tokens[self.number % len(self.tokens)]
        hello = {"type": "hello", "token": token, "room": f"room-{(self.connections - 1) // 2}"}
        self.dispatcher.received(client, json.dumps(hello))
        return client

    def say(self, client: Client, text: str) -> None:
        self.dispatcher.received(client, text)


def sdp(ufrag: str) -> str:
    """About 3 KB with one m-section."""
    head = (
        "v=0\r\no=- 46 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
        f"m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:{ufrag}\r\na=mid:0\r\n"
    )
    return head + "a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1\r\n" * 48


def description(kind: str, to: Client, ufrag: str, number: int, ack: int) -> str:
    message = {"type": kind, "to": to.peer, "sdp": sdp(ufrag), "id": number, "ack": ack}
    return json.dumps(message)


def candidate(to: Client, ufrag: str, index: int, ack: int) -> str:
    line = (
        f"candidate:{index} 1 udp 1677729535 203.0.113.77 {46150 + index} typ srflx raddr 0.0.0.0"
        f" rport 0 generation 0 ufrag {ufrag} network-id 3 network-cost 999"
    )
    init = {"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": ufrag}
    return json.dumps({"type": "candidate", "to": to.peer, "candidate": init, "ack": ack})


def general(to: Client, ack: int) -> str:
    data = json.loads(candidate(to, "uuuuuuuu", 0, 0))["candidate"]
    return json.dumps({"type": "message", "to": to.peer, "data": data, "ack": ack})


class Workloads:
    """Each prepares its texts first, so that making them is not measured."""

    def __init__(self, world: World, pairs: int) -> None:
        self.world = world
        self.pairs = [(world.join(), world.join()) for _ in range(pairs)]
        self.call = 0

    def relay(self) -> tuple[Callable[[], None], int]:
        turns = [(a, general(b, a.seq)) for a, b in self.pairs for _ in range(10)]

        def run() -> None:
            for client, text in turns:
                self.world.say(client, text)

        return run, len(turns)

    def setup(self) -> tuple[Callable[[], None], int]:
        self.call += 1
        turns: list[tuple[Client, str]] = []
        for a, b in self.pairs:
            for kind, me, other in (("offer", a, b), ("answer", b, a)):
                ufrag = f"{kind[0]}{self.call:07}"
                turns.append((me, description(kind, other, ufrag, self.call, me.seq)))
                turns += [(me, candidate(other, ufrag, i, me.seq)) for i in range(CANDIDATES)]

        def run() -> None:
            for client, text in turns:
                self.world.say(client, text)

        return run, len(turns)

    def join(self) -> tuple[Callable[[], None], int]:
        """With tokens that the node has not seen, as long as there are any."""
        return self._joins()

    def again(self) -> tuple[Callable[[], None], int]:
        """With tokens that it has verified before."""
        self.world.number = 0
        return self._joins()

    def _joins(self) -> tuple[Callable[[], None], int]:
        def run() -> None:
            for _ in range(200):
                self.world.join()

        return run, 200


def measure(make: Callable[[], tuple[Callable[[], None], int]]) -> float:
    """Least microseconds per message over the repeats."""
    best = float("inf")
    for _ in range(_REPEATS):
        run, count = make()
        gc.collect()
        began = time.process_time()
        run()
        best = min(best, (time.process_time() - began) / count)
    return best * 1e6


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="names, comma-separated")
    parser.add_argument("--profile", choices=WORKLOADS)
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    """Inside a loop, because the dispatcher sets timers."""
    workloads = Workloads(World(options.root.resolve()), options.pairs)
    if options.profile:
        make = getattr(workloads, options.profile)
        run, _ = make()
        profile = cProfile.Profile()
        profile.runcall(run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
        return
    for name in options.only.split(","):
        print(f"{name:6} {measure(getattr(workloads, name)):8.2f} us a message")


if __name__ == "__main__":
    asyncio.run(main(read_options()))
