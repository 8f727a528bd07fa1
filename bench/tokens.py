"""`make bench ARGS="--only tokens"`: credentials per second beside a bare Starlette JSON route.

Each server on one core, the generator on another, keep-alive connections, rounds interleaved. The
figure is requests per CPU-second of the server; the goal is 0.7 of that of the bare route that is
asked in the same way: GET, or POST of a form, which costs more before anything is done with it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import compared

BENCH = Path(__file__).resolve().parent
GOAL = 0.7
CONNECTIONS = 16
WARM_UP_S = 0.5
ACCOUNT_SID, KEY_SID = "AC" + "1a" * 16, "SK" + "2b" * 16
AUTH_TOKEN, KEY_SECRET, TURN_SECRET = (f"{n}-0123456789abcdef0123456789abcdef" for n in "abc")
_CONFIG = f"""
[turn]
secret = "{TURN_SECRET}"
urls = ["turn:turn.example.org:3478?transport=udp", "turn:turn.example.org:3478?transport=tcp",
        "turns:turn.example.org:443?transport=tcp"]
[turn.issue]
identity_per_s = 1000000.0
identity_burst = 1000000
address_per_s = 1000000.0
address_burst = 1000000
[[accounts]]
sid = "{ACCOUNT_SID}"
auth_token = "{AUTH_TOKEN}"
[accounts.limits]
per_s = 1000000.0
burst = 1000000
[[accounts.keys]]
sid = "{KEY_SID}"
secret = "{KEY_SECRET}"
"""


@dataclass(frozen=True)
class Target:
    """One kind of request to one of the two servers."""

    name: str
    request: bytes
    beside: str = ""
    """The bare route it is compared with; empty: it is one."""


def targets() -> list[Target]:
    twilio = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Tokens.json"
    basic = base64.b64encode(f"{ACCOUNT_SID}:{AUTH_TOKEN}".encode()).decode()
    form = "Content-Type: application/x-www-form-urlencoded\r\n"
    get, post = "bare route, GET", "bare route, form"
    return [
        Target(get, _request("GET", "/", f"Basic {basic}")),
        Target("native, key", _request("GET", "/v1/ice-servers", f"Basic {basic}"), get),
        Target("native, token", _request("GET", "/v1/ice-servers", f"Bearer {_token()}"), get),
        Target(post, _request("POST", "/", f"Basic {basic}", form, "Ttl=600")),
        Target("twilio", _request("POST", twilio, f"Basic {basic}", form, "Ttl=600"), post),
    ]


def _token() -> str:
    import jwt

    claims = {"iss": ACCOUNT_SID, "aud": "parley", "sub": "alice", "exp": int(time.time()) + 3600}
    return jwt.encode(claims, KEY_SECRET, "HS256", {"kid": KEY_SID})


def _request(method: str, path: str, who: str = "", extra: str = "", body: str = "") -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: broker\r\nAccept: application/json\r\n{extra}"
    lines += f"Authorization: {who}\r\n" if who else ""
    lines += f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{lines}\r\n{body}".encode()


@contextlib.contextmanager
def served(is_broker: bool, scratch: Path, core: int) -> Iterator[tuple[int, str]]:
    """The server's process id and URL."""
    config = scratch / "parley.toml"
    config.write_text(_CONFIG)
    command = [sys.executable, str(BENCH / "peers" / "bare_route.py")]
    if is_broker:
        command = [sys.executable, "-m", "turn_broker", "--port", "0", "--config", str(config)]
    command = compared.pinned(command, core, compared.may_raise_priority())
    environment = {**os.environ, "PYTHONPATH": str(BENCH.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child.pid, json.loads(child.stdout.readline())["url"]
        finally:
            child.terminate()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _load(url: str, request: bytes, seconds: float) -> int:
    """Requests answered with 200 or 201 in `seconds`."""
    parts = urlsplit(url)
    until = time.monotonic() + seconds
    done = 0

    async def ask() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
                raise RuntimeError(head.decode("latin-1"))
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            done += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return done


def measure(target: Target, scratch: Path, core: int, seconds: float) -> tuple[float, float]:
    """Requests per CPU-second of the server, and per second."""
    with served(bool(target.beside), scratch, core) as (pid, url):
        deadline = time.monotonic() + compared.READY_S
        while True:
            try:
                asyncio.run(_load(url, target.request, WARM_UP_S))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
        before, began = _cpu_s(pid), time.monotonic()
        done = asyncio.run(_load(url, target.request, seconds))
        return done / (_cpu_s(pid) - before), done / (time.monotonic() - began)


def main(rounds: int, seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="parley-tokens-") as name:
        for _ in range(rounds):
            for target in targets():
                result = measure(target, Path(name), cores[0], seconds)
                found.setdefault(target.name, []).append(result)
    print(f"| tokens | requests per CPU-s | requests per s | of its bare route (goal {GOAL}) |")
    print("|---|---|---|---|")
    per_cpu_s = {name: median(result[0] for result in results) for name, results in found.items()}
    for target in targets():
        own = per_cpu_s[target.name]
        per_s = median(result[1] for result in found[target.name])
        share = own / per_cpu_s[target.beside or target.name]
        print(f"| {target.name} | {own:,.0f} | {per_s:,.0f} | {share:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    main(options.rounds, options.seconds)
