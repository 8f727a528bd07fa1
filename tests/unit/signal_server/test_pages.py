"""The pages as HTTP serves them: types, caching, policy, and nothing but shipped files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from signal_server.edge import pages

ROOTS = [files(room) / "browser" for room in ("signal_server", "probes")]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[*pages.routes(ROOTS, node="n<1>", region="eu & co")])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://parley.test") as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/demo", "text/html; charset=utf-8"),
        ("/diagnostics", "text/html; charset=utf-8"),
        ("/js/parley.js", "text/javascript; charset=utf-8"),
        ("/js/mos.js", "text/javascript; charset=utf-8"),
        ("/js/parley.d.ts", "text/plain; charset=utf-8"),
        ("/css/parley.css", "text/css; charset=utf-8"),
        ("/css/diagnostics.css", "text/css; charset=utf-8"),
        ("/img/icons.svg", "image/svg+xml"),
    ],
)
async def test_files_have_their_type_policy_and_tag(
    client: httpx.AsyncClient, path: str, content_type: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy

    known = await client.get(
        path, headers={"If-None-Match": f'"other", W/{answer.headers["ETag"]}'}
    )
    assert (known.status_code, known.content) == (304, b"")
    assert (await client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_scripts_may_ask_the_other_regions() -> None:
    found = pages.routes(ROOTS, origins=["https://eu.parley.test", "https://us.parley.test"])
    transport = httpx.ASGITransport(app=Starlette(routes=[*found]))
    async with httpx.AsyncClient(transport=transport, base_url="http://parley.test") as opened:
        policy = (await opened.get("/diagnostics")).headers["Content-Security-Policy"]
    assert "connect-src 'self' ws: wss: https://eu.parley.test https://us.parley.test;" in policy


async def test_names_of_node_and_region_are_escaped(client: httpx.AsyncClient) -> None:
    text = (await client.get("/")).text
    assert "n&lt;1&gt;" in text
    assert "eu &amp; co" in text
    assert "{{" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/js/../__init__.py",
        "/js/%2e%2e/index.html",
        "/js/..%2findex.html",
        "/js/%2e%2e%2f%2e%2e%2fconfig.py",
        "/js/nothing.js",
        "/js/",
        "/css/parley.js",
        "/__init__.py",
        "/index.html",
    ],
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_link_to_this_site_becomes_a_qr_code(client: httpx.AsyncClient) -> None:
    answer = await client.get("/demo/qr.svg", params={"url": "http://parley.test/demo?room=abc"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.text.startswith("<svg")
    other = await client.get("/demo/qr.svg", params={"url": "http://parley.test/demo?room=abd"})
    assert other.text != answer.text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/demo",
        "http://evil.test/demo",
        "http://parley.test@evil.test/demo",
        "javascript:alert(1)",
        "http://[",
        "http://parley.test/demo#token=secret",
        "http://parley.test/demo?room=\u202e",
        "http://parley.test/demo?room=" + "x" * 600,
    ],
)
async def test_no_other_link_becomes_a_qr_code(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.get("/demo/qr.svg", params={"url": url})
    assert answer.status_code == 400


def test_a_name_that_two_roots_have_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "parley.js").write_text("")
    with pytest.raises(ValueError, match=r"parley\.js"):
        pages.routes([*ROOTS, tmp_path])
