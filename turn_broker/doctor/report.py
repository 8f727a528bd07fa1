"""What the doctor sees of a TURN server, and what it says about it.

Pure and serializable: a report with its observations can be kept and read again.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from turn_broker.ice_servers import TurnUri
from turn_broker.relay.stun import Endpoint
from turn_broker.turn.dialogue import Allocation, Failure, RelayProof


class Severity(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; changes no exit code."""
    WARNING = "warning"
    FAILED = "failed"


class Finding(Struct, frozen=True, kw_only=True):
    """One thing the doctor says."""

    code: str
    """Stable, for programs."""
    severity: Severity
    where: str
    """The URL, or empty for the server as a whole."""
    words: str
    """What is so, in plain words."""
    advice: str = ""
    """What to do about it."""


class TlsObservation(Struct, frozen=True, kw_only=True):
    """What a `turns:` port shows, trusted or not."""

    version: str = ""
    names: tuple[str, ...] = ()
    """DNS names and addresses of the certificate."""
    issuer: str = ""
    not_before: float | None = None
    not_after: float | None = None
    """Unix seconds."""
    old_version: str = ""
    """A version below TLS 1.2 that the server agreed to."""


class UrlObservation(Struct, frozen=True, kw_only=True):
    """One URL; a step that failed leaves the later ones None."""

    uri: TurnUri
    opened: Failure | None = None
    server: Endpoint | None = None
    """The address behind the name."""
    tls: TlsObservation | None = None
    bound: Endpoint | Failure | None = None
    anonymous: Allocation | Failure | None = None
    """An Allocate without any credential."""
    allocated: Allocation | Failure | None = None
    proof: RelayProof | None = None
    took_ms: int | None = None
    """From nothing to the allocation."""
    software: str = ""
    amplification: float | None = None
    """Bytes of the largest answer to a stranger's datagram, for each byte of it."""


class CredentialTrial(Struct, frozen=True, kw_only=True):
    """An Allocate with a credential that was made to learn something."""

    secret: int
    """Which of the secrets we know."""
    offset_s: int
    """Its expiry from now."""
    accepted: bool


class PermissionTrial(Struct, frozen=True, kw_only=True):
    """A CreatePermission for an address that nobody should reach; nothing was sent there."""

    peer: str
    allowed: bool
    family: int = 4
    """Of the allocation it was asked on."""


class ServerObservation(Struct, frozen=True, kw_only=True):
    """One machine, looked at through the first of its URLs that talks."""

    server: str
    """Its address."""
    at: TurnUri
    trials: tuple[CredentialTrial, ...] = ()
    permissions: tuple[PermissionTrial, ...] = ()
    tcp_relay: Allocation | Failure | None = None
    """RFC 6062."""


class Observations(Struct, frozen=True, kw_only=True):
    """Everything of one examination."""

    now: float
    """Unix seconds here."""
    urls: tuple[UrlObservation, ...]
    servers: tuple[ServerObservation, ...] = ()
    expires_at: int | None = None
    """Of the credential that was given, if its name tells."""
    is_of_secret: bool | None = None
    """The given credential was made with a secret we know; None: none given, or none known."""
    expected_realm: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """The diagnosis."""

    verdict: Severity
    """The worst of the findings: ok, warning or failed."""
    findings: tuple[Finding, ...]
