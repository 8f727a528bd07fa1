"""The STUN codec: RFC 5769's vectors, and bytes that are not messages."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.credentials import long_term_key
from turn_broker.relay import stun
from turn_broker.relay.stun import Attribute, Kind, Method, build, has_integrity, parse

HEADER = "2112a442b7e7a701bc34d686fa87dfae"
SHORT_TERM_KEY = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(
    "00010058" + HEADER + "802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
IPV4_RESPONSE = bytes.fromhex(
    "0101003c" + HEADER + "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
IPV6_RESPONSE = bytes.fromhex(
    "01010048" + HEADER + "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
LONG_TERM_REQUEST = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
TRANSACTION = bytes(range(12))


@pytest.mark.parametrize("raw", [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE])
def test_rfc5769_short_term_vectors(raw: bytes) -> None:
    message = parse(raw)
    assert message is not None
    assert message.fingerprinted
    assert has_integrity(message, SHORT_TERM_KEY)
    assert not has_integrity(message, SHORT_TERM_KEY + b"x")


def test_rfc5769_request() -> None:
    message = parse(REQUEST)
    assert message is not None
    assert (message.method, message.kind) == (Method.BINDING, Kind.REQUEST)
    assert message.first(Attribute.USERNAME) == b"evtj:h6vY"
    assert message.first(Attribute.SOFTWARE) == b"STUN test client"
    assert message.unknown() == [0x0024]


@pytest.mark.parametrize(
    ("raw", "host"),
    [(IPV4_RESPONSE, "192.0.2.1"), (IPV6_RESPONSE, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_rfc5769_addresses(raw: bytes, host: str) -> None:
    message = parse(raw)
    assert message is not None
    assert message.kind is Kind.SUCCESS
    value = message.first(Attribute.XOR_MAPPED_ADDRESS)
    assert value is not None
    assert stun.read_xor_address(value, message.transaction_id) == (host, 32853)
    assert stun.xor_address((host, 32853), message.transaction_id) == value


def test_rfc5769_long_term() -> None:
    message = parse(LONG_TERM_REQUEST)
    assert message is not None
    username = message.first(Attribute.USERNAME)
    assert username == "マトリックス".encode()
    assert has_integrity(message, long_term_key(username.decode(), "example.org", "TheMatrIX"))


def test_built_messages_come_back() -> None:
    raw = build(
        Method.CHANNEL_BIND,
        Kind.ERROR,
        TRANSACTION,
        ((Attribute.ERROR_CODE, stun.error_code(486, "Quota")), (Attribute.NONCE, b"abc")),
        key=b"key",
        fingerprint=True,
    )
    message = parse(raw)
    assert message is not None
    assert (message.method, message.kind) == (Method.CHANNEL_BIND, Kind.ERROR)
    assert message.transaction_id == TRANSACTION
    assert stun.read_error_code(message.first(Attribute.ERROR_CODE)) == 486
    assert message.first(Attribute.NONCE) == b"abc"
    assert has_integrity(message, b"key")


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("kind", list(Kind))
def test_every_message_type_survives(method: Method, kind: Kind) -> None:
    message = parse(build(method, kind, TRANSACTION))
    assert message is not None
    assert (message.method, message.kind) == (method, kind)


def test_attributes_after_integrity_are_ignored_except_fingerprint() -> None:
    signed = build(Method.BINDING, Kind.REQUEST, TRANSACTION, key=b"key")
    late = bytes.fromhex("00060004") + b"evil"
    raw = signed[:2] + (len(signed) - 20 + len(late)).to_bytes(2) + signed[4:] + late
    message = parse(raw)
    assert message is not None
    assert message.first(Attribute.USERNAME) is None
    assert has_integrity(message, b"key")


def _with_length(raw: bytes) -> bytes:
    return raw[:2] + (len(raw) - 20).to_bytes(2) + raw[4:]


FINGERPRINTED = build(Method.BINDING, Kind.REQUEST, TRANSACTION, fingerprint=True)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        REQUEST[:19],
        REQUEST[:-1],
        REQUEST + b"\0\0\0\0",
        b"\x40" + REQUEST[1:],
        REQUEST[:4] + b"\0\0\0\0" + REQUEST[8:],
        REQUEST[:-1] + b"\0",
        _with_length(REQUEST[:20] + b"\x00\x06\xff\xff"),
        _with_length(REQUEST[:20] + b"\x00\x06\x00\x05abcd"),
        _with_length(REQUEST[:20] + b"\x00\x08\x00\x04abcd"),
        _with_length(FINGERPRINTED + b"\x80\x22\0\0"),
        _with_length(REQUEST[:20] + b"\x80\x28\x00\x00"),
        _with_length(REQUEST[:20] + b"\x80\x22\0\0" * (stun.MAX_ATTRIBUTES + 1)),
        REQUEST[:2] + b"\x00\x01" + REQUEST[4:20] + b"\0",
    ],
)
def test_not_a_message(raw: bytes) -> None:
    assert parse(raw) is None


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"\0\1", b"\0\1\0\0\0", b"\0\3" + bytes(6), bytes(20)]
)
def test_not_an_address(value: bytes) -> None:
    assert stun.read_xor_address(value, TRANSACTION) is None


@pytest.mark.parametrize("value", [None, b"", b"\x40\0", b"\x3f\xff\0\0", b"\x80\0\0\0"])
def test_not_a_channel(value: bytes | None) -> None:
    assert stun.read_channel_number(value) is None


def test_wrong_sizes_are_none() -> None:
    assert stun.read_u32(b"\0" * 3) is None
    assert stun.read_leading_byte(b"\x11") is None
    assert stun.read_error_code(None) is None
    assert stun.read_error_code(b"\0\0\4") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value(raw: bytes) -> None:
    parse(raw)


@given(st.binary(max_size=200).map(lambda body: body + bytes(-len(body) % 4)))
def test_any_body_is_a_value(body: bytes) -> None:
    message = parse(_with_length(REQUEST[:20] + body))
    if message is not None:
        has_integrity(message, b"key")
        for _, value in message.attributes:
            stun.read_xor_address(value, message.transaction_id)
            stun.read_u32(value)
            stun.read_channel_number(value)
            stun.read_error_code(value)


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=20)), max_size=8),
    st.binary(min_size=1, max_size=20),
)
def test_build_then_parse(attributes: list[tuple[int, bytes]], key: bytes) -> None:
    special = {Attribute.MESSAGE_INTEGRITY, Attribute.FINGERPRINT}
    plain = [pair for pair in attributes if pair[0] not in special]
    raw = build(Method.SEND, Kind.INDICATION, os.urandom(12), plain, key=key, fingerprint=True)
    message = parse(raw)
    assert message is not None
    assert list(message.attributes[:-1]) == plain
    assert has_integrity(message, key)
    assert message.fingerprinted


@given(st.ip_addresses(), st.integers(0, 0xFFFF), st.binary(min_size=12, max_size=12))
def test_addresses_round_trip(address: object, port: int, transaction_id: bytes) -> None:
    endpoint = (str(address), port)
    value = stun.xor_address(endpoint, transaction_id)
    assert stun.read_xor_address(value, transaction_id) == endpoint
