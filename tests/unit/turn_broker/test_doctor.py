"""From observations to findings: what real servers rarely show, and that every reason has words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from turn_broker.doctor.advisories import COTURN, advisories_for, coturn_version
from turn_broker.doctor.credentials import span
from turn_broker.doctor.dangers import FORBIDDEN_PEERS
from turn_broker.doctor.diagnosis import _UNREACHABLE, diagnose
from turn_broker.doctor.report import (
    CredentialTrial,
    Finding,
    Observations,
    PermissionTrial,
    Report,
    ServerObservation,
    Severity,
    TlsObservation,
    UrlObservation,
)
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.turn.dialogue import Allocation, Failure, Reason, RelayProof, Step

NOW = 1_000_000.0
SERVER = "198.41.0.4"
UDP = parse_turn_uri(f"turn:{SERVER}:3478")
TCP = parse_turn_uri(f"turn:{SERVER}:3478?transport=tcp")
TLS = parse_turn_uri(f"turns:{SERVER}:443")
STUN = parse_turn_uri(f"stun:{SERVER}:3478")
CHALLENGED = Failure(step=Step.ALLOCATE, reason=Reason.UNAUTHORIZED, code=401, realm="lab")
SILENT = Failure(step=Step.RELAY, reason=Reason.TIMEOUT)
DENIED = Failure(step=Step.PERMISSION, reason=Reason.FORBIDDEN, code=403)


def allocation(host: str = SERVER) -> Allocation:
    return Allocation(relayed=(host, 50_000), mapped=None, lifetime_s=600, realm="lab")


def url(**seen: Any) -> UrlObservation:
    defaults = {"uri": UDP, "server": (SERVER, 3478), "anonymous": CHALLENGED}
    return UrlObservation(**{**defaults, **seen})


def server(at: str = SERVER, **seen: Any) -> ServerObservation:
    return ServerObservation(server=at, at=UDP, **seen)


def report(*urls: UrlObservation, **seen: Any) -> Report:
    return diagnose(Observations(now=NOW, urls=urls, **seen))


def codes(found: Report) -> set[str]:
    return {finding.code for finding in found.findings}


def the(found: Report, code: str) -> Finding:
    return next(finding for finding in found.findings if finding.code == code)


# Reachability -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_connection_has_words(reason: Reason) -> None:
    (finding,) = report(url(uri=TLS, opened=Failure(step=Step.CONNECT, reason=reason))).findings

    assert finding.severity is Severity.FAILED
    assert finding.code.partition(".")[0] in ("unreachable", "tls_failed")
    assert finding.advice


def test_words_differ_by_reason() -> None:
    assert len({words for words, _ in _UNREACHABLE.values()}) == len(_UNREACHABLE)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_refusal_of_an_allocation_has_words(reason: Reason) -> None:
    found = report(url(allocated=Failure(step=Step.ALLOCATE, reason=reason, code=999)))

    assert found.verdict in (Severity.FAILED, Severity.WARNING)
    assert all(finding.words and finding.advice for finding in found.findings)


def test_an_unknown_code_is_told() -> None:
    found = report(url(allocated=Failure(step=Step.ALLOCATE, reason=Reason.OTHER, code=599)))

    assert "599" in the(found, "allocate_refused.other").words


def test_a_certificate_without_names() -> None:
    failed = Failure(step=Step.TLS, reason=Reason.TLS_NAME)
    found = report(url(uri=TLS, opened=failed, tls=TlsObservation()))

    assert "none at all" in the(found, "tls_failed.name").words


def test_a_certificate_far_from_its_end_is_no_finding() -> None:
    tls = TlsObservation(version="TLSv1.3", not_after=NOW + 86_400 * 90)

    assert codes(report(url(uri=TLS, tls=tls))) == {"answers"}


@pytest.mark.parametrize(("left_s", "words"), [(86_400 * 2 + 5, "2 days"), (-5, "0 days")])
def test_a_certificate_near_its_end(left_s: float, words: str) -> None:
    tls = TlsObservation(version="TLSv1.3", not_after=NOW + left_s)

    assert words in the(report(url(uri=TLS, tls=tls)), "certificate_expires_soon").words


def test_where_a_draining_server_sends_clients() -> None:
    failed = Failure(
        step=Step.ALLOCATE, reason=Reason.TRY_ALTERNATE, code=300, alternate=("198.41.0.9", 3479)
    )
    found = the(report(url(allocated=failed)), "allocate_refused.try_alternate")

    assert "198.41.0.9 port 3479" in found.words
    assert found.severity is Severity.WARNING


def test_nothing_examined_is_not_good() -> None:
    assert report().verdict is Severity.FAILED


def test_the_worst_comes_first() -> None:
    found = report(
        url(allocated=allocation(), proof=RelayProof(peer="carried"), software="Coturn-4.17.2"),
        url(uri=STUN, bound=SILENT, anonymous=None),
    )

    assert [finding.severity for finding in found.findings] == [
        Severity.FAILED,
        Severity.NOTE,
        Severity.OK,
    ]


def test_notes_alone_are_good() -> None:
    assert report(url(software="Coturn-4.17.2")).verdict is Severity.OK
    assert "version_shown" in codes(report(url(software="Coturn-4.17.2")))


# Relaying ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "proof", "expected"),
    [
        (SERVER, RelayProof(peer="carried", loop="carried"), {"relays"}),
        (SERVER, RelayProof(peer="carried", loop=DENIED), {"relays", "hairpin_denied"}),
        (SERVER, RelayProof(peer="carried", loop=SILENT), {"relays", "hairpin_silent"}),
        (SERVER, RelayProof(peer="carried", loop=CHALLENGED), {"relays"}),
        (SERVER, RelayProof(peer=DENIED, loop="carried"), {"relays"}),
        (SERVER, RelayProof(peer=DENIED, loop=DENIED), {"relay_unproven"}),
        (SERVER, RelayProof(peer=SILENT, loop="carried"), {"relay_ports_closed"}),
        (SERVER, RelayProof(peer=SILENT, loop=SILENT), {"relay_ports_closed"}),
        ("198.41.0.9", RelayProof(peer=SILENT, loop=DENIED), {"relay_address_wrong"}),
        ("10.0.0.9", RelayProof(peer=SILENT), {"relay_address_private", "relay_ports_closed"}),
        (SERVER, None, set()),
    ],
)
def test_relaying(host: str, proof: RelayProof | None, expected: set[str]) -> None:
    seen = url(allocated=allocation(host), proof=proof, took_ms=12)

    assert codes(report(seen)) == expected


def test_a_private_server_may_relay_from_a_private_address() -> None:
    seen = url(
        server=("10.0.0.1", 3478),
        allocated=allocation("10.0.0.1"),
        proof=RelayProof(peer="carried"),
    )
    assert codes(report(seen)) == {"relays"}
    nameless = url(server=None, allocated=allocation(), proof=RelayProof(peer="carried"))
    assert codes(report(nameless)) == {"relays"}


# 401 --------------------------------------------------------------------------------------------


def trial(secret: int, offset_s: int, accepted: bool) -> CredentialTrial:
    return CredentialTrial(secret=secret, offset_s=offset_s, accepted=accepted)


NO = trial(0, 600, False)


@pytest.mark.parametrize(
    ("trials", "seen", "code"),
    [
        ((), {}, "credential_refused"),
        ((), {"expires_at": int(NOW) - 5}, "credential_expired"),
        ((), {"expires_at": int(NOW) + 5}, "credential_refused"),
        ((NO,), {}, "secret_wrong"),
        ((NO,), {"expected_realm": "lab"}, "secret_wrong"),
        ((NO,), {"expected_realm": "other"}, "realm_differs"),
        ((NO, trial(0, 3600, True)), {}, "clock_ahead"),
        ((NO, trial(1, 3600, True)), {}, "secret_outdated"),
        ((trial(0, 600, True),), {}, "credential_wrong"),
        ((trial(0, 600, True),), {"is_of_secret": False, "expires_at": 5}, "credential_wrong"),
        ((trial(0, 600, True),), {"is_of_secret": True, "expires_at": 5}, "credential_expired"),
        (
            (trial(0, 600, True),),
            {"is_of_secret": True, "expires_at": int(NOW) + 50},
            "clock_ahead",
        ),
    ],
)
def test_why_it_is_refused(
    trials: tuple[CredentialTrial, ...], seen: dict[str, Any], code: str
) -> None:
    refused = url(allocated=CHALLENGED)
    same = url(uri=TCP, allocated=CHALLENGED)
    found = report(refused, same, servers=(server(trials=trials),), **seen)

    assert [finding.code for finding in found.findings] == [code]
    assert found.verdict is Severity.FAILED


def test_where_the_same_credential_is_good() -> None:
    elsewhere = url(uri=TCP, server=("198.41.0.5", 3478), allocated=allocation())
    found = the(report(url(allocated=CHALLENGED), elsewhere), "credential_refused")

    assert f"good at {TCP}" in found.words


def test_a_realm_that_was_not_named() -> None:
    failed = Failure(step=Step.ALLOCATE, reason=Reason.BAD_INTEGRITY)
    found = report(url(server=None, allocated=failed), expected_realm="other")

    assert "not named" in the(found, "credential_refused").words


@pytest.mark.parametrize(
    ("trials", "seen", "expected"),
    [
        ((trial(0, 30, True), trial(0, -30, False)), {}, set()),
        ((trial(0, 30, False),), {}, {"clock_ahead"}),
        ((trial(0, -30, True), trial(0, -3600, True)), {}, {"clock_behind"}),
        ((), {"expires_at": int(NOW) - 90}, {"clock_behind"}),
        ((), {"expires_at": int(NOW) + 90}, set()),
    ],
)
def test_clocks_of_those_who_accept(
    trials: tuple[CredentialTrial, ...], seen: dict[str, Any], expected: set[str]
) -> None:
    found = report(url(allocated=allocation()), servers=(server(trials=trials),), **seen)

    assert codes(found) == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (86_400 * 800, "2 years"),
    ],
)
def test_spans(seconds: int, words: str) -> None:
    assert span(seconds) == words


# Dangers ----------------------------------------------------------------------------------------


def permitted(at: str, *allowed: str) -> Report:
    trials = tuple(PermissionTrial(peer=peer, allowed=peer in allowed) for peer in FORBIDDEN_PEERS)
    return report(url(), servers=(server(at, permissions=trials),))


@pytest.mark.parametrize("peer", FORBIDDEN_PEERS)
def test_every_private_address_makes_a_public_server_an_open_relay(peer: str) -> None:
    found = the(permitted(SERVER, peer), "open_relay")

    assert peer in found.words
    assert found.severity is Severity.FAILED
    is_dressed = peer.startswith(("::ffff", "64:ff9b"))
    assert ("IPv6 dress" in found.words) is is_dressed


@pytest.mark.parametrize(
    ("at", "peer", "code"),
    [
        ("127.0.0.1", "127.0.0.1", "local_relay"),
        ("::1", "127.0.0.1", "local_relay"),
        ("127.0.0.1", "::ffff:127.0.0.1", "local_relay"),
        ("10.9.9.9", "10.0.0.1", "local_relay"),
        ("10.9.9.9", "192.168.0.1", "open_relay"),
        ("10.9.9.9", "127.0.0.1", "open_relay"),
        ("10.9.9.9", "::1", "open_relay"),
        ("10.9.9.9", "fd00::1", "open_relay"),
        ("fd00::5", "fd00::1", "local_relay"),
        ("169.254.1.1", "169.254.169.254", "open_relay"),
    ],
)
def test_a_network_of_its_own(at: str, peer: str, code: str) -> None:
    assert codes(permitted(at, peer)) >= {code}
    assert len(codes(permitted(at, peer))) == 2


def test_all_denied_is_good() -> None:
    assert codes(permitted(SERVER)) == {"relay_closed", "answers"}


def test_other_dangers() -> None:
    found = report(
        url(anonymous=allocation(), amplification=9.0),
        url(uri=TCP, amplification=9.0),
        url(uri=TLS, tls=TlsObservation(old_version="TLSv1")),
        servers=(server(tcp_relay=allocation()), server("198.41.0.5", tcp_relay=DENIED)),
    )

    assert codes(found) == {"no_auth", "reflection", "tls_old", "tcp_relay", "answers"}
    assert the(found, "reflection").where == str(UDP)
    assert "reflection" not in codes(report(url(amplification=2.0)))


# Versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("software", "version"),
    [
        ("Coturn-4.6.1 'Gorst'", (4, 6, 1)),
        ("Coturn-4.17.2", (4, 17, 2)),
        ("coturn 4.8", (4, 8)),
        ("Coturn-4.5.1.3 'dan Eider'", (4, 5, 1, 3)),
        ("eturnal 1.12.1", None),
        ("", None),
    ],
)
def test_versions(software: str, version: tuple[int, ...] | None) -> None:
    assert coturn_version(software) == version


def test_advisories_are_between_their_versions() -> None:
    def names(software: str) -> set[str]:
        return {flaw.name for flaw in advisories_for(software)}

    assert "CVE-2026-27624" in names("Coturn-4.6.1")
    assert "CVE-2026-27624" not in names("Coturn-4.9.0")
    assert "CVE-2025-69217" not in names("Coturn-4.6.1")
    assert "CVE-2025-69217" in names("Coturn-4.6.2")
    assert "version_dangerous" in codes(report(url(software="Coturn-4.6.1"), url(software="x")))
    assert names("Coturn-4.13.0") == names("something") == set()
    assert len({flaw.name for flaw in COTURN}) == len(COTURN)


def test_a_report_can_be_written_down() -> None:
    seen = Observations(now=NOW, urls=(url(allocated=allocation(), proof=RelayProof(peer=SILENT)),))
    found = diagnose(seen)

    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found
    assert b"198.41.0.4" in msgspec.json.encode(seen)
