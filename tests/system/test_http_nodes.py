"""The HTTP fallback behind a proxy over several nodes that learns which node has which session."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from coturn import LOOPBACK, free_port
from links import Talker
from nodes import Node, start_nodes, token
from redis_server import start_redis

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
MESSAGES = 12
_READY_S = 20.0
_rooms = (f"proxied-{number}" for number in itertools.count())


def shipped_rules() -> str:
    """What docs/protocol.md tells operators to put into the backend."""
    block = re.search(r"```haproxy\n(.*?)```", PROTOCOL.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


@contextlib.contextmanager
def start_haproxy(home: Path, nodes: list[Node]) -> Iterator[str]:
    port = free_port()
    servers = "".join(
        f"    server {node.name} {LOOPBACK}:{node.port} check inter 200ms fall 1 rise 1\n"
        for node in nodes
    )
    conf = home / "haproxy.cfg"
    conf.write_text(
        f"""
global
    maxconn 1000
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    option redispatch 1
frontend web
    bind {LOOPBACK}:{port}
    default_backend nodes
backend nodes
    balance roundrobin
    option httpchk GET /readyz
{shipped_rules()}
{servers}"""
    )
    log = home / "haproxy.log"
    command = ["haproxy", "-db", "-f", str(conf)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as child:
        try:
            deadline = time.monotonic() + _READY_S
            while not _is_up(f"http://{LOOPBACK}:{port}/healthz"):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://{LOOPBACK}:{port}"
        finally:
            child.kill()


def _is_up(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
async def test_a_proxy_learns_where_a_session_is(tmp_path: Path) -> None:
    with (
        start_redis() as redis,
        start_nodes(tmp_path, redis.url) as nodes,
        start_haproxy(tmp_path, nodes) as url,
    ):
        room = next(_rooms)
        ann, bob = Talker(url, token("ann")), Talker(url, token("bob"))
        await ann.hello("long-poll", room=room)
        await bob.hello("sse", room=room)
        await ann.sees("peer_joined")
        for number in range(MESSAGES):
            for sender, receiver in ((ann, bob), (bob, ann)):
                said = {"type": "message", "to": receiver.peer, "data": number, "id": f"x{number}"}
                headers = {"Authorization": f"Bearer {sender.secret}"}
                # On a connection of its own, for which the proxy chooses anew.
                async with httpx.AsyncClient(base_url=url, headers=headers) as http:
                    reply = await http.post(f"/v1/sessions/{sender.session}/messages", json=[said])
                assert reply.json()["results"][0]["type"] == "ok", reply.text
        for talker in (ann, bob):
            await talker.sees("message", MESSAGES)
            assert [each["data"] for each in talker.of_type("message")] == list(range(MESSAGES))
        assert {ann.link.ended, bob.link.ended} == {""}
        for talker in (ann, bob):
            await talker.ask("bye")
            await talker.link.cut()
