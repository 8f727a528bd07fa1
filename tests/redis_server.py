"""A real Redis for tests: a foreground child on a free loopback port, ended for sure."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from coturn import LOOPBACK, free_port

SLOTS = 16_384
"""Of every Cluster."""


def has_redis() -> bool:
    """Whether `redis-server` is installed."""
    return shutil.which("redis-server") is not None


class RedisServer:
    """A Redis that can be killed, started again on its port, and hung."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`arguments` are further ones of redis-server, its configuration file first."""
        self.port = free_port()
        self._folder = folder
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start, and wait until it answers; what was written before is there again."""
        command = ["redis-server", *self._arguments, "--port", str(self.port), "--bind", LOOPBACK]
        command += ["--dir", str(self._folder)]
        if "--sentinel" not in self._arguments:
            command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        with (self._folder / "log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def kill(self) -> None:
        """As a crash does it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def forget(self) -> None:
        """What was written is lost; to be called while it is down."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)

    def hang(self) -> None:
        """It keeps its connections and says nothing any more."""
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """The raw answer to one command."""
        with socket.create_connection((LOOPBACK, self.port), 5) as line:
            line.settimeout(5)
            line.sendall((" ".join(words) + "\r\n").encode())
            return line.recv(65_536).decode()

    def wait_for(self, *words: str, expected: str) -> None:
        """Until the answer to a command has `expected` in it."""
        deadline = time.monotonic() + 30
        while expected not in self.command(*words):
            assert time.monotonic() < deadline, f"{words} never answered {expected!r}"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), 1) as probe:
            probe.settimeout(1)
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False


@contextmanager
def start_redis(*arguments: str) -> Iterator[RedisServer]:
    """A running Redis that keeps what it is told across `kill` and `start`."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), *arguments)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def start_sentinel(master: RedisServer, service: str) -> Iterator[RedisServer]:
    """A Sentinel that alone decides, quickly, whether `master` is down."""
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        config = Path(folder) / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {service} {LOOPBACK} {master.port} 1\n"
            f"sentinel down-after-milliseconds {service} 500\n"
            f"sentinel failover-timeout {service} 2000\n"
        )
        server = RedisServer(Path(folder), str(config), "--sentinel")
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def start_cluster(masters: int) -> Iterator[list[RedisServer]]:
    """A Cluster of masters without replicas, with about as many slots each, in their order."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            )
            for _ in range(masters)
        ]
        starts = [SLOTS * number // masters for number in range(masters + 1)]
        for number, server in enumerate(servers):
            first, last = starts[number], starts[number + 1] - 1
            server.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in servers[1:]:
            own = server.command("CLUSTER", "NODES").splitlines()[1].split()[1]
            bus = own.partition("@")[2].partition(",")[0]
            servers[0].command("CLUSTER", "MEET", LOOPBACK, str(server.port), bus)
        for server in servers:
            server.wait_for("CLUSTER", "INFO", expected="cluster_state:ok")
            server.wait_for("CLUSTER", "INFO", expected=f"cluster_known_nodes:{masters}\r")
        yield servers
