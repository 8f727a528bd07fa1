"""The TURN nodes there are and which of their URLs work.

Pure: told observations, the time and a chance. Every URL has a health of its own: for one prober
it stops working after some misses in a row and works again after some successes. It is handed out
while any prober finds that it works: a relayed packet is a proof, and a miss may be the fault of
the prober's own network. A URL that nobody probes is good. It does not know how a node is probed,
who the others are, nor where a client is (`regions` does).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from turn_broker.fleet.messages import SeenUrl
from turn_broker.ice_servers import TurnUri
from turn_broker.nodes.choice import Choice, NodeChoice, TurnNode
from turn_broker.nodes.regions import Regions
from turn_broker.policy import MAX_URLS

__all__ = ["Choice", "NodeList", "NodeStatus", "TurnNode", "UrlHealth", "Verdict"]

Verdict = Literal["unknown", "up", "unproven", "down"]
"""unproven: it allocates, but whether packets pass cannot be told from where the prober is."""
LAST_GOOD_SPAN_S = 60.0
"""When nothing works: URLs are handed out that worked up to so long before the last that did."""


@dataclass(slots=True)
class UrlHealth:
    """What is known of one URL of one node."""

    url: TurnUri
    works: bool = True
    """For our own prober."""
    verdict: Verdict = "unknown"
    """Of its last observation."""
    reason: str = ""
    """A code of the prober's: why the last observation was down or unproven."""
    elsewhere: tuple[SeenUrl, ...] = ()
    """What other brokers' probers find now."""
    misses: int = 0
    """In a row."""
    successes: int = 0
    """In a row."""
    good_at: float | None = None
    """When it last worked."""

    @property
    def is_listed(self) -> bool:
        """Whether it is handed out."""
        found = [seen.works for seen in self.elsewhere]
        if self.verdict != "unknown":
            found.append(self.works)
        return any(found) or not found

    @property
    def told(self) -> tuple[Verdict, str]:
        """Verdict and reason: our own, or of who can say the best where we do not probe."""
        if self.verdict != "unknown" or not self.elsewhere:
            return self.verdict, self.reason
        best = max(self.elsewhere, key=lambda seen: seen.works)
        return best.verdict, best.reason


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node as operators see it."""

    node: TurnNode
    is_draining: bool
    is_up: bool
    """At least one of its TURN URLs is listed."""
    urls: tuple[UrlHealth, ...]
    """Copies."""


@dataclass(slots=True)
class _Member:
    node: TurnNode
    health: dict[TurnUri, UrlHealth]
    is_draining: bool = False


class NodeList:
    """All nodes of a realm."""

    def __init__(
        self,
        nodes: Sequence[TurnNode],
        regions: Regions | None = None,
        *,
        misses: int = 3,
        successes: int = 2,
        max_urls: int = MAX_URLS,
    ) -> None:
        """`misses` in a row take a URL from the list, `successes` in a row bring it back.

        Raises ValueError without nodes, or when two have the same id.
        """
        if not nodes:
            raise ValueError("at least one TURN node is needed")
        if len({node.id for node in nodes}) != len(nodes):
            raise ValueError("two TURN nodes have the same id")
        self.nodes = tuple(nodes)
        self._regions = regions or Regions.named(node.region for node in nodes)
        self._misses = misses
        self._successes = successes
        self._max_urls = min(max_urls, MAX_URLS)
        self._members = {
            node.id: _Member(node, {url: UrlHealth(url) for url in node.urls}) for node in nodes
        }
        self.version = 0
        """Grows whenever answers may change."""
        self._refresh()

    @property
    def is_degraded(self) -> bool:
        """No TURN URL is known to work, so answers name what worked last."""
        return self._choice.is_degraded

    # What is learnt

    def observe(
        self, node_id: str, url: TurnUri, verdict: Verdict, now: float, reason: str = ""
    ) -> bool:
        """One probe's outcome; True when the URL left or returned by it.

        Raises KeyError for a node or URL that is not of this list.
        """
        health = self._members[node_id].health[url]
        before = health.is_listed
        health.verdict, health.reason = verdict, reason
        if verdict == "down":
            health.misses, health.successes = health.misses + 1, 0
            health.works = health.works and health.misses < self._misses
        else:
            health.misses, health.successes = 0, health.successes + 1
            health.good_at = now
            health.works = health.works or health.successes >= self._successes
        if health.is_listed is before:
            return False
        self._refresh()
        return True

    def seen(self) -> tuple[SeenUrl, ...]:
        """What our own prober has found, for other brokers."""
        return tuple(
            SeenUrl(
                node=member.node.id,
                url=str(health.url),
                works=health.works,
                verdict=health.verdict,
                reason=health.reason,
            )
            for member in self._members.values()
            for health in member.health.values()
            if health.verdict != "unknown"
        )

    def hear(self, elsewhere: Iterable[SeenUrl], now: float) -> None:
        """All that other brokers' probers find now; what is not of this list is ignored."""
        heard: dict[tuple[str, str], list[SeenUrl]] = {}
        for seen in elsewhere:
            heard.setdefault((seen.node, seen.url), []).append(seen)
        has_changed = False
        for member in self._members.values():
            for health in member.health.values():
                before = health.is_listed
                health.elsewhere = tuple(heard.get((member.node.id, str(health.url)), ()))
                if any(seen.works and seen.verdict != "down" for seen in health.elsewhere):
                    health.good_at = now
                has_changed |= health.is_listed is not before
        if has_changed:
            self._refresh()

    def set_draining(self, node_ids: Collection[str]) -> None:
        """The nodes that take no new allocations now; ids that are not of this list are ignored."""
        changed = [m for m in self._members.values() if m.is_draining != (m.node.id in node_ids)]
        for member in changed:
            member.is_draining = not member.is_draining
        if changed:
            self._refresh()

    # What is told

    def statuses(self) -> tuple[NodeStatus, ...]:
        """Every node as it stands now."""
        return tuple(
            NodeStatus(
                member.node,
                member.is_draining,
                any(url.kind != "stun" for url in _listed(member)),
                tuple(replace(health) for health in member.health.values()),
            )
            for member in self._members.values()
        )

    def choose(
        self,
        region: str | None = None,
        transports: tuple[str, ...] | None = None,
        max_urls: int | None = None,
        client_address: str | None = None,
        *,
        chance: float = 0.0,
    ) -> Choice:
        """At most `max_urls`, never more than four URLs, and at least one TURN URL.

        UDP, TCP and TLS of the best node in `region` (else the client's, else the default one),
        then a spare of another region or node, then STUN if there is room. A region or transport
        that nothing serves falls back to what there is: a client without servers has no way left
        to connect. `chance` (0 <= chance < 1) decides between nodes by weight: what stays the same
        for one identity keeps it on its node.
        """
        first = self._regions.first(region, client_address)
        room = min(max_urls or MAX_URLS, self._max_urls)
        return self._choice.choose(first, transports or None, room, chance)

    def _refresh(self) -> None:
        self.version += 1
        members = list(self._members.values())
        serving = [member for member in members if not member.is_draining]
        good = {member.node.id: _listed(member) for member in serving}
        is_degraded = not any(url.kind != "stun" for urls in good.values() for url in urls)
        if is_degraded:
            good = _last_good(serving or members)
        self._choice = NodeChoice(self.nodes, good, self._regions.order, is_degraded=is_degraded)


def _listed(member: _Member) -> tuple[TurnUri, ...]:
    return tuple(health.url for health in member.health.values() if health.is_listed)


def _last_good(members: Sequence[_Member]) -> dict[str, tuple[TurnUri, ...]]:
    """URLs by node: all TURN URLs if none ever worked."""
    seen = [
        (member.node.id, health)
        for member in members
        for health in member.health.values()
        if health.url.kind != "stun"
    ]
    newest = max((h.good_at for _, h in seen if h.good_at is not None), default=None)
    good: dict[str, tuple[TurnUri, ...]] = {}
    for node_id, health in seen:
        is_good = newest is None or (
            health.good_at is not None and health.good_at >= newest - LAST_GOOD_SPAN_S
        )
        if is_good:
            good[node_id] = (*good.get(node_id, ()), health.url)
    return good
