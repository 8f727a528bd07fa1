"""The servers that are compared, each as one pinned child process on a free loopback port.

A server says which port it took in one JSON line. Parley runs as in production, with everything
on; only its rates are raised, since one machine plays all clients. It does not know the workloads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
READY_S = 20.0
_PRIORITY = -10

Starter = Callable[[Path], tuple[list[str], Path]]
"""Given a scratch directory: the command, and where to run it."""


@dataclass(frozen=True)
class Server:
    """One candidate: what its clients speak, and how it is started."""

    name: str
    dialect: str
    start: Starter
    is_limit: bool = False
    """It marks what the machine can do, and is no peer."""


@dataclass(frozen=True)
class Running:
    """A server that answers on `port`."""

    pid: int
    port: int
    tokens: Path
    """One access token a line; empty for servers that know none."""

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the server is gone")


def parley(name: str, root: Path) -> Server:
    """Parley from a checkout."""

    def start(scratch: Path) -> tuple[list[str], Path]:
        prepare = [sys.executable, str(BENCH / "parley_config.py"), str(scratch)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run(prepare, cwd=root, env=environment, check=True)
        config = str(scratch / "parley.toml")
        return [sys.executable, "-m", "signal_server", "serve", "--config", config], root

    return Server(name, "parley", start)


def node(name: str, dialect: str, script: str) -> Server:
    """A server on Node.js."""
    return Server(name, dialect, lambda _: (["node", str(BENCH / "peers" / script)], BENCH))


def limit(program: Path) -> Server:
    """The C++ relay."""
    return Server("C++ limit", "room", lambda _: ([str(program)], BENCH), is_limit=True)


def pinned(command: list[str], core: int, prefer: bool) -> list[str]:
    """The command on one core, before other processes where that is permitted."""
    words = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
    return [*words, *(["nice", "-n", str(_PRIORITY)] if prefer else []), *command]


def may_raise_priority() -> bool:
    """Whether this user may put processes before others."""
    return os.geteuid() == 0


@contextlib.contextmanager
def running(server: Server, scratch: Path, core: int) -> Iterator[Running]:
    """The server, until the block ends."""
    scratch.mkdir(parents=True)
    tokens = scratch / "tokens"
    tokens.touch()
    command, where = server.start(scratch)
    log = scratch / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            pinned(command, core, may_raise_priority()),
            cwd=where,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield Running(process.pid, _port(process, log), tokens)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return int(json.loads(line)["port"])
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
