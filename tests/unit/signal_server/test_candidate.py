"""Reading RTCIceCandidateInit: what ends, and which ICE session a candidate belongs to."""

from __future__ import annotations

import msgspec
import pytest

from signal_server.wire.candidate import END_OF_CANDIDATES, CandidateInit

CHROME = (
    "candidate:842163049 1 udp 1677729535 192.0.2.7 46154 typ srflx raddr 0.0.0.0 rport 0 "
    "generation 0 ufrag EsAw network-cost 999"
)


@pytest.mark.parametrize(
    ("line", "member", "ufrag"),
    [
        (CHROME, None, "EsAw"),
        (CHROME, "own", "own"),
        (CHROME, "", "EsAw"),
        ("candidate:1 1 udp 1 192.0.2.7 1 typ host", None, None),
        ("candidate:1 1 udp 1 192.0.2.7 1 typ host ufrag ", None, None),
        ("candidate:1 1 udp 1 192.0.2.7 1 typ host ufrag   x", None, "x"),
        ("candidate:1 1 udp 1 192.0.2.7 1 typ host ufrag last", None, "last"),
        ("candidate:1 1 udp 1 192.0.2.7 1 typ host myufrag x", None, None),
        ("", "own", "own"),
        ("", None, None),
        (None, None, None),
    ],
)
def test_ufrag(line: str | None, member: str | None, ufrag: str | None) -> None:
    assert CandidateInit(line, "0", 0, member).ufrag == ufrag


@pytest.mark.parametrize(
    ("text", "is_end"),
    [
        ("{}", True),
        ('{"candidate":""}', True),
        ('{"candidate":null,"sdpMid":"0"}', True),
        ('{"candidate":"candidate:1"}', False),
        ('{"candidate":" "}', False),
    ],
)
def test_end_of_candidates(text: str, is_end: bool) -> None:
    assert msgspec.json.decode(text, type=CandidateInit).is_end is is_end
    assert END_OF_CANDIDATES.is_end


def test_names_of_the_w3c_on_the_wire() -> None:
    text = b'{"candidate":"c","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":null}'

    assert msgspec.json.encode(msgspec.json.decode(text, type=CandidateInit)) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"sdpMLineIndex":-1}',
        '{"sdpMLineIndex":65536}',
        '{"sdpMLineIndex":1.5}',
        '{"sdpMid":0}',
        '{"candidate":1}',
        '{"usernameFragment":"%s"}' % ("u" * 257),
        '{"sdpMid":"%s"}' % ("m" * 257),
    ],
)
def test_what_is_no_candidate(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=CandidateInit)
