"""Reading mids and ufrags out of what browsers, libraries and attackers send."""

from __future__ import annotations

import pytest
from aiortc import RTCPeerConnection
from hypothesis import given
from hypothesis import strategies as st

from signal_server.wire.sdp import MAX_SECTIONS, outline

CHROME = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS
m=audio 9 UDP/TLS/RTP/SAVPF 111 63
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=ice-options:trickle
a=fingerprint:sha-256 D2:FA:0E:C3
a=setup:actpass
a=mid:0
a=sendrecv
a=rtcp-mux
m=video 9 UDP/TLS/RTP/SAVPF 96
c=IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=mid:1
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=mid:2
a=sctp-port:5000
"""
FIREFOX = """v=0
o=mozilla...THIS_IS_SDPARTA-99.0 8732 0 IN IP4 0.0.0.0
s=-
t=0 0
a=sendrecv
a=ice-options:trickle
m=audio 9 UDP/TLS/RTP/SAVPF 109
a=mid:{aaaa-1}
a=ice-pwd:e8b5bb8e1f9b8bb5ed1b1d2e5a3c2d1f
a=ice-ufrag:b0c1d2e3
m=video 9 UDP/TLS/RTP/SAVPF 120
a=mid:{aaaa-2}
a=ice-pwd:f8b5bb8e1f9b8bb5ed1b1d2e5a3c2d1f
a=ice-ufrag:c1d2e3f4
"""


@pytest.mark.parametrize(
    ("text", "mids", "ufrags"),
    [
        (CHROME, ("0", "1", "2"), ("EsAw",) * 3),
        (CHROME.replace("\n", "\r\n"), ("0", "1", "2"), ("EsAw",) * 3),
        (FIREFOX, ("{aaaa-1}", "{aaaa-2}"), ("b0c1d2e3", "c1d2e3f4")),
        ("m=audio\na=ice-ufrag:u\nm=video", (None, None), ("u", None)),
        ("a=ice-ufrag:s\nm=audio\na=mid:0\nm=video\na=ice-ufrag:m", ("0", None), ("s", "m")),
        ("a=mid:9\nm=audio\na=mid:0 \r\n", ("0",), (None,)),
        ("m=audio\na=mid:\na=ice-ufrag: \n", (None,), (None,)),
        (f"m=audio\na=mid:{'m' * 257}\na=ice-ufrag:{'u' * 257}", (None,), (None,)),
        ("m=audio\na=x\u2028m=video\x0bm=video\n", (None,), (None,)),
        (" m=audio\nM=audio\nxa=mid:0", (), ()),
        ("gAAAAABf encrypted", (), ()),
        ("", (), ()),
        ("\0\ud800", (), ()),
    ],
)
def test_outline(text: str, mids: tuple[str | None, ...], ufrags: tuple[str | None, ...]) -> None:
    read = outline(text)

    assert (read.mids, read.ufrags) == (mids, ufrags)
    assert read.names_ice is any(ufrags)


async def test_outline_of_aiortc() -> None:
    connection = RTCPeerConnection()
    connection.addTransceiver("audio")
    connection.addTransceiver("video")
    connection.createDataChannel("d")
    await connection.setLocalDescription(await connection.createOffer())
    text = connection.localDescription.sdp
    await connection.close()

    read = outline(text)

    assert read.mids == ("0", "1", "2")
    assert len(read.ufrags) == 3
    assert read.names_ice


def test_only_so_many_sections_are_read() -> None:
    read = outline("m=audio\na=mid:x\n" * (MAX_SECTIONS + 10))

    assert len(read.mids) == len(read.ufrags) == MAX_SECTIONS


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["m=audio", "a=mid:0", "a=ice-ufrag:u", "a=ice-ufrag:", "\r"]),
            st.text(max_size=20),
        )
    )
)
def test_any_text_has_an_outline(lines: list[str]) -> None:
    text = "\n".join(lines)
    read = outline(text)

    assert len(read.mids) == len(read.ufrags)
    assert len(read.mids) == sum(line.startswith("m=") for line in text.split("\n"))
