"""How long a check took and what its exceptions mean, in one place for all checks.

It does not know what is checked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Iterator
from urllib.parse import urlsplit

from msgspec.structs import replace

from probes.reasons import Reason, State
from probes.verdict import CheckResult


async def timed(check: Awaitable[CheckResult], unless: CheckResult, limit_s: float) -> CheckResult:
    """The result with its duration; after `limit_s` it is `unless`, failed for `timeout`."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            result = await check
    except TimeoutError:
        late = f"no result within {limit_s:g} s"
        result = replace(unless, state=State.FAILED, reason=Reason.TIMEOUT, detail=late)
    return replace(result, duration_ms=int(1000 * (time.monotonic() - began)))


def in_ms(seconds: float) -> float:
    """Milliseconds, to the microsecond: a round trip within one machine takes fewer than 100."""
    return round(1000 * seconds, 3)


def spoken_ms(ms: float) -> str:
    """For people; as the diagnostics page says it."""
    if ms < 0.1:
        return "under 1 ms"
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"


def reason_of(error: BaseException) -> Reason:
    """Why a connection did not come about; looks through the wrappings of HTTP libraries."""
    for flaw in _causes(error):
        if isinstance(flaw, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(flaw):
            return Reason.TLS_CERTIFICATE
        if isinstance(flaw, socket.gaierror):
            return Reason.DNS
        if isinstance(flaw, ConnectionRefusedError):
            return Reason.CONNECTION_REFUSED
    return Reason.UNREACHABLE


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__


WORDS: dict[Reason, str] = {
    Reason.UNREACHABLE: "nothing answers",
    Reason.CONNECTION_REFUSED: "the connection is refused",
    Reason.DNS: "the name cannot be resolved",
    Reason.TLS_CERTIFICATE: "the certificate is not trusted",
    Reason.RATE_LIMITED: "too many tests from this network for now",
    Reason.NO_CREDENTIALS: "the deployment gave no credential",
    Reason.CREDENTIAL_REJECTED: "the relay does not accept the credential",
    Reason.CREDENTIAL_EXPIRED: "the credential has expired",
    Reason.ALLOCATION_QUOTA: "the relay gives out no more addresses",
    Reason.PEER_DENIED: "the relay refuses to send to its own addresses",
    Reason.HAIRPIN: "the relay carries traffic, but not between two of its own clients",
    Reason.RELAY_SILENT: "the relay gave an address, and no packet passed",
    Reason.NOT_OFFERED: "not offered",
    Reason.TIMEOUT: "no result in time",
    Reason.HIGH_LOSS: "too much is lost",
    Reason.HIGH_DELAY: "it takes too long",
    Reason.BANDWIDTH_TOO_LOW: "the link does not carry it",
    Reason.ABORTED: "stopped",
}


def target_of(url: str) -> str:
    """`host:port` of an http(s) or ws(s) URL."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    host = parts.hostname or ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
