"""The opening handshake: a table of requests for the pure function, and bytes on a real port."""

from __future__ import annotations

import json
import time

import pytest
from conformance.socket_wire import KEY, EchoServer, echo_server, masked, request
from hypothesis import given
from hypothesis import strategies as st

from signal_server.edge.handshake import Handshake, Refusal, get_path, head_end, parse

GOOD = request()


def accepted(head: bytes, allowed_origins: frozenset[str] | None = None) -> Handshake:
    decision = parse(head, allowed_origins=allowed_origins)
    assert isinstance(decision, Handshake), decision
    return decision


def test_the_example_of_rfc_6455() -> None:
    handshake = accepted(GOOD)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in handshake.response()
    assert handshake.response().startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert handshake.path == "/echo"
    assert (handshake.host, handshake.origin, handshake.token) == ("localhost", None, None)


@pytest.mark.parametrize(
    "head",
    [
        request(replace={"Upgrade": "WebSocket"}),
        request(replace={"Upgrade": "h2c, websocket"}),
        request(replace={"Connection": "keep-alive, Upgrade"}),
        request(replace={"Connection": "keep-alive"}).replace(
            b"\r\n\r\n", b"\r\nConnection: upgrade\r\n\r\n"
        ),
        request(replace={"Host": "[::1]:8080"}),
        request(replace={"Content-Length": "0"}),
        request("/echo", "X-Latin: caf\xe9", "X-Empty:", "X-Tab:\tvalue\t"),
        request("/echo", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        request().replace(b"Host:", b"hOST:"),
    ],
)
def test_variants_that_are_fine(head: bytes) -> None:
    assert b"Extensions" not in accepted(head).response()


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (request(replace={"Upgrade": None, "Connection": None}), 426, "not_an_upgrade"),
        (request(replace={"Upgrade": "h2c"}), 426, "not_an_upgrade"),
        (request(replace={"Connection": None}), 400, "connection"),
        (request(replace={"Connection": "keep-alive"}), 400, "connection"),
        (request(replace={"Connection": "upgraded"}), 400, "connection"),
        (request(replace={"Sec-WebSocket-Version": None}), 426, "websocket_version"),
        (request(replace={"Sec-WebSocket-Version": "8"}), 426, "websocket_version"),
        (request(replace={"Sec-WebSocket-Version": "13, 8"}), 426, "websocket_version"),
        (request(replace={"Sec-WebSocket-Key": None}), 400, "key"),
        (request(replace={"Sec-WebSocket-Key": ""}), 400, "key"),
        (request(replace={"Sec-WebSocket-Key": "short"}), 400, "key"),
        (request(replace={"Sec-WebSocket-Key": "?" * 24}), 400, "key"),
        (request(replace={"Sec-WebSocket-Key": KEY + "A"}), 400, "key"),
        (request(replace={"Host": None}), 400, "host"),
        (request(replace={"Host": ""}), 400, "host"),
        (request(replace={"Content-Length": "5"}), 400, "body"),
        (request(replace={"Transfer-Encoding": "chunked"}), 400, "body"),
        (request("/echo", "Host: other"), 400, "duplicate_header"),
        (request("/echo", f"Sec-WebSocket-Key: {KEY}"), 400, "duplicate_header"),
        (request("/echo", "sec-websocket-version: 13"), 400, "duplicate_header"),
        (request("/echo", "Origin: a", "Origin: b"), 400, "duplicate_header"),
        (
            request("/echo", "Authorization: Bearer a", "Authorization: Bearer b"),
            400,
            "duplicate_header",
        ),
        (request("/echo", " folded"), 400, "malformed"),
        (request("/echo", "\tfolded"), 400, "malformed"),
        (request("/echo", "no colon"), 400, "malformed"),
        (request("/echo", "Space : x"), 400, "malformed"),
        (request("/echo", ": no name"), 400, "malformed"),
        (request("/echo", "Nul: a\x00b"), 400, "malformed"),
        (request("/echo", "Cr: a\rb"), 400, "malformed"),
        (request("/echo", "Bell: \x07"), 400, "malformed"),
        (request("/echo", "N\xe4me: x"), 400, "malformed"),
        (GOOD.replace(b"\r\n", b"\n"), 400, "malformed"),
        (GOOD.replace(b"Host: localhost\r\n", b"Host: localhost\n"), 400, "malformed"),
        (GOOD.replace(b" HTTP/1.1", b""), 400, "malformed"),
        (GOOD.replace(b" HTTP/1.1", b"  HTTP/1.1"), 400, "malformed"),
        (GOOD.replace(b" HTTP/1.1", b" HTTP/11"), 400, "malformed"),
        (GOOD.replace(b"/echo ", b"/ec ho "), 400, "malformed"),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "http_version"),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), 400, "http_version"),
        (GOOD.replace(b"GET", b"POST"), 405, "method"),
        (GOOD.replace(b"GET", b"get"), 405, "method"),
        (request("/echo", *[f"X-{i}: y" for i in range(200)]), 431, "head_too_large"),
        (request("/echo", "Sec-WebSocket-Protocol: other"), 400, "subprotocol"),
        (request("/echo", "Sec-WebSocket-Protocol: parley.token.abc"), 400, "subprotocol"),
        (request("/echo", "Sec-WebSocket-Protocol: parley.v1.json, a b"), 400, "subprotocol"),
        (
            request("/echo", "Sec-WebSocket-Protocol: parley.v1.json, parley.v1.json"),
            400,
            "subprotocol",
        ),
    ],
)
def test_refusals(head: bytes, status: int, reason: str) -> None:
    decision = parse(head)
    assert isinstance(decision, Refusal)
    assert (decision.status, decision.reason) == (status, reason)
    raw = decision.response()
    top, _, body = raw.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in top
    assert set(json.loads(body)) == {"code", "message"}
    if reason == "websocket_version":
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in top
    if status == 426:
        assert b"\r\nUpgrade: websocket\r\n" in top


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        (None, ["https://a.example"], True),
        (None, [], True),
        ("https://a.example", ["https://a.example"], True),
        ("https://a.example:444", ["https://a.example"], False),
        ("http://a.example", ["https://a.example"], False),
        ("https://a.example.evil", ["https://a.example"], False),
        ("https://A.example", ["https://a.example"], False),
        ("null", ["null", "https://a.example"], False),
        ("null", None, True),
        ("https://any.example", None, True),
        ("", ["https://a.example"], False),
        ("http://localhost", [], True),
        ("https://localhost", [], True),
        ("https://localhost:444", [], False),
        ("https://localhost.evil", [], False),
        ("ftp://localhost", [], False),
        ("localhost", [], False),
    ],
)
def test_origins(origin: str | None, allowed: list[str] | None, passes: bool) -> None:
    head = request(replace={"Origin": origin})
    decision = parse(head, allowed_origins=None if allowed is None else frozenset(allowed))
    assert isinstance(decision, Handshake) is passes
    if isinstance(decision, Refusal):
        assert (decision.status, decision.reason) == (403, "origin")


