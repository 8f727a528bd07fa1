"""From what was observed of a TURN server to what is wrong with it, in plain words.

Pure. Where two causes look the same from outside, it says that they do. Refused credentials are
read in `doctor_credentials`, dangers to others in `doctor_dangers`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from turn_broker.doctor.credentials import REFUSED, credential_findings
from turn_broker.doctor.dangers import dangers
from turn_broker.doctor.report import (
    Finding,
    Observations,
    Report,
    Severity,
    TlsObservation,
    UrlObservation,
)
from turn_broker.turn.dialogue import Allocation, Failure, Reason, RelayProof

EXPIRES_SOON_S = 14 * 86_400
_ORDER = {Severity.FAILED: 0, Severity.WARNING: 1, Severity.NOTE: 2, Severity.OK: 3}

_UNREACHABLE: dict[Reason, tuple[str, str]] = {
    Reason.DNS: ("the name does not resolve", "Check the spelling, and the A and AAAA records."),
    Reason.REFUSED: (
        "the port is closed: the machine answers that nothing listens there",
        "Check that the server runs, listens on this address and has this transport enabled.",
    ),
    Reason.TIMEOUT: (
        "no answer at all",
        "Check firewalls and security groups on the way, and the address itself.",
    ),
    Reason.UNREACHABLE: ("there is no route to it", "Check the network here and the address."),
    Reason.CLOSED: (
        "it closes the connection at once",
        "Something else may listen on this port, or a proxy is in between.",
    ),
    Reason.NOT_STUN: ("what answers does not speak TURN", "Check the port."),
    Reason.NOT_TLS: (
        "what answers does not speak TLS",
        "Use a turn: URL for this port, or give the server a certificate (cert, pkey).",
    ),
    Reason.TLS_VERSION: (
        "no common TLS version",
        "Enable TLS 1.2 and 1.3 on the server.",
    ),
    Reason.TLS_EXPIRED: ("its certificate has expired", "Renew it, and reload the server."),
    Reason.TLS_NOT_YET_VALID: (
        "its certificate is not valid yet",
        "Check the clocks here and there.",
    ),
    Reason.TLS_NAME: (
        "its certificate is for another name",
        "Get a certificate for this name, or use the name that it is for.",
    ),
    Reason.TLS_SELF_SIGNED: (
        "its certificate is signed by nobody but itself: browsers refuse it without a message",
        "Get one from an authority that browsers trust.",
    ),
    Reason.TLS_UNTRUSTED: (
        "its certificate leads to no authority that is trusted here",
        "Let the server send the intermediate certificates too (the full chain in cert=).",
    ),
    Reason.TLS_OTHER: ("the TLS handshake fails", "Look at the server's log."),
}
_REFUSALS: dict[Reason, tuple[Severity, str, str]] = {
    Reason.FORBIDDEN: (
        Severity.FAILED,
        "it forbids allocations to this address or user",
        "Look for allowed users and addresses in its configuration.",
    ),
    Reason.TRY_ALTERNATE: (
        Severity.WARNING,
        "it sends new clients to another server",
        "Expected while it drains; otherwise remove alternate-server.",
    ),
    Reason.BAD_REQUEST: (
        Severity.FAILED,
        "it calls the request bad, as coturn does for names with blanks, quotes or backslashes",
        "Use usernames of letters, digits, dot, underscore and hyphen.",
    ),
    Reason.QUOTA: (
        Severity.WARNING,
        "the quota of allocations is used up",
        "Raise user-quota or total-quota, or look for who uses it.",
    ),
    Reason.CAPACITY: (
        Severity.FAILED,
        "it has no capacity: ports or bandwidth are used up",
        "Widen min-port to max-port, raise bps-capacity, or add a node.",
    ),
    Reason.ALLOCATION_MISMATCH: (
        Severity.FAILED,
        "it takes this connection for an older one",
        "A NAT or proxy in between reuses ports; try again.",
    ),
    Reason.STALE_NONCE: (
        Severity.FAILED,
        "it keeps calling its own fresh nonce stale",
        "Requests may reach different servers behind one address: make the balancer stick.",
    ),
}


def diagnose(seen: Observations) -> Report:
    """Findings, worst first."""
    findings = [
        *(finding for url in seen.urls for finding in _of_url(url, seen)),
        *credential_findings(seen),
        *dangers(seen),
    ]
    findings.sort(key=lambda finding: _ORDER[finding.severity])
    worst = findings[0].severity if findings else Severity.FAILED
    verdict = Severity.OK if worst is Severity.NOTE else worst
    return Report(verdict=verdict, findings=tuple(findings))


# One URL ----------------------------------------------------------------------------------------


def _of_url(url: UrlObservation, seen: Observations) -> Iterator[Finding]:
    where = str(url.uri)
    failed = _unreachable(url)
    if failed is not None:
        words, advice = _UNREACHABLE.get(failed.reason, _UNREACHABLE[Reason.CLOSED])
        if url.tls is not None and failed.reason is Reason.TLS_NAME:
            words += f": {', '.join(url.tls.names[:8]) or 'none at all'}"
        said = "tls_failed" if failed.reason.startswith("tls_") else "unreachable"
        yield Finding(
            code=f"{said}.{failed.reason.removeprefix('tls_')}",
            severity=Severity.FAILED,
            where=where,
            words=f"{url.uri.kind} fails: {words}.",
            advice=advice,
        )
        return
    if url.tls is not None:
        yield from _of_certificate(where, url.tls, seen.now)
    if isinstance(url.allocated, Failure):
        yield from _refused(where, url.allocated)
    elif url.allocated is not None:
        yield from _of_relay(where, url, url.allocated)
    elif not isinstance(url.anonymous, Allocation):
        yield Finding(
            code="answers",
            severity=Severity.OK,
            where=where,
            words=f"{url.uri.kind} answers; without a credential there is no more to see.",
        )


def _unreachable(url: UrlObservation) -> Failure | None:
    if url.opened is not None:
        return url.opened
    for failed in (url.bound if url.uri.kind == "stun" else url.anonymous, url.allocated):
        if isinstance(failed, Failure) and failed.reason in _UNREACHABLE:
            return failed
    return None


def _of_certificate(where: str, tls: TlsObservation, now: float) -> Iterator[Finding]:
    if tls.not_after is not None and tls.not_after - now < EXPIRES_SOON_S:
        days = max(0, int((tls.not_after - now) // 86_400))
        yield Finding(
            code="certificate_expires_soon",
            severity=Severity.WARNING,
            where=where,
            words=f"The certificate expires in {days} days.",
            advice="Renew it, and reload the server: coturn reads it at SIGUSR2 or start only.",
        )


def _refused(where: str, failed: Failure) -> Iterator[Finding]:
    if failed.reason in REFUSED:
        return  # `credential_findings` looks at all URLs together.
    unknown = (Severity.FAILED, f"it answers {failed.code or failed.reason}", "Look at its log.")
    severity, words, advice = _REFUSALS.get(failed.reason, unknown)
    if failed.alternate is not None:
        words += f": {failed.alternate[0]} port {failed.alternate[1]}"
    yield Finding(
        code=f"allocate_refused.{failed.reason}",
        severity=severity,
        where=where,
        words=f"Allocation is refused: {words}.",
        advice=advice,
    )


# Relaying ---------------------------------------------------------------------------------------


def _of_relay(where: str, url: UrlObservation, allocated: Allocation) -> Iterator[Finding]:
    host = allocated.relayed[0]
    server = url.server[0] if url.server is not None else host
    if not is_public(host) and is_public(server):
        yield Finding(
            code="relay_address_private",
            severity=Severity.FAILED,
            where=where,
            words=f"The relayed address {host} is not routable, while the server is {server}: no"
            " peer on the internet can send to it.",
            advice=f"Set external-ip={server}/{host} (coturn), for the address behind the NAT.",
        )
    proof = url.proof
    if proof is None:
        return
    if proof.verdict == "up":
        took = "" if url.took_ms is None else f" after {url.took_ms} ms"
        yield Finding(
            code="relays",
            severity=Severity.OK,
            where=where,
            words=f"{url.uri.kind} works: packets come through the relay both ways{took}.",
        )
    else:
        yield _silent_relay(where, host, server, proof)
    yield from _hairpin(where, proof)


def _silent_relay(where: str, host: str, server: str, proof: RelayProof) -> Finding:
    if not proof.is_silent:
        return Finding(
            code="relay_unproven",
            severity=Severity.WARNING,
            where=where,
            words="It allocates, but denies this machine's address and its own as peers, so whether"
            " it relays cannot be told from here.",
            advice="Run the doctor from a machine with a public address that is not denied.",
        )
    if host == server or not is_public(host):
        return Finding(
            code="relay_ports_closed",
            severity=Severity.FAILED,
            where=where,
            words=f"It allocates and permits, but no packet arrives at the relayed address {host}.",
            advice="Open its UDP port range (min-port to max-port) in firewalls and security"
            " groups; from here, UDP itself may be blocked.",
        )
    return Finding(
        code="relay_address_wrong",
        severity=Severity.FAILED,
        where=where,
        words=f"The relayed address {host} is not the server's ({server}), and no packet arrives"
        " there: either external-ip is wrong, or the port range is closed.",
        advice="Compare external-ip with the machine's public address, then open the port range.",
    )


def _hairpin(where: str, proof: RelayProof) -> Iterator[Finding]:
    if proof.peer != "carried" or not isinstance(proof.loop, Failure):
        return
    if proof.loop.reason is Reason.FORBIDDEN:
        code, words = "hairpin_denied", "denies its own relayed addresses as peers"
        advice = "Add allowed-peer-ip=<its own address> beside the denied ranges."
    elif proof.loop.reason is Reason.TIMEOUT:
        code, words = "hairpin_silent", "cannot reach its own relayed addresses"
        advice = "The NAT in front does not turn packets back; relay-ip on a public interface does."
    else:
        return
    yield Finding(
        code=code,
        severity=Severity.WARNING,
        where=where,
        words=f"The server {words}: two clients that both need it cannot talk to each other.",
        advice=advice,
    )


def is_public(host: str) -> bool:
    """Whether the internet routes to the address."""
    return ipaddress.ip_address(host).is_global
