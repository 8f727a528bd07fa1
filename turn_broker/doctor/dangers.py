"""What of a TURN server endangers others: open relays, reflection, known flaws, old TLS.

Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from turn_broker.doctor.advisories import advisories_for, coturn_version
from turn_broker.doctor.report import (
    Finding,
    Observations,
    PermissionTrial,
    ServerObservation,
    Severity,
)
from turn_broker.relay.peer_policy import embedded
from turn_broker.turn.dialogue import Allocation

MAX_AMPLIFICATION = 4.0
"""More bytes to a stranger for each of his invite floods under a forged address."""
METADATA = "169.254.169.254"
FORBIDDEN_PEERS = (
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    METADATA,
    "172.16.0.1",
    "192.168.0.1",
    "0.0.0.0",  # noqa: S104 - an address to ask about
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "fd00::1",
    "fe80::1",
)
"""One address of each range that clients must not reach through a relay."""


def dangers(seen: Observations) -> Iterator[Finding]:
    """Findings about what must not be possible."""
    yield from _anonymous(seen)
    for observed in seen.servers:
        yield from _open_relay(observed)
        if isinstance(observed.tcp_relay, Allocation):
            yield Finding(
                code="tcp_relay",
                severity=Severity.WARNING,
                where=str(observed.at),
                words="It relays TCP (RFC 6062), which browsers never ask for and port scanners"
                " like; CVE-2026-73212 gets around the denied addresses that way.",
                advice="Set no-tcp-relay.",
            )
    yield from _reflection(seen)
    yield from _version(seen)
    for url in seen.urls:
        if url.tls is not None and url.tls.old_version:
            yield Finding(
                code="tls_old",
                severity=Severity.WARNING,
                where=str(url.uri),
                words=f"It still agrees to {url.tls.old_version}.",
                advice="Set no-tlsv1 and no-tlsv1_1.",
            )


def _anonymous(seen: Observations) -> Iterator[Finding]:
    for url in seen.urls:
        if isinstance(url.anonymous, Allocation):
            yield Finding(
                code="no_auth",
                severity=Severity.FAILED,
                where=str(url.uri),
                words="It relays for anybody: an Allocate without a credential succeeds.",
                advice="Set use-auth-secret with a secret, and remove no-auth.",
            )


def _open_relay(observed: ServerObservation) -> Iterator[Finding]:
    where = str(observed.at)
    allowed = [trial for trial in observed.permissions if trial.allowed]
    local = [trial for trial in allowed if _same_range(trial.peer, observed.server)]
    open_ = [trial for trial in allowed if trial not in local]
    if open_:
        disguised = any(_is_disguise(trial) for trial in open_)
        yield Finding(
            code="open_relay",
            severity=Severity.FAILED,
            where=where,
            words=f"Clients can reach private addresses through it: {_list(open_)} allowed"
            + (" (an IPv4 address in IPv6 dress passes the rules)." if disguised else "."),
            advice="Deny them with denied-peer-ip (the agent writes the full list), and do not set"
            " allow-loopback-peers.",
        )
    if local:
        yield Finding(
            code="local_relay",
            severity=Severity.NOTE,
            where=where,
            words=f"It relays to the network it is in itself: {_list(local)} allowed.",
            advice="Right for a laboratory, wrong for a server on the internet.",
        )
    if observed.permissions and not allowed:
        yield Finding(
            code="relay_closed",
            severity=Severity.OK,
            where=where,
            words=f"All {len(observed.permissions)} private addresses that were tried are denied.",
        )


def _same_range(peer: str, server: str) -> bool:
    """Both loopback, or both of the same private range: the server cannot but relay there."""
    one, other = (embedded(ipaddress.ip_address(text))[-1] for text in (peer, server))
    if one.is_loopback or other.is_loopback:
        return one.is_loopback and other.is_loopback
    if one.version != other.version or str(one) == METADATA:
        return False
    bits = 8 if one.version == 4 else 16
    return ipaddress.ip_network(f"{one}/{bits}", strict=False) == ipaddress.ip_network(
        f"{other}/{bits}", strict=False
    )


def _is_disguise(trial: PermissionTrial) -> bool:
    return len(embedded(ipaddress.ip_address(trial.peer))) > 1


def _list(trials: list[PermissionTrial]) -> str:
    return ", ".join(dict.fromkeys(trial.peer for trial in trials))


def _reflection(seen: Observations) -> Iterator[Finding]:
    factors = [
        (url.amplification, str(url.uri))
        for url in seen.urls
        if url.amplification is not None and url.uri.kind == "udp"
    ]
    if factors and (most := max(factors))[0] > MAX_AMPLIFICATION:
        yield Finding(
            code="reflection",
            severity=Severity.WARNING,
            where=most[1],
            words=f"It answers strangers with {most[0]:.1f} times what they send: good for floods"
            " under forged addresses.",
            advice="Set no-rfc5780, no-stun-backward-compatibility and no-software-attribute.",
        )


def _version(seen: Observations) -> Iterator[Finding]:
    software = {url.software: None for url in seen.urls if url.software}
    for text in software:
        flaws = advisories_for(text)
        if flaws:
            yield Finding(
                code="version_dangerous",
                severity=Severity.WARNING,
                where="",
                words=f"It says it is {text}; that version has "
                + "; ".join(f"{flaw.name} ({flaw.words})" for flaw in flaws)
                + ". Distributions may have repaired some without changing the number.",
                advice="Update, or check that the options named here are off.",
            )
        elif coturn_version(text) is not None:
            yield Finding(
                code="version_shown",
                severity=Severity.NOTE,
                where="",
                words=f"It tells everybody that it is {text}.",
                advice="Set no-software-attribute.",
            )