def test_the_subprotocol_is_answered_and_the_token_never() -> None:
    handshake = accepted(
        request("/echo", "Sec-WebSocket-Protocol: parley.token.a.b-c_d, parley.v1.json")
    )
    assert handshake.token == "a.b-c_d"
    assert handshake.subprotocol == "parley.v1.json"
    assert b"\r\nSec-WebSocket-Protocol: parley.v1.json\r\n" in handshake.response()
    assert b"a.b-c_d" not in handshake.response()


def test_another_version_is_let_in_to_be_told() -> None:
    handshake = parse(request("/echo", "Sec-WebSocket-Protocol: parley.token.abc, parley.v2.json"))
    assert isinstance(handshake, Handshake)
    assert handshake.subprotocol == "parley.v2.json"
    both = parse(request("/echo", "Sec-WebSocket-Protocol: parley.v2.json, parley.v1.json"))
    assert isinstance(both, Handshake)
    assert both.subprotocol == "parley.v1.json"


def test_no_subprotocol_offered_none_answered() -> None:
    assert b"Protocol:" not in accepted(GOOD).response()


@pytest.mark.parametrize(
    ("lines", "token"),
    [
        (["Authorization: Bearer abc"], "abc"),
        (["authorization: bearer   abc "], "abc"),
        (["Authorization: Basic abc"], None),
        (["Authorization: Bearer"], None),
        (["Authorization: Bearer "], None),
        (["Sec-WebSocket-Protocol: parley.v1.json, parley.token."], None),
        (
            ["Authorization: Bearer abc", "Sec-WebSocket-Protocol: parley.v1.json, parley.token.x"],
            "abc",
        ),
        (["Sec-WebSocket-Protocol: parley.v1.json", "Sec-WebSocket-Protocol: parley.token.x"], "x"),
    ],
)
def test_where_a_token_may_be(lines: list[str], token: str | None) -> None:
    assert accepted(request("/echo", *lines)).token == token


