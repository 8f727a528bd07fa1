"""RFC 6455 sections 5 and 7, frame by frame, against a real server on both event loops."""

from __future__ import annotations

import struct
import time

import pytest
from conformance.socket_wire import (
    BINARY,
    CLOSE,
    CONTINUE,
    LAST,
    PING,
    PONG,
    TEXT,
    EchoServer,
    RawClient,
    closing,
    eventually,
    masked,
    request,
)

LIMIT = 128 * 1024


def refused_with(client: RawClient, code: int) -> None:
    """The server sends this close code and then the end of the stream."""
    assert client.close_code() == code
    assert client.ended() == b""


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, LIMIT])
def test_every_length_encoding_comes_back(echo: EchoServer, size: int) -> None:
    with echo.open() as client:
        client.send(masked(TEXT, b"y" * size))
        first, payload = client.frame()
        assert (first, payload) == (TEXT, b"y" * size)


def test_lengths_need_not_be_minimal(echo: EchoServer) -> None:
    with echo.open() as client:
        client.send(
            b"\x81\xfe\x00\x02\0\0\0\0hi" + b"\x81\xff" + struct.pack("!Q", 2) + b"\0\0\0\0yo"
        )
        assert [client.text(), client.text()] == ["hi", "yo"]


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x01\x02\x03"])
def test_any_mask(echo: EchoServer, mask: bytes) -> None:
    with echo.open() as client:
        client.send(masked(TEXT, "kämpfte 漢字 🙂".encode(), mask))
        assert client.text() == "kämpfte 漢字 🙂"


def test_half_sent_frames_byte_by_byte(echo: EchoServer) -> None:
    with echo.open() as client:
        stream = (
            masked(TEXT, b"z" * 200) + masked(PING, b"p") + masked(0x01, b"a") + masked(LAST, b"b")
        )
        for i in range(len(stream)):
            client.send(stream[i : i + 1])
        assert client.text() == "z" * 200
        assert client.frame() == (PONG, b"p")
        assert client.text() == "ab"


def test_many_frames_in_one_segment_keep_their_order(echo: EchoServer) -> None:
    with echo.open() as client:
        client.send(b"".join(masked(TEXT, str(i).encode()) for i in range(500)))
        assert [client.text() for _ in range(500)] == [str(i) for i in range(500)]


def test_frames_in_the_same_segment_as_the_handshake(echo: EchoServer) -> None:
    with echo.connect() as client:
        client.send(request() + masked(TEXT, b"early") + masked(TEXT, b"bird")[:3])
        assert client.head()[0] == 101
        assert client.text() == "early"
        client.send(masked(TEXT, b"bird")[3:])
        assert client.text() == "bird"


def test_fragments_with_control_frames_between_them(echo: EchoServer) -> None:
    with echo.open() as client:
        client.send(
            masked(0x01, b"frag") + masked(PING, b"1") + masked(CONTINUE, b"") + masked(PONG)
        )
        client.send(masked(CONTINUE, b"men") + masked(PING, b"2") + masked(LAST, b"ts"))
        assert client.frame() == (PONG, b"1")
        assert client.frame() == (PONG, b"2")
        assert client.text() == "fragments"
        client.send(masked(TEXT, b"plain again"))
        assert client.text() == "plain again"


def test_empty_fragments_make_an_empty_message(echo: EchoServer) -> None:
    with echo.open() as client:
        client.send(masked(0x01) + masked(CONTINUE) + masked(LAST))
        assert client.text() == ""


def test_a_character_may_be_cut_between_fragments(echo: EchoServer) -> None:
    raw = "a€🙂".encode()
    with echo.open() as client:
        for cut in range(1, len(raw)):
            client.send(masked(0x01, raw[:cut]) + masked(LAST, raw[cut:]))
            assert client.text() == "a€🙂"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(masked(CONTINUE, b"x"), id="continuation of nothing"),
        pytest.param(masked(LAST, b"x"), id="last fragment of nothing"),
        pytest.param(masked(0x01, b"x") + masked(TEXT, b"y"), id="text inside a message"),
        pytest.param(masked(0x01, b"x") + masked(0x01, b"y"), id="new message inside a message"),
        pytest.param(masked(0x09, b"x"), id="fragmented ping"),
        pytest.param(masked(0x08, b""), id="fragmented close"),
        pytest.param(masked(PING, b"x" * 126), id="ping over 125 bytes"),
        pytest.param(masked(PONG, b"x" * 126), id="pong over 125 bytes"),
        pytest.param(masked(CLOSE, b"\x03\xe8" + b"x" * 124), id="close over 125 bytes"),
        pytest.param(b"\x81\x02hi", id="unmasked text"),
        pytest.param(b"\x81\x7e\x00", id="unmasked text with half a length"),
        pytest.param(b"\x89\x00", id="unmasked ping"),
        pytest.param(b"\x8a\x02hi", id="unmasked pong"),
        *[
            pytest.param(masked(TEXT | bits, b"x"), id=f"reserved bits {bits:#x}")
            for bits in (0x40, 0x20, 0x10, 0x70)
        ],
        pytest.param(masked(PING | 0x40, b"x"), id="reserved bit on a ping"),
        pytest.param(masked(CLOSE | 0x40), id="reserved bit on a close"),
        *[
            pytest.param(masked(0x80 | opcode, b"x"), id=f"opcode {opcode:#x}")
            for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
        ],
        pytest.param(masked(CLOSE, b"\x03"), id="close with one byte"),
        *[
            pytest.param(closing(code), id=f"close code {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
        ],
    ],
)
def test_protocol_errors_are_1002(echo: EchoServer, stream: bytes) -> None:
    with echo.open() as client:
        client.send(masked(TEXT, b"before") + stream + masked(TEXT, b"after"))
        assert client.text() == "before"
        refused_with(client, 1002)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"ok\xe2\x82",
        b"\xf8\x88\x80\x80\x80",
    ],
)
def test_text_that_is_not_utf8_is_1007(echo: EchoServer, raw: bytes) -> None:
    with echo.open() as client:
        client.send(masked(TEXT, raw))
        refused_with(client, 1007)
    with echo.open() as client:
        client.send(masked(0x01, raw[:1]) + masked(LAST, raw[1:]))
        refused_with(client, 1007)
    with echo.open() as client:
        client.send(closing(1000, raw))
        refused_with(client, 1007)


