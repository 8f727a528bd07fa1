"""Real servers as foreground children of the tests: started, waited for, and seen to exit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from signal_server.wire.rates import unhurried

_ROOT = Path(__file__).resolve().parent.parent
_READY_S = 30.0
_EXIT_S = 20.0


@dataclass(kw_only=True)
class Server:
    """A running server process."""

    url: str
    ws_url: str
    pid: int
    log_file: Path
    process: subprocess.Popen[str]
    is_killed: bool = False

    def kill(self) -> None:
        """As a crash: it has no time to do anything."""
        self.is_killed = True
        self.process.kill()
        self.process.wait(_EXIT_S)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url.rstrip("/") + path, timeout=10) as reply:
            return str(reply.read().decode())

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels; a counter that never counted is 0."""
        page = self.get("/metrics").splitlines()
        assert f"# TYPE {name.removesuffix('_total')}" in " ".join(page), f"no metric {name}"
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in page
            if line.startswith((name + " ", name + "{"))
        )

    def log(self) -> str:
        return self.log_file.read_text()


@dataclass(kw_only=True)
class Parley(Server):
    """A running `parley dev`; the fields are its JSON line."""

    account_sid: str
    auth_token: str
    admin_token: str
    access_token: str
    room: str
    turn_urls: list[str]

    def token(self, identity: str, room: str | None = None) -> str:
        """An access token for that identity."""
        query = {"identity": identity, **({"room": room} if room else {})}
        reply = json.loads(self.get(f"/dev/token?{urllib.parse.urlencode(query)}"))
        return str(reply["access_token"])


@contextlib.contextmanager
def start_parley(*args: str) -> Iterator[Parley]:
    """`parley dev` on free ports with its own state; must exit in time when told to."""
    with tempfile.TemporaryDirectory(prefix="parley-test-") as state:
        log_file = Path(state, "log")
        command = [sys.executable, "-m", "signal_server", "dev", "--json", "--port", "0"]
        command += ["--turn-port", "0", "--state", str(Path(state, "keys")), *args]
        with log_file.open("w") as log:
            process = subprocess.Popen(
                command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            ready: dict[str, Any] = json.loads(_first_line(process, log_file))
            names = Parley.__dataclass_fields__
            fields = {name: ready[name] for name in ready if name in names}
            parley = Parley(**fields, log_file=log_file, process=process)
            yield parley
            if not parley.is_killed:
                process.terminate()
                assert process.wait(_EXIT_S) == 0, log_file.read_text()[-4000:]
        finally:
            _stop(process)


@contextlib.contextmanager
def start_serve(config: str) -> Iterator[Server]:
    """`parley serve` with that parley.toml; its port must be 0."""
    with tempfile.TemporaryDirectory(prefix="parley-test-") as state:
        log_file, config_file = Path(state, "log"), Path(state, "parley.toml")
        config_file.write_text(config)
        command = [sys.executable, "-m", "signal_server", "serve", "--config", str(config_file)]
        with log_file.open("w") as log:
            process = subprocess.Popen(command, cwd=_ROOT, stderr=log, text=True)
        try:
            at = f"127.0.0.1:{_ready_port(process, log_file)}"
            server = Server(
                url=f"http://{at}",
                ws_url=f"ws://{at}/v1/signal",
                pid=process.pid,
                log_file=log_file,
                process=process,
            )
            yield server
            if not server.is_killed:
                process.terminate()
                assert process.wait(_EXIT_S) == 0, log_file.read_text()[-4000:]
        finally:
            _stop(process)


def _ready_port(process: subprocess.Popen[str], log_file: Path) -> int:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log_file.read_text().splitlines():
            if '"message": "ready"' in line and line.endswith("}"):
                return int(json.loads(line)["port"])
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} is not ready: {log_file.read_text()[-4000:]}")


def _first_line(process: subprocess.Popen[str], log_file: Path) -> str:
    """Wait for the ready line without being caught by a server that never says it."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ready = selector.select(_READY_S)
    line = process.stdout.readline() if ready else ""
    assert line, f"{process.args!r} is not ready: {log_file.read_text()[-4000:]}"
    return line


def _stop(process: subprocess.Popen[str]) -> None:
    """No child survives its test."""
    if process.poll() is None:
        process.kill()
        process.wait(_EXIT_S)
    if process.stdout is not None:
        process.stdout.close()


def resident_bytes(pid: int) -> int:
    """Resident set size of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Seconds of a processor that a process has used; a machine with other work does not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rates_toml() -> str:
    """`[rates]` that nobody reaches, for parley.toml."""
    lines = []
    for scope, classes in msgspec.to_builtins(unhurried()).items():
        if isinstance(classes, dict):
            lines.append(f"[rates.{scope}]")
            lines += [f"{name} = {{ per_s = 1e6, burst = 1e6 }}" for name in classes]
    return "\n".join(lines)
