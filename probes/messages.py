"""Bodies of the probe API (`/v1/probes/...`) and frames of its WebSocket. Pure.

Field names are promises (docs/probes.md). It does not know HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Transport = Literal["udp", "tcp", "tls"]
TRANSPORTS: tuple[Transport, ...] = ("udp", "tcp", "tls")
PeerMode = Literal["data", "sink", "echo"]

MAX_SDP_CHARS = 64 * 1024
MAX_NONCE_CHARS = 64
MAX_REPORT_BYTES = 64 * 1024


class Region(Struct, frozen=True):
    """Where one region's probes are answered."""

    id: str
    ws_url: str
    """Of the probe socket: `wss://host/v1/probes/ws`."""
    http_url: str
    """Base URL: `https://host`."""


class RegionList(Struct, frozen=True):
    """`GET /v1/probes/regions`."""

    regions: list[Region]


class SessionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/probes/sessions`; the body may be left out."""

    region: Annotated[str, Meta(max_length=64)] | None = None
    """One of `turn_regions`, whose relays to name; None: those that a call would get."""


class ProbeLimits(Struct, frozen=True, kw_only=True):
    """What one probe session may use."""

    ttl_s: int
    peers: int
    """Server peers at the same time."""
    peer_s: int
    """Life of a server peer."""
    reports: int
    report_bytes: int


class ProbeSession(Struct, frozen=True, kw_only=True):
    """201 of `POST /v1/probes/sessions`."""

    token: str
    """Bearer of the other routes; also an access token with the grant `probe` and no other."""
    expires_at: int
    """Unix seconds; of the token or the credential, whichever ends first."""
    now: int
    """The server's clock, Unix seconds: a visitor's may be wrong."""
    ice_servers: dict[Transport, list[dict[str, Any]]]
    """RTCIceServer lists by transport; a transport that is not offered has an empty list."""
    regions: list[Region]
    region: str
    node: str
    limits: ProbeLimits
    turn_regions: list[str] = []
    """Where there are relays."""
    turn_region: str = ""
    """Of the first relay in `ice_servers`; there may be a spare of another region."""


class Ping(Struct, frozen=True):
    """`GET /v1/probes/ping`, never cached."""

    region: str
    node: str
    now_ms: int


class LogEntry(Struct, forbid_unknown_fields=True):
    """`POST /v1/probes/log` -> 204: proves that logging gets through; only counted."""

    event: Annotated[str, Meta(max_length=64)] = ""
    detail: Annotated[str, Meta(max_length=1024)] = ""


class PeerRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/probes/peers`."""

    sdp: Annotated[str, Meta(min_length=1, max_length=MAX_SDP_CHARS)]
    mode: PeerMode = "data"
    transport: Transport | None = None
    """The server's peer uses its own relay over this transport; None: its own address."""


class PeerAnswer(Struct, frozen=True, kw_only=True):
    """201 of `POST /v1/probes/peers`; every candidate is in the SDP."""

    id: str
    type: Literal["answer"] = "answer"
    sdp: str
    expires_at: int


class TrackFigures(Struct, frozen=True, kw_only=True):
    """What the server received on one track."""

    kind: Literal["audio", "video"]
    packets: int
    lost: int
    bytes: int
    jitter_ms: float
    frames: int = 0


class PeerFigures(Struct, frozen=True, kw_only=True):
    """`GET /v1/probes/peers/{id}`."""

    id: str
    mode: PeerMode
    state: str
    """RTCPeerConnectionState."""
    age_ms: int
    messages: int
    """Data channel messages received."""
    message_bytes: int
    tracks: list[TrackFigures]


class ReportReceipt(Struct, frozen=True, kw_only=True):
    """201 of `POST /v1/probes/reports`."""

    id: str
    url: str
    expires_at: int
    delete_token: str
    """Bearer of `DELETE`: only who shared a report may take it back."""


# Frames of GET /v1/probes/ws ---------------------------------------------------------------------


class WsHello(Struct, frozen=True, tag="hello"):
    """Server to client, first; the client may send one with its nonce and is answered with it.

    A nonce may also come in the query (`?nonce=`), so that the first hello carries it.
    """

    nonce: Annotated[str, Meta(max_length=MAX_NONCE_CHARS)] = ""
    region: str = ""
    node: str = ""


class WsPing(Struct, frozen=True, tag="ping"):
    """Client to server."""

    seq: Annotated[int, Meta(ge=0, le=2**31)]


class WsPong(Struct, frozen=True, tag="pong"):
    seq: int


class WsBye(Struct, frozen=True, tag="bye"):
    """Client to server: answered by close 1000."""


ClientFrame = WsHello | WsPing | WsPong | WsBye
WS_PONGS_TO_PASS = 3
WS_DEADLINE_S = 10
