"""How long a check took and what its exceptions mean, in one place for all checks.

It does not know what is checked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable
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


def reason_of(error: BaseException) -> Reason:
    """Why a connection did not come about; looks through the wrappings of HTTP libraries."""
    seen: BaseException | None = error
    found = Reason.UNREACHABLE
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(seen):
            return Reason.TLS_CERTIFICATE
        if isinstance(seen, socket.gaierror) or "Name or service not known" in str(seen):
            return Reason.DNS
        if isinstance(seen, ConnectionRefusedError):
            found = Reason.CONNECTION_REFUSED
        seen = seen.__cause__ or seen.__context__
    if "All connection attempts failed" in str(error) and found is Reason.UNREACHABLE:
        return Reason.CONNECTION_REFUSED
    return found


WORDS: dict[Reason, str] = {
    Reason.UNREACHABLE: "nothing answers",
    Reason.CONNECTION_REFUSED: "the connection is refused",
    Reason.DNS: "the name cannot be resolved",
    Reason.TLS_CERTIFICATE: "the certificate is not trusted",
    Reason.RATE_LIMITED: "too many tests from this network for now",
    Reason.CREDENTIAL_REJECTED: "the relay does not accept the credential",
    Reason.CREDENTIAL_EXPIRED: "the credential has expired",
    Reason.ALLOCATION_QUOTA: "the relay gives out no more addresses",
    Reason.PEER_DENIED: "the relay refuses to send to its own addresses",
    Reason.HAIRPIN: "the relay carries traffic, but not between two of its own clients",
    Reason.RELAY_SILENT: "the relay gave an address, and no packet passed",
    Reason.NOT_OFFERED: "not offered",
    Reason.TIMEOUT: "no result in time",
    Reason.ABORTED: "stopped",
}


def target_of(url: str) -> str:
    """`host:port` of an http(s) or ws(s) URL."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    host = parts.hostname or ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