def test_a_query_is_not_part_of_the_path_and_carries_no_token() -> None:
    handshake = accepted(request("/echo?access_token=secret&token=secret"))
    assert handshake.path == "/echo"
    assert handshake.query == "access_token=secret&token=secret"
    assert handshake.token is None


@given(st.binary(max_size=400))
def test_random_heads_never_raise(noise: bytes) -> None:
    for head in (noise, b"GET /echo HTTP/1.1\r\n" + noise + b"\r\n\r\n", GOOD[:-2] + noise):
        decision = parse(head)
        assert decision.response()
        get_path(head)
        assert 0 <= head_end(head) <= len(head)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_one_wrong_byte_never_raises(at: int, byte: int) -> None:
    assert parse(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]).response()


# -- on the wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(replace={"Upgrade": None, "Connection": None}), 426),
        (request(replace={"Sec-WebSocket-Version": "7"}), 426),
        (request(replace={"Sec-WebSocket-Key": "bad"}), 400),
        (request("/echo", " folded"), 400),
        (request("/echo", "Nul: \x00"), 400),
        (GOOD.replace(b"\r\n", b"\n"), 400),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (GOOD.replace(b"GET", b"POST"), 405),
        (GOOD.replace(b"GET", b"BREW"), 405),
        (request("/echo", "X: " + "y" * 20_000), 431),
        (request("/echo", *[f"X-{i}: y" for i in range(200)]), 431),
        (b"GET /" + b"a" * 70_000, 431),
        (request("/echo?" + "q" * 20_000), 431),
        (b"GET /hello HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
        (request("/nothing-here"), 404),
    ],
)
def test_refused_on_the_wire_with_an_answer_and_an_end(
    echo: EchoServer, head: bytes, status: int
) -> None:
    with echo.connect() as client:
        client.send(head)
        answered, fields, _ = client.answer()
        assert answered == status
        if status != 404:
            assert "close" in fields["connection"].lower()
            client.ended()
    assert "Traceback" not in str(fields)


def test_a_head_sent_byte_by_byte(echo: EchoServer) -> None:
    with echo.connect() as client:
        for i in range(len(GOOD)):
            client.send(GOOD[i : i + 1])
        assert client.head()[0] == 101
        client.send(masked(0x81, b"hi"))
        assert client.text() == "hi"


def test_deflate_is_never_negotiated(echo: EchoServer) -> None:
    with echo.connect() as client:
        client.send(request("/echo", "Sec-WebSocket-Extensions: permessage-deflate"))
        status, fields = client.head()
        assert status == 101
        assert "sec-websocket-extensions" not in fields


def test_what_the_endpoint_learns(echo: EchoServer) -> None:
    lines = ["Origin: https://a.example", "Authorization: Bearer tok", "X-Forwarded-For: 9.9.9.9"]
    with echo.open("/echo", *lines) as client:
        client.order(do="who")
        who = json.loads(client.text())
    assert who["token"] == "tok"
    assert who["origin"] == "https://a.example"
    assert who["remote"] == "127.0.0.1"


def test_forwarded_for_is_believed_from_a_trusted_proxy_only() -> None:
    with echo_server(settings={"trusted_proxies": ["127.0.0.1", "10.0.0.1"]}) as server:
        chain = "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.1"
        with server.open("/echo", chain) as client:
            client.order(do="who")
            assert json.loads(client.text())["remote"] == "203.0.113.7"


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GET /ec",
        b"GET /echo HTTP/1.1\r\nHost: x\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
        b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HT",
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_request_that_never_ends_is_ended(start: bytes, loop: str) -> None:
    with echo_server(loop=loop, limits={"handshake_timeout_s": 0.5}) as server:
        clients = [server.connect() for _ in range(20)]
        started = time.monotonic()
        for client in clients:
            client.send(start)
        for client in clients:
            before = client.ended()
            client.tcp.close()
            if start.startswith((b"G", b"GET /ec")) and b"\r\n\r\n" not in start:
                assert before.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started > 0.4
        assert server.stats()["transports"] == 1


def test_a_byte_at_a_time_does_not_put_the_deadline_off() -> None:
    with echo_server(limits={"handshake_timeout_s": 0.5}) as server, server.connect() as client:
        started = time.monotonic()
        client.tcp.settimeout(0.05)
        for byte in request("/echo", "X: " + "y" * 1000):
            try:
                client.send(bytes([byte]))
                if client.tcp.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - started < 15, "all bytes would take a minute"
        assert server.stats()["rejected"]["timeout"] == 1