@pytest.mark.parametrize("first", [BINARY, 0x02])
def test_binary_is_1003(echo: EchoServer, first: int) -> None:
    with echo.open() as client:
        client.send(masked(first, b"\x00\x01"))
        refused_with(client, 1003)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\x81\xff" + struct.pack("!Q", LIMIT + 1), id="header only"),
        pytest.param(b"\x81\xff" + b"\xff" * 8, id="2^64 - 1"),
        pytest.param(masked(TEXT, b"x" * (LIMIT + 1)), id="text"),
        pytest.param(
            masked(0x01, b"x" * LIMIT) + masked(CONTINUE) + masked(LAST, b"x"), id="fragments"
        ),
    ],
)
def test_over_the_size_limit_is_1009(echo: EchoServer, stream: bytes) -> None:
    with echo.open() as client:
        client.send(stream)
        refused_with(client, 1009)


def test_a_client_in_the_middle_of_a_huge_message_still_sees_1009(echo: EchoServer) -> None:
    with echo.open() as client:
        client.send(b"\x81\xff" + struct.pack("!Q", 8 << 20) + b"\0\0\0\0" + b"x" * (8 << 20))
        refused_with(client, 1009)


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x00\xff\x80", b"p" * 125])
def test_ping_is_answered_with_its_payload(echo: EchoServer, payload: bytes) -> None:
    with echo.open() as client:
        client.send(masked(PONG, b"unasked") + masked(PING, payload))
        assert client.frame() == (PONG, payload)


def last_closed(echo: EchoServer, count: int) -> int:
    eventually(lambda: len(echo.stats()["closed_codes"]) > count)
    codes = echo.stats()["closed_codes"]
    assert len(codes) == count + 1
    return int(codes[-1])


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999])
def test_a_clean_close_is_echoed_and_reported(echo: EchoServer, code: int) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        client.send(closing(code, "tschüß".encode()) + masked(TEXT, b"too late"))
        assert client.frame() == (CLOSE, struct.pack("!H", code) + "tschüß".encode())
        assert client.ended() == b""
    assert last_closed(echo, before) == code
    assert echo.stats()["after_close"] == 0


def test_a_close_without_a_code_is_1005(echo: EchoServer) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        client.send(masked(CLOSE))
        assert client.close_code() is None
        assert client.ended() == b""
    assert last_closed(echo, before) == 1005


def test_a_close_between_fragments_is_a_close(echo: EchoServer) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        client.send(masked(0x01, b"never finished") + closing(1001))
        refused_with(client, 1001)
    assert last_closed(echo, before) == 1001


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_lost_connection_is_1006(echo: EchoServer, how: str) -> None:
    before = len(echo.stats()["closed_codes"])
    client = echo.open()
    client.send(masked(TEXT, b"x") + masked(TEXT, b"half")[:5])
    assert client.text() == "x"
    if how == "reset":
        client.abort()
    else:
        client.tcp.close()
    assert last_closed(echo, before) == 1006


def test_our_close_comes_after_what_was_queued(echo: EchoServer) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        client.order(do="close", code=4503, reason="€" * 100)
        client.send(masked(TEXT, b"ignored"))
        assert client.text() == "last words"
        first, payload = client.frame()
        assert first == CLOSE
        assert payload[:2] == struct.pack("!H", 4503)
        assert payload[2:].decode() == "€" * 41
        client.send(closing(4503))
        assert client.ended() == b""
    assert last_closed(echo, before) == 4503
    assert echo.stats()["after_close"] == 0


def test_a_peer_that_does_not_answer_our_close_is_cut(echo: EchoServer) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        started = time.monotonic()
        client.order(do="close", code=4000)
        assert client.text() == "last words"
        assert client.close_code() == 4000
        assert client.ended() == b""
        assert time.monotonic() - started > 1.0
    assert last_closed(echo, before) == 4000


def test_garbage_instead_of_the_answer_to_our_close(echo: EchoServer) -> None:
    before = len(echo.stats()["closed_codes"])
    with echo.open() as client:
        client.order(do="close", code=4000)
        client.send(b"\xff" * 100)
        assert client.text() == "last words"
        refused_with(client, 4000)
    assert last_closed(echo, before) == 4000


def test_an_exception_in_the_endpoint_costs_that_connection_only(echo: EchoServer) -> None:
    before = echo.stats()
    with echo.open() as client, echo.open() as neighbour:
        client.order(do="raise")
        assert client.close_code() == 4099
        client.send(closing(4099))
        assert client.ended() == b""
        neighbour.send(masked(TEXT, b"still here"))
        assert neighbour.text() == "still here"
    with echo.open("/echo", "Authorization: Bearer raise") as client:
        assert client.close_code() == 4099
    assert echo.stats()["endpoint_errors"] == before["endpoint_errors"] + 2
