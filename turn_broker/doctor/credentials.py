"""Why a TURN server answers 401: user, secret, realm or clock, as far as it can be told.

Pure. The server gives one answer to all of them; what it accepts instead tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from turn_broker.doctor.report import (
    CredentialTrial,
    Finding,
    Observations,
    ServerObservation,
    Severity,
    UrlObservation,
)
from turn_broker.turn.dialogue import Allocation, Failure, Reason

REFUSED = (Reason.UNAUTHORIZED, Reason.WRONG_CREDENTIALS, Reason.BAD_INTEGRITY)


def is_refusal(allocated: Allocation | Failure | None) -> bool:
    """Whether the credential was the reason."""
    return isinstance(allocated, Failure) and allocated.reason in REFUSED


def credential_findings(seen: Observations) -> Iterator[Finding]:
    """One finding for each server that refuses, and for each whose clock differs."""
    accepted = [url for url in seen.urls if isinstance(url.allocated, Allocation)]
    told: set[str] = set()
    for url in seen.urls:
        server = url.server[0] if url.server is not None else ""
        if not is_refusal(url.allocated) or server in told:
            continue
        told.add(server)
        trials = next((s.trials for s in seen.servers if s.server == server), ())
        code, words, advice = _why_refused(url, seen, trials)
        if accepted:
            words += f" The same credential is good at {accepted[0].uri}."
        yield Finding(
            code=code,
            severity=Severity.FAILED,
            where=str(url.uri),
            words=f"The credential is refused (401): {words}",
            advice=advice,
        )
    for observed in seen.servers:
        if observed.server not in told:
            yield from _clock_of_accepted(observed, seen)


def _why_refused(
    url: UrlObservation, seen: Observations, trials: Sequence[CredentialTrial]
) -> tuple[str, str, str]:
    """Code, words, advice."""
    good = next((trial for trial in trials if trial.accepted), None)
    left_s = None if seen.expires_at is None else seen.expires_at - int(seen.now)
    if good is not None and good.secret == 0 and good.offset_s > trials[0].offset_s:
        return _clock_ahead(good, trials)
    if left_s is not None and left_s < 0 and seen.is_of_secret is not False:
        return "credential_expired", f"it expired {span(-left_s)} ago.", "Ask for a fresh one."
    if good is not None and good.secret > 0:
        return (
            "secret_outdated",
            "the server has a retiring secret, but not the active one.",
            "Give the server the active secret (static-auth-secret, or the agent's turndb).",
        )
    if good is not None and seen.is_of_secret and left_s is not None:
        return (
            "clock_ahead",
            f"it was made with our secret and has {span(left_s)} left by our clock, but only later"
            " ones are accepted: the server's clock is ahead, or this one was revoked.",
            "Compare the clocks, then the revocations.",
        )
    if good is not None:
        return (
            "credential_wrong",
            "a fresh one of our secret is good, so this one was made with another secret, or its"
            " user or password was changed on the way.",
            "Compare the secret of whoever issued it.",
        )
    return _why_nothing_is_accepted(url, seen, trials)


def _why_nothing_is_accepted(
    url: UrlObservation, seen: Observations, trials: Sequence[CredentialTrial]
) -> tuple[str, str, str]:
    realm = url.allocated.realm if isinstance(url.allocated, Failure) else None
    if seen.expected_realm is not None and realm not in (None, seen.expected_realm):
        return (
            "realm_differs",
            f"the server's realm is {realm}, expected is {seen.expected_realm}. Secrets in a"
            " database belong to a realm, so it may look for them in the wrong place; a wrong"
            " secret would look the same.",
            "Make turn.realm and the server's realm= equal.",
        )
    if trials:
        return (
            "secret_wrong",
            "no credential of our secret is accepted, however late it expires, so it is not the"
            " clock: the server has another secret, or named users instead of use-auth-secret.",
            "Make turn.secret and the server's static-auth-secret equal.",
        )
    return (
        "credential_refused",
        "wrong user, password or secret, or the server's clock is ahead; without the secret these"
        f" look the same from outside. The server's realm is {realm or 'not named'}.",
        "Run the doctor again with --secret or --config to tell them apart.",
    )


def _clock_ahead(good: CredentialTrial, trials: Sequence[CredentialTrial]) -> tuple[str, str, str]:
    refused_s = max(t.offset_s for t in trials if t.offset_s < good.offset_s)
    return (
        "clock_ahead",
        f"the server's clock is ahead of ours by {span(refused_s)} to {span(good.offset_s)}: only"
        " credentials that expire later are accepted.",
        "Set the clock there (or here) by NTP.",
    )


def _clock_of_accepted(observed: ServerObservation, seen: Observations) -> Iterator[Finding]:
    late = [-trial.offset_s for trial in observed.trials if trial.accepted and trial.offset_s < 0]
    if seen.expires_at is not None and seen.expires_at < seen.now:
        late.append(int(seen.now) - seen.expires_at)
    if late:
        yield Finding(
            code="clock_behind",
            severity=Severity.WARNING,
            where=str(observed.at),
            words=f"A credential that expired {span(max(late))} ago is accepted: the server's"
            " clock is behind ours, or it does not check expiry.",
            advice="Set the clock there by NTP.",
        )
    early = [t.offset_s for t in observed.trials if not t.accepted and t.offset_s > 0]
    if early:
        yield Finding(
            code="clock_ahead",
            severity=Severity.WARNING,
            where=str(observed.at),
            words=f"A credential that is good for {span(max(early))} more is refused: the server's"
            " clock is ahead of ours, and every credential dies early.",
            advice="Set the clock there by NTP.",
        )


def span(seconds: int) -> str:
    """A length of time for people."""
    for size, word in ((86_400 * 365, "year"), (86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {word}{'s' if count > 1 else ''}"
    return f"{seconds} s"
