"""The steps of secret rotation in a realm, from what the nodes report.

Pure. A secret mints only when every node has reported the version that brought it, and is accepted
until no credential of it can live. It does not know who asks, nor how nodes are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from turn_broker.fleet.messages import DEFAULT_RING, NodeReport, RealmSecrets
from turn_broker.secret_ring import RetiringSecret, SecretRing


def begun(
    secrets: RealmSecrets, name: str, secret: str, now: float, *, force: bool = False
) -> RealmSecrets:
    """`secret` becomes the next one of ring `name`; ValueError as `SecretRing.begin`.

    An account without a ring of its own gets one, which begins as the default ring's.
    """
    ring = secrets.rings.get(name) or SecretRing(secrets.rings[DEFAULT_RING].active)
    return _changed(secrets, {name: ring.begin(secret, now, force=force)})


def forced(secrets: RealmSecrets, name: str) -> RealmSecrets | None:
    """The rotation under way no longer waits for nodes without an agent; None: it does not."""
    ring = secrets.rings.get(name)
    if ring is None or ring.next is None or ring.is_forced:
        return None
    return _changed(secrets, {name: _with_force(ring)})


def waiting_for(
    secrets: RealmSecrets,
    ring: SecretRing,
    reports: Iterable[NodeReport],
    configured: Collection[str],
) -> tuple[str, ...]:
    """The nodes that keep the ring's next secret from minting."""
    version = {report.node: report.secrets_version for report in reports}
    needed = version.keys() if ring.is_forced else version.keys() | set(configured)
    return tuple(sorted(node for node in needed if version.get(node) != secrets.version))


def advanced(
    secrets: RealmSecrets,
    reports: Collection[NodeReport],
    configured: Collection[str],
    now: float,
    overlap_s: int,
) -> RealmSecrets | None:
    """After every promotion and removal that is due; None when nothing is."""
    changes = {}
    for name, ring in secrets.rings.items():
        after = ring.purge(now)
        if after.next is not None and not waiting_for(secrets, after, reports, configured):
            after = after.promote(now, overlap_s)
        if after != ring:
            changes[name] = after
    return _changed(secrets, changes) if changes else None


def adopted(
    secrets: RealmSecrets, configured: SecretRing, now: float, overlap_s: int
) -> RealmSecrets | None:
    """With the configured secret in the default ring, as long as that has never been rotated.

    After the first rotation the ring is the realm's own, whatever a configuration says. None when
    nothing changes.
    """
    ring = secrets.rings[DEFAULT_RING]
    if ring.since or ring.next is not None or ring.active == configured.active:
        return None
    former = RetiringSecret(ring.active, int(now) + overlap_s)
    rest = tuple(old for old in ring.retiring if old.secret != configured.active)
    fresh = SecretRing(configured.active, (former, *rest))
    return _changed(secrets, {DEFAULT_RING: fresh})


def _changed(secrets: RealmSecrets, changes: dict[str, SecretRing]) -> RealmSecrets:
    return RealmSecrets(version=secrets.version + 1, rings={**secrets.rings, **changes})


def _with_force(ring: SecretRing) -> SecretRing:
    return SecretRing(ring.active, ring.retiring, ring.next, ring.since, is_forced=True)
