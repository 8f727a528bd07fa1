"""Known flaws of TURN servers by version, as far as the SOFTWARE attribute tells one.

Pure. Distributions repair flaws without changing the number, so this is a hint, never proof.
"""

from __future__ import annotations

import re

from msgspec import Struct

_COTURN = re.compile(r"coturn[- /v]*(\d+)\.(\d+)(?:\.(\d+))?(?:\.(\d+))?", re.IGNORECASE)
Version = tuple[int, ...]


class Advisory(Struct, frozen=True):
    """One flaw."""

    name: str
    fixed_in: Version
    words: str
    since: Version = (0,)


COTURN = (
    Advisory("CVE-2020-26262", (4, 5, 2), "relays to loopback in spite of the rules"),
    Advisory("CVE-2025-69217", (4, 8), "predictable nonces and ports", since=(4, 6, 2)),
    Advisory("CVE-2026-27624", (4, 9), "::ffff:10.0.0.1 gets around denied-peer-ip"),
    Advisory("CVE-2026-43994", (4, 10), "memory overflow with --oauth"),
    Advisory("CVE-2026-40613", (4, 10), "unsafe reading of messages from outside"),
    Advisory("coturn#1687", (4, 10), "answers large enough to reflect floods"),
    Advisory("coturn#1870", (4, 11), "crash from outside with redis-userdb and lt-cred-mech"),
    Advisory("GHSA-4g7c-p5wg-j4hp", (4, 13), "crash from outside with redis-statsdb"),
)
"""From the projects' own pages; only flaws with a known first good version."""


def coturn_version(software: str) -> Version | None:
    """The version in a SOFTWARE attribute like `Coturn-4.6.1 'Gorst'`."""
    found = _COTURN.search(software)
    return None if found is None else tuple(int(part) for part in found.groups() if part)


def advisories_for(software: str) -> tuple[Advisory, ...]:
    """What is known of the version that a server says it is."""
    version = coturn_version(software)
    if version is None:
        return ()
    return tuple(flaw for flaw in COTURN if flaw.since <= version < flaw.fixed_in)
