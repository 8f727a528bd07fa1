"""One port for everything: HTTP next to WebSocket, the connection cap, TLS, shutting down."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conformance.socket_wire import (
    TEXT,
    EchoServer,
    echo_server,
    eventually,
    masked,
    request,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from signal_server.edge.front import listen

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"


def test_http_and_websocket_share_the_port(echo: EchoServer) -> None:
    with echo.open() as client, echo.connect() as browser:
        browser.send(GET)
        assert browser.answer()[::2] == (200, b"hello")
        client.send(masked(TEXT, b"both"))
        assert client.text() == "both"


def test_keep_alive_then_upgrade_with_frames_right_behind(echo: EchoServer) -> None:
    with echo.connect() as client:
        for _ in range(3):
            client.send(GET)
            assert client.answer()[::2] == (200, b"hello")
        client.send(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345")
        assert client.answer()[::2] == (200, b"5")
        client.send(request("/echo", "Authorization: Bearer t") + masked(TEXT, b"behind"))
        assert client.head()[0] == 101
        assert client.text() == "behind"
        client.send(masked(TEXT, b"x" * 70_000))
        assert client.text() == "x" * 70_000


def test_a_pipelined_upgrade_waits_for_the_answer_before_it(echo: EchoServer) -> None:
    with echo.connect() as client:
        client.send(GET + request() + masked(TEXT, b"last"))
        assert client.answer()[::2] == (200, b"hello")
        assert client.head()[0] == 101
        assert client.text() == "last"


def test_a_refused_upgrade_on_a_used_connection(echo: EchoServer) -> None:
    with echo.connect() as client:
        client.send(GET)
        assert client.answer()[0] == 200
        client.send(request(replace={"Sec-WebSocket-Version": "7"}))
        assert client.answer()[0] == 426
        assert client.ended() == b""


def test_upgrade_elsewhere_is_plain_http(echo: EchoServer) -> None:
    with echo.connect() as client:
        client.send(request("/hello"))
        assert client.answer()[::2] == (200, b"hello")


def test_a_request_in_small_pieces(echo: EchoServer) -> None:
    raw = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    with echo.connect() as client:
        for i in range(len(raw)):
            client.send(raw[i : i + 1])
        assert client.answer()[::2] == (200, b"3")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_over_the_cap_get_503_and_http_still_works(loop: str) -> None:
    with echo_server(loop=loop, limits={"connections_per_node": 3}) as server:
        clients = [server.open() for _ in range(3)]
        with server.connect() as late:
            late.send(request())
            status, fields, _ = late.answer()
            assert status == 503
            assert int(fields["retry-after"]) > 0
            assert late.ended() == b""
        assert server.stats()["rejected"] == {"capacity": 1}
        clients.pop().tcp.close()
        eventually(lambda: server.stats()["sockets"] == 2)
        with server.open() as next_one:
            next_one.send(masked(TEXT, b"in"))
            assert next_one.text() == "in"
        for client in clients:
            client.tcp.close()


def test_not_even_plain_connections_grow_without_bound() -> None:
    options = {"limits": {"connections_per_node": 1}, "settings": {"spare_connections": 4}}
    with echo_server(**options) as server:
        idle = [server.connect() for _ in range(5)]
        told = [server.connect() for _ in range(4)]
        assert [client.answer()[0] for client in told] == [503] * 4
        with server.connect() as one_more:
            assert one_more.ended() == b""
        for client in idle + told:
            client.tcp.close()
        eventually(lambda: server.stats()["transports"] == 1)


def test_origins_on_the_wire() -> None:
    with echo_server(origins=["https://a.example"]) as server:
        with server.connect() as page:
            page.send(request("/echo", "Origin: https://b.example"))
            assert page.answer()[0] == 403
        with server.open("/echo", "Origin: https://a.example") as page:
            page.send(masked(TEXT, b"welcome"))
            assert page.text() == "welcome"
        with server.open() as program:
            program.send(masked(TEXT, b"no origin"))
            assert program.text() == "no origin"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_close_all(loop: str) -> None:
    with echo_server(loop=loop, settings={"close_timeout_s": 0.5}) as server:
        clients = [server.open() for _ in range(10)]
        url = f"http://127.0.0.1:{server.port}/close-all"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reply = pool.submit(urllib.request.urlopen, url, b"")
            assert [client.close_code() for client in clients] == [4000] * 10
            for client in clients[:5]:
                client.send(masked(0x88, b"\x0f\xa0"))
            # The other five never answer, and are cut.
            assert reply.result(10).read() == b"gone"
            reply.result().close()
        stats = server.stats()
        assert stats["closed_codes"] == [4000] * 10
        assert stats["closed_by_us"] == {"4000": 10}
        for client in clients:
            client.tcp.close()


def test_tokens_payloads_and_addresses_are_not_logged() -> None:
    with echo_server(errors_expected=True) as server:
        with server.open("/echo?access_token=SECRET1", "Authorization: Bearer SECRET2") as client:
            client.order(do="raise", note="SECRET3")
            assert client.close_code() == 4099
            client.send(masked(0x88))
            client.ended()
        log = server.log()
        assert "RuntimeError" in log
        assert "socket_echo_server.py" in log
        for secret in ("SECRET", "127.0.0.1"):
            assert secret not in log


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        f" -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_over_tls(loop: str, certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    trust = ssl.create_default_context(cafile=cert)
    options = {"certfile": cert, "keyfile": key, "settings": {"close_timeout_s": 1.0}}
    with echo_server(loop=loop, **options) as server:
        origin = f"127.0.0.1:{server.port}"
        async with connect(f"wss://{origin}/echo", ssl=trust) as client:
            for size in (0, 126, 65536, 128 * 1024):
                await client.send("t" * size)
                assert await client.recv() == "t" * size
            await client.send("x" * (128 * 1024 + 1))
            await client.wait_closed()
            assert client.close_code == 1009
        async with connect(f"wss://{origin}/echo", ssl=trust) as client:
            await client.send('!{"do": "close", "code": 4503, "reason": "kicked"}')
            assert await client.recv() == "last words"
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4503, "kicked")
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"wss://{origin}/echo", ssl=trust, subprotocols=["other"])  # type: ignore[list-item]
        assert refusal.value.response.status_code == 400

        def stats() -> bytes:
            with urllib.request.urlopen(f"https://{origin}/hello", context=trust) as reply:
                return bytes(reply.read())

        assert await asyncio.to_thread(stats) == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "localhost"])
def test_listening_sockets(host: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(listen(host, 0, user_timeout_s=7, reuse_port=True))
        except OSError:
            pytest.skip("no IPv6 here")
        port = listener.getsockname()[1]
        second = stack.enter_context(listen(host, port, reuse_port=True))
        second.close()
        target = {"::": "127.0.0.1", "localhost": listener.getsockname()[0]}.get(host, host)
        client = stack.enter_context(socket.create_connection((target, port), timeout=5))
        accepted = stack.enter_context(listener.accept()[0])
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getpeername()[1] == port


def test_a_port_that_is_taken_is_an_error() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])
