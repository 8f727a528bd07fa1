"""What of STUN and TURN URLs a browser accepts, and the W3C dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.ice_servers import IceServer, parse_turn_uri


@pytest.mark.parametrize(
    ("text", "canonical", "kind"),
    [
        ("stun:example.org", "stun:example.org:3478", "stun"),
        ("stuns:example.org", "stuns:example.org:5349", "stun"),
        ("turn:example.org", "turn:example.org:3478?transport=udp", "udp"),
        ("turn:10.0.0.1:1024?transport=tcp", "turn:10.0.0.1:1024?transport=tcp", "tcp"),
        ("turns:example.org", "turns:example.org:5349?transport=tcp", "tls"),
        ("TURNS:Example.ORG:443?transport=TCP", "turns:example.org:443?transport=tcp", "tls"),
        ("turn:[2001:DB8::1]:80", "turn:[2001:db8::1]:80?transport=udp", "udp"),
        ("turn:[::1]", "turn:[::1]:3478?transport=udp", "udp"),
        ("turn:h:65535", "turn:h:65535?transport=udp", "udp"),
    ],
)
def test_accepted(text: str, canonical: str, kind: str) -> None:
    uri = parse_turn_uri(text)

    assert (str(uri), uri.kind) == (canonical, kind)
    assert parse_turn_uri(canonical) == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "turn:",
        "turn:?transport=udp",
        "http://example.org",
        "turn://example.org",
        "turn:user@example.org",
        "turn:example.org/path",
        "turn:example.org#x",
        "turn:example.org:",
        "turn:example.org:0",
        "turn:example.org:53",
        "turn:example.org:1023",
        "turn:example.org:65536",
        "turn:example.org:99999999",
        "turn:example.org:\uff13478",
        "turn:example.org?transport=sctp",
        "turn:example.org?transport=udp&x=1",
        "turn:example.org?x=udp",
        "turn:example.org?transport=",
        "turns:example.org?transport=udp",
        "stun:example.org?transport=udp",
        "turn:[::1",
        "turn:::1",
        "turn:[1:2]",
        "turn:[::ffff:999.1.1.1]",
        "turn:exa mple.org",
        "turn:example.org\n",
        "turn:" + "h" * 400,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_turn_uri(text)


@given(st.from_regex(r"(stun|turn)s?:[\[\]a-f0-9.:]{0,20}(\?transport=(udp|tcp))?", fullmatch=True))
def test_what_is_accepted_has_one_form(text: str) -> None:
    try:
        uri = parse_turn_uri(text)
    except ValueError:
        return
    assert parse_turn_uri(str(uri)) == uri


def test_w3c_dictionary() -> None:
    assert IceServer(("stun:h",)).to_w3c() == {"urls": ["stun:h"]}
    assert IceServer(("turn:h", "turns:h"), "1:a", "pw").to_w3c() == {
        "urls": ["turn:h", "turns:h"],
        "username": "1:a",
        "credential": "pw",
    }


def test_credential_does_not_show() -> None:
    assert "pass-word" not in repr(IceServer(("turn:h",), "1:a", "pass-word"))
