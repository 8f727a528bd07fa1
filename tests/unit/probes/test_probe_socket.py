"""The probe socket's endpoint without a socket, and the descriptions server peers rewrite."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probes.descriptions import with_start_bitrate, without_private
from probes.socket import MAX_FRAMES, ProbeSocket


class Line:
    """What the endpoint did to a connection."""

    def __init__(self, endpoint: ProbeSocket, query: str = "") -> None:
        self.endpoint_state: Any = None
        self.query = query
        self.sent: list[dict[str, Any]] = []
        self.code: int | None = None
        self._endpoint = endpoint
        endpoint.opened(self)

    def send(self, payload: bytes, seq: int = 0) -> None:
        self.sent.append(json.loads(payload))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.code = code

    def say(self, **frame: object) -> dict[str, Any]:
        self._endpoint.received(self, json.dumps(frame))
        return self.sent[-1]


def test_it_says_who_it_is_and_repeats_the_nonce() -> None:
    line = Line(ProbeSocket("eu", "n1"))
    assert line.sent == [{"type": "hello", "nonce": "", "region": "eu", "node": "n1"}]
    assert line.say(type="hello", nonce="abc") == {
        "type": "hello", "nonce": "abc", "region": "eu", "node": "n1",
    }  # fmt: skip
    assert [line.say(type="ping", seq=seq) for seq in (1, 2, 3)] == [
        {"type": "pong", "seq": seq} for seq in (1, 2, 3)
    ]
    line.say(type="bye")
    assert line.code == 1000


def test_a_nonce_of_the_query_is_in_the_first_hello() -> None:
    line = Line(ProbeSocket("eu", "n1"), "other=1&nonce=a%20b&nonce=c")
    assert line.sent == [{"type": "hello", "nonce": "a b", "region": "eu", "node": "n1"}]
    assert Line(ProbeSocket("eu", "n1"), f"nonce={'x' * 64}").code is None


@pytest.mark.parametrize("query", [f"nonce={'x' * 65}", "&".join("a=1" for _ in range(99))])
def test_a_query_that_is_too_long_ends_it(query: str) -> None:
    line = Line(ProbeSocket("eu", "n1"), query)
    assert (line.sent, line.code) == ([], 4505)


def test_pongs_of_a_client_are_ignored() -> None:
    line = Line(ProbeSocket("eu", "n1"))
    line.say(type="pong", seq=1)
    assert (len(line.sent), line.code) == (1, None)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"type":"offer"}', '{"type":"ping"}', '{"type":"ping","seq":-1}', "[" * 9999,
     json.dumps({"type": "hello", "nonce": "x" * 65})],
)  # fmt: skip
def test_anything_else_ends_it(text: str) -> None:
    endpoint = ProbeSocket("eu", "n1")
    line = Line(endpoint)
    endpoint.received(line, text)
    assert line.code == 4505
    assert endpoint.figures.refused == 1


def test_frames_are_bounded() -> None:
    line = Line(ProbeSocket("eu", "n1"))
    for seq in range(MAX_FRAMES):
        line.say(type="ping", seq=seq)
    assert line.code is None
    line.say(type="ping", seq=0)
    assert line.code == 4029


def candidate(address: str) -> str:
    return f"a=candidate:1 1 udp 2130706431 {address} 5000 typ host\r\n"


def test_private_candidates_leave_an_offer() -> None:
    public = candidate("203.0.114.9") + candidate("2a00:1450:4001::1")
    hidden = "10.0.0.1 127.0.0.1 169.254.169.254 ::1 fd00::1 ::ffff:10.0.0.1 64:ff9b:1::1"
    private = "".join(map(candidate, [*hidden.split(), "64:ff9b::a00:1", "abc.local", "metadata"]))
    sdp = "v=0\r\na=ice-ufrag:x\r\n"
    assert without_private(sdp + private + public) == sdp + public


def test_video_formats_get_a_start_bitrate() -> None:
    sdp = (
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 102\r\n"
        "a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n"
        "a=fmtp:97 apt=96\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1\r\n"
    )
    assert with_start_bitrate(sdp, 2000) == (
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 102\r\na=rtpmap:96 VP8/90000\r\n"
        "a=fmtp:96 x-google-start-bitrate=2000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
        "a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1;x-google-start-bitrate=2000\r\n"
    )
