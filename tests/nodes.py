"""Several `parley serve` nodes on one Redis behind HAProxy: killed, frozen, drained, started again.

All are foreground children; whatever happens to them, none survives the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coturn import LOOPBACK, free_port
from servers import rates_toml

from turn_broker.accounts.access_token import AccessTokens
from turn_broker.accounts.table import Account, Accounts, ApiKey

ACCOUNT_SID, KEY_SID = "AC" + "3c" * 16, "SK" + "4d" * 16
KEY_SECRET, TURN_SECRET, ADMIN_TOKEN, AUTH_TOKEN = (
    f"{letter}-9f1c2e3d4b5a69788796a5b4c3d2e1f0" for letter in "ktaw"
)
_ROOT = Path(__file__).resolve().parents[1]
_READY_S = 30.0
_EXIT_S = 20.0


class Node:
    """One node on a port of its own, which it keeps over its lives."""

    def __init__(self, home: Path, name: str, config: str, command: Sequence[str] = ()) -> None:
        """`command` goes before the node's own, such as `faketime` or `ip netns exec`."""
        self.name = name
        self.port = free_port()
        self.log_file = home / f"{name}.log"
        self._config_file = home / f"{name}.toml"
        self._config_file.write_text(config.format(name=name, port=self.port))
        self._command = [*command, sys.executable, "-m", "signal_server", "serve"]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}/v1/signal"

    def token(self, identity: str) -> str:
        return token(identity)

    def launch(self, *flags: str) -> None:
        """Start without waiting."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--config", str(self._config_file), *flags],
                cwd=_ROOT,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *flags: str) -> None:
        self.launch(*flags)
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not self.is_ready:
            assert self.process is not None
            assert self.process.poll() is None, self.log_file.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log_file.read_text()[-4000:]
            time.sleep(0.02)

    @property
    def is_ready(self) -> bool:
        return self.status("/readyz") == 200

    def status(self, path: str) -> int:
        """0: no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def admin(self, method: str, path: str) -> object:
        """The server API; its JSON."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=12) as reply:
            return json.loads(reply.read() or b"null")

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as reply:
            page = reply.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in page
            if line.startswith((name + " ", name + "{"))
        )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a crash: no time for anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_EXIT_S)
        self.process = None

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def drain(self) -> None:
        """SIGTERM, and the exit that it promises."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        assert self.process.wait(_EXIT_S) == 0, self.log_file.read_text()[-4000:]
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            # With whatever runs in front of it, such as faketime.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_EXIT_S)


def token(identity: str) -> str:
    """For that identity, for any room."""
    key = ApiKey(KEY_SID, KEY_SECRET)
    account = Account(ACCOUNT_SID, AUTH_TOKEN, (key,))
    tokens = AccessTokens(Accounts([account]))
    return tokens.issue(account, KEY_SID, identity, ttl_s=3600, now=time.time())


def config(redis_url: str, *, window_s: float = 30.0, drain_s: float = 2.0, more: str = "") -> str:
    """parley.toml, with `{name}` and `{port}` to be filled in."""
    return f"""
[server]
port = {{port}}
admin_token = "{ADMIN_TOKEN}"
drain_s = {drain_s}
[node]
name = "{{name}}"
[turn]
secret = "{TURN_SECRET}"
urls = ["turn:{LOOPBACK}:3478"]
[backplane]
url = "{redis_url}"
[[accounts]]
sid = "{ACCOUNT_SID}"
auth_token = "{AUTH_TOKEN}"
keys = [{{{{ sid = "{KEY_SID}", secret = "{KEY_SECRET}" }}}}]
[limits]
resume_window_s = {window_s}
{more}
""" + rates_toml().replace("{", "{{").replace("}", "}}")


class Proxy:
    """HAProxy: connections go to a node that is ready."""

    def __init__(self, home: Path, nodes: Sequence[Node]) -> None:
        self.port = free_port()
        servers = "".join(
            f"    server {node.name} {LOOPBACK}:{node.port} check inter 200ms fall 1 rise 1\n"
            for node in nodes
        )
        self._conf = home / "nodes.cfg"
        self._conf.write_text(
            f"""
global
    maxconn 4000
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    option redispatch 1
    retries 3
frontend web
    bind {LOOPBACK}:{self.port}
    default_backend nodes
backend nodes
    balance leastconn
    option httpchk GET /readyz
{servers}"""
        )

    @property
    def ws_url(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}/v1/signal"

    def token(self, identity: str) -> str:
        return token(identity)

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        command = ["haproxy", "-db", "-f", str(self._conf)]
        log = self._conf.with_suffix(".log")
        with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as child:
            try:
                deadline = time.monotonic() + _READY_S
                while not _answers(self.port):
                    assert child.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, "haproxy finds no node"
                    time.sleep(0.05)
                yield self
            finally:
                child.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/healthz", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def start_nodes(
    home: Path,
    redis_url: str,
    names: Sequence[str] = ("a", "b", "c"),
    *,
    window_s: float = 30.0,
    drain_s: float = 2.0,
    more: str = "",
    commands: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[list[Node]]:
    """Ready nodes."""
    text = config(redis_url, window_s=window_s, drain_s=drain_s, more=more)
    nodes = [Node(home, name, text, (commands or {}).get(name, ())) for name in names]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        yield nodes
    finally:
        for node in nodes:
            node.end()


async def aside(call: object) -> None:
    """A blocking call, beside the clients' loop."""
    await asyncio.to_thread(call)  # type: ignore[arg-type]
