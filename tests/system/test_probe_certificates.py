"""When the certificates of a deployment end: of everything that is reached over TLS, and the
earliest of each chain."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from accounts import Account
from certificates import Authority
from coturn import free_port
from servers import start_serve

from probes.blackbox import exposition
from probes.checks import certificate
from probes.runner import Kind, Plan, Run

LONG, SHORT = timedelta(days=500), timedelta(days=20)
CONFIG = """
[server]
port = 0
drain_s = 0
[turn]
secret = "a-secret-that-only-this-test-has-and-no-other"
urls = ["turn:192.0.2.1:3478"]
probing.enabled = false
[[regions]]
id = "default"
url = "{url}"
"""


@contextlib.asynccontextmanager
async def tls_in_front(
    authority: Authority, ends: timedelta, port: int
) -> AsyncIterator[dict[str, int]]:
    """Passes on to `port` of what it yields."""
    leaf = authority.leaf("front", ends=ends)
    chain = leaf.certificate.with_name("chain.pem")
    chain.write_bytes(leaf.certificate.read_bytes() + authority.path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, leaf.key)
    behind = {"port": 0}

    conversations: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", behind["port"])
        try:
            await asyncio.gather(pump(reader, outer), pump(inner, writer))
        finally:
            for one in (writer, outer):
                one.transport.abort()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.add(asyncio.ensure_future(pass_on(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", port, ssl=context)
    async with server:
        yield behind
        for one in conversations:
            one.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


@pytest.mark.parametrize("ends", [LONG, SHORT])
async def test_the_first_end_of_each_chain_is_told(ends: timedelta, tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    url = f"https://127.0.0.1:{port}"
    async with tls_in_front(authority, ends, port) as behind:
        with start_serve(CONFIG.format(url=url) + Account().toml) as server:
            behind["port"] = int(server.url.rsplit(":", 1)[1])
            run = Run(Plan(kind=Kind.WS, base_url=url, tls=authority.trust()), lambda _: None)
            await run.go()
    found = {result.name: result.figures.get(certificate.FIGURE) for result in run.results.values()}
    assert set(found) == {"api", "ws"}
    first = min(ends, timedelta(days=365))
    for told in found.values():
        assert told is not None
        left = datetime.fromtimestamp(told, UTC) - datetime.now(UTC)
        assert abs(left - first) < timedelta(hours=1)
    page = exposition(run, 1.0, None).decode()
    samples = [line for line in page.splitlines() if line.startswith("probe_ssl_earliest")]
    assert {float(line.split()[-1]) for line in samples} == set(found.values())
    assert len(samples) == 2


async def test_without_tls_nothing_ends(tmp_path: Path) -> None:
    config = CONFIG.format(url="http://127.0.0.1:1") + Account().toml
    with start_serve(config) as server:
        run = Run(Plan(kind=Kind.API, base_url=server.url), lambda _: None)
        await run.go()
    (result,) = run.results.values()
    assert result.figures["round_trip_ms"] > 0
    assert certificate.FIGURE not in result.figures
    assert "probe_ssl_earliest_cert_expiry{" not in exposition(run, 1.0, None).decode()
