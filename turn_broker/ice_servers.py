"""STUN and TURN URLs (RFC 7064, RFC 7065) and the W3C RTCIceServer they travel in.

Pure. Accepts only what a browser will accept and use: libwebrtc allows ports 80, 443 and from 1024,
no browser speaks TURN over DTLS. It does not know nodes, regions or secrets.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

Transport = Literal["udp", "tcp", "tls"]
Kind = Literal["stun", "udp", "tcp", "tls"]

MAX_URL_CHARS = 300
_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>[A-Za-z]{1,8}))?\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TurnUri:
    """One parsed URL; `str()` is its canonical form, with the port and TURN's transport written."""

    scheme: Literal["stun", "stuns", "turn", "turns"]
    host: str
    """Without the brackets of an IPv6 address."""
    port: int
    transport: Literal["udp", "tcp"] | None = None
    """None exactly for stun and stuns."""

    @property
    def kind(self) -> Kind:
        """How a client reaches the relay through it, or "stun"."""
        if self.transport is None:
            return "stun"
        if self.scheme == "turns":
            return "tls"
        return self.transport

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?transport={self.transport}" if self.transport else ""
        return f"{self.scheme}:{host}:{self.port}{query}"


def parse_turn_uri(text: str) -> TurnUri:
    """Parse one URL; raises ValueError that says what a browser would not accept."""
    match = _URL.match(text) if len(text) <= MAX_URL_CHARS else None
    if match is None:
        raise ValueError(f"{text[:60]!r} is no stun:, stuns:, turn: or turns: URL")
    scheme = match["scheme"].lower()
    host = match["host"].lower()
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    port = int(match["port"] or (5349 if scheme in ("stuns", "turns") else 3478))
    if port not in (80, 443) and not 1024 <= port <= 65535:
        raise ValueError(f"{text!r}: browsers use ports 80, 443 and 1024 to 65535")
    asked = match["transport"].lower() if match["transport"] else None
    if scheme in ("stun", "stuns"):
        if asked is not None:
            raise ValueError(f"{text!r}: a STUN URL has no transport (RFC 7064)")
        return TurnUri(scheme, host, port)  # type: ignore[arg-type]
    transport = asked or ("tcp" if scheme == "turns" else "udp")  # RFC 7065 section 3.1
    if transport not in ("udp", "tcp"):
        raise ValueError(f"{text!r}: transport must be udp or tcp")
    if scheme == "turns" and transport == "udp":
        raise ValueError(f"{text!r}: no browser speaks TURN over DTLS")
    return TurnUri(scheme, host, port, transport)  # type: ignore[arg-type]


class IceServer(Struct, frozen=True):
    """W3C RTCIceServer; the credential never shows in a repr."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def __repr__(self) -> str:
        return f"IceServer(urls={self.urls!r}, username={self.username!r})"

    def to_w3c(self) -> dict[str, str | list[str]]:
        """The dictionary that `new RTCPeerConnection({iceServers: [...]})` takes."""
        w3c: dict[str, str | list[str]] = {"urls": list(self.urls)}
        if self.username is not None and self.credential is not None:
            w3c |= {"username": self.username, "credential": self.credential}
        return w3c
