"""The relay's small parts: peer policy, stream framing, rates, ledger, settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turn_messages import channel_data

from turn_broker.relay.authentication import Verified
from turn_broker.relay.framing import (
    MAX_FRAME,
    UNKNOWN_CLIENT_MAX_FRAME,
    StreamFrames,
    stream_frame,
)
from turn_broker.relay.peer_policy import PeerPolicy, networks
from turn_broker.relay.rate import Bucket, SourceLimiter
from turn_broker.relay.settings import RelaySettings
from turn_broker.relay.stun import Attribute, Kind, Method, build

EVERYWHERE = PeerPolicy(allowed=networks("0.0.0.0/0", "::/0"))
BINDING = build(Method.BINDING, Kind.REQUEST, b"t" * 12)


# Peer policy


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.254", "::1"])
def test_loopback_is_reached_by_default(host: str) -> None:
    assert PeerPolicy().permits((host, 5000))


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "169.254.169.254",
        "255.255.255.255",
        "224.0.0.1",
        "::",
        "::2",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "nonsense",
        "",
    ],
)
def test_all_else_is_not(host: str) -> None:
    assert not PeerPolicy().permits_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "::169.254.169.254",
        "2001:0:1:1:0:0:5601:5601",
        "0.1.2.3",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "ff02::1",
    ],
)
def test_even_an_open_relay_keeps_from_hidden_metadata_addresses(host: str) -> None:
    assert not EVERYWHERE.permits_host(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "10.0.0.1"])
def test_an_open_relay_reaches_out(host: str) -> None:
    assert EVERYWHERE.permits_host(host)


def test_a_mapped_address_needs_both_forms_allowed() -> None:
    only_v6 = PeerPolicy(allowed=networks("::/0"))
    assert not only_v6.permits_host("::ffff:8.8.8.8")
    assert EVERYWHERE.permits_host("::ffff:8.8.8.8")


def test_ports() -> None:
    policy = PeerPolicy(min_port=2000, own_ports=frozenset({3478}))
    assert [port for port in (0, 1999, 2000, 3478, 65_535) if policy.permits_port(port)] == [
        2000,
        65_535,
    ]


# Stream framing


def _frames(chunks: list[bytes], max_frame: int = MAX_FRAME) -> tuple[list[bytes], StreamFrames]:
    frames, found = StreamFrames(), []
    frames.max_frame = max_frame
    for chunk in chunks:
        frames.feed(chunk)
        while (frame := frames.next()) is not None:
            found.append(frame)
    return found, frames


MESSAGES = [BINDING, channel_data(0x4000, b"hello"), channel_data(0x7FFF, b""), BINDING]


@given(st.lists(st.integers(1, 40), max_size=20))
def test_frames_come_out_however_the_stream_is_cut(sizes: list[int]) -> None:
    stream = b"".join(map(stream_frame, MESSAGES))
    chunks = []
    for size in sizes:
        chunks.append(stream[:size])
        stream = stream[size:]
    found, frames = _frames([*chunks, stream])
    assert found == MESSAGES
    assert not frames.partial
    assert not frames.lost


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n"[4:],
        b"\x80",
        b"\xff" * 3,
        b"\xc0\0\0\0",
        b"\0\1\0\1",
        b"\0\1\0\0\x21\x12\xa4\x43",
        b"\0\1\xff\xfc\x21\x12\xa4\x42",
        b"\x40\0\xff\xff",
    ],
)
def test_a_lost_stream_says_so_and_keeps_nothing(junk: bytes) -> None:
    found, frames = _frames([junk, BINDING], UNKNOWN_CLIENT_MAX_FRAME)
    assert found == []
    assert frames.lost
    assert not frames.partial


def test_large_frames_are_for_clients_with_an_allocation() -> None:
    large = channel_data(0x4000, bytes(65_535))
    assert _frames([stream_frame(large)])[0] == [large]
    assert _frames([large], UNKNOWN_CLIENT_MAX_FRAME)[1].lost


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_stream_is_frames_or_lost_and_bounded(chunks: list[bytes]) -> None:
    _, frames = _frames(chunks, 64)
    assert len(frames._buffer) <= 64
    assert frames.lost or all(frame[0] < 0x80 for frame in _frames(chunks, 64)[0])


# Rates


def test_bucket_fills_with_time_up_to_its_burst() -> None:
    bucket = Bucket(10, 20, now=0)
    assert bucket.take(20, 0)
    assert not bucket.take(1, 0)
    assert bucket.take(5, 0.5)
    assert not bucket.take(21, 1000)
    assert bucket.take(20, 1000)
    assert not bucket.take(1, 500)


def test_sources_are_bounded_and_the_longest_silent_goes() -> None:
    sources = SourceLimiter(1, max_sources=3)
    for host in ("a", "b", "c", "a", "d"):
        sources.allows(host, 0)
    assert len(sources) == 3
    assert list(sources._buckets) == ["c", "a", "d"]


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"secrets": ()},
        {"secrets": ("",)},
        {"realm": ""},
        {"realm": "a\nb"},
        {"realm": "r" * 128},
        {"min_port": 10, "max_port": 9},
        {"max_port": 10},
        {"min_port": 10, "max_port": 70_000},
        {"relay_address": None},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"relay|realm"):
        RelaySettings(**{"realm": "r", "secrets": ("s",), **wrong})


def test_secrets_never_show() -> None:
    settings = RelaySettings(realm="r", secrets=("hush-hush",))
    assert "hush-hush" not in repr(settings)
    who = Verified("1:a", "a", 1, b"hush-hush")
    assert "hush-hush" not in repr(who)


def test_framing_matches_what_is_sent() -> None:
    message = build(Method.SEND, Kind.INDICATION, b"t" * 12, ((Attribute.DATA, b"odd"),))
    assert stream_frame(message) == message
    assert stream_frame(channel_data(0x4000, b"odd")) == channel_data(0x4000, b"odd") + b"\0"
