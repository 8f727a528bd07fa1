"""Which URLs of which nodes a client is given, while the nodes' health stays as it is.

Pure and immutable but for a bounded memory of answers: a change of health makes a new `NodeChoice`.
It does not know how health is learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turn_broker.ice_servers import Kind, TurnUri
from turn_broker.nodes.wheel import Wheel

_RELAYING: tuple[Kind, ...] = ("udp", "tcp", "tls")
_MAX_PLANS = 1024
_MAX_ANSWERS = 4096


@dataclass(frozen=True, slots=True)
class TurnNode:
    """One TURN server and the URLs it is reached by."""

    id: str
    region: str
    urls: tuple[TurnUri, ...]
    weight: int = 1
    """Its share of the clients of its region, at least 1."""

    def __post_init__(self) -> None:
        if all(url.kind == "stun" for url in self.urls):
            raise ValueError(f"TURN node {self.id} has no turn: or turns: URL")
        if self.weight < 1:
            raise ValueError(f"TURN node {self.id} has a weight below 1")
        for url in self.urls:
            if url.port not in (80, 443) and url.port < 1024:
                raise ValueError(f"TURN node {self.id}: browsers do not use port {url.port}")


@dataclass(frozen=True, slots=True)
class Choice:
    """URLs for one client, best first; the same object for the same answer."""

    urls: tuple[TurnUri, ...]
    is_degraded: bool
    """No TURN URL is known to work: these are what worked last."""
    stun: tuple[str, ...] = field(init=False)
    """The stun: URLs of `urls` as text."""
    turn: tuple[str, ...] = field(init=False)
    """The turn: and turns: URLs of `urls` as text."""

    def __post_init__(self) -> None:
        stun = tuple(str(url) for url in self.urls if url.kind == "stun")
        turn = tuple(str(url) for url in self.urls if url.kind != "stun")
        object.__setattr__(self, "stun", stun)
        object.__setattr__(self, "turn", turn)


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where one URL of an answer comes from: the nodes of one region that offer one kind."""

    kind: Kind
    region: Wheel[str]
    """All nodes of the region, well or not, so that a chance keeps its node through changes."""
    offering: Wheel[str]

    def pick(self, chance: float) -> str:
        node, within = self.region.pick(chance)
        return node if node in self.offering else self.offering.pick(within)[0]

    def pick_other(self, chance: float, taken: str) -> str | None:
        _, within = self.region.pick(chance)
        return self.offering.pick_other(within, taken)


@dataclass(slots=True)
class _Plan:
    slots: list[_Slot]
    """One a kind, best first."""
    spares: list[_Slot]
    """The first that has a node other than the first slot's gives one more URL."""
    room: int
    answers: dict[tuple[str, ...], Choice] = field(default_factory=dict)
    """By the nodes that the slots took."""
    only: Choice | None = None
    """When chance decides nothing."""


class NodeChoice:
    """The answers of one state of health."""

    def __init__(
        self,
        nodes: Sequence[TurnNode],
        good: Mapping[str, tuple[TurnUri, ...]],
        order: Callable[[str], tuple[str, ...]],
        *,
        is_degraded: bool,
    ) -> None:
        """`good` are the URLs of each node that may be handed out, with at least one TURN URL.

        `order` tells all regions, nearest first, from one of them on.
        """
        self.is_degraded = is_degraded
        self._order = order
        self._urls: dict[str, dict[Kind, list[TurnUri]]] = {}
        for node in nodes:
            kinds = self._urls[node.id] = {}
            for url in sorted(good.get(node.id, ()), key=_rank):
                kinds.setdefault(url.kind, []).append(url)
        self._regions = {
            region: Wheel([(n.id, n.weight) for n in nodes if n.region == region])
            for region in dict.fromkeys(node.region for node in nodes)
        }
        weights = {node.id: node.weight for node in nodes}
        self._slots = {
            (region, kind): _Slot(kind, wheel, Wheel([(n, weights[n]) for n in offering]))
            for region, wheel in self._regions.items()
            for kind in (*_RELAYING, "stun")
            if (offering := [n for n in wheel.items if kind in self._urls[n]])
        }
        self._plans: dict[tuple[str, tuple[str, ...] | None, int], _Plan] = {}

    def choose(
        self, region: str, transports: tuple[str, ...] | None, room: int, chance: float
    ) -> Choice:
        """At most `room` URLs of what is good, from `region` on."""
        key = (region, transports, room)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._plan(region, transports, room)
        return plan.only or self._answer(plan, chance)

    def _plan(self, region: str, transports: tuple[str, ...] | None, room: int) -> _Plan:
        order = [name for name in self._order(region) if name in self._regions]
        kinds = [kind for kind in _RELAYING if not transports or kind in transports]
        slots = [slot for kind in kinds if (slot := self._nearest(order, kind))]
        if not slots:
            kinds = list(_RELAYING)
            slots = [slot for kind in kinds if (slot := self._nearest(order, kind))]
        first = slots[0]
        spares = [
            slot for name in order if (slot := self._slots.get((name, first.kind))) is not None
        ]
        # Another region fails by itself, so it comes before another node of the same one.
        spares = [s for s in spares if s is not first] + [first]
        stun = None if transports else self._nearest(order, "stun")
        if stun is not None:
            slots.append(stun)
        plan = _Plan(slots, spares, room)
        if all(len(slot.region.items) == 1 for slot in (*slots, spares[0])):
            plan.only = self._answer(plan, 0.0)
        return plan

    def _nearest(self, order: list[str], kind: Kind) -> _Slot | None:
        return next(
            (self._slots[name, kind] for name in order if (name, kind) in self._slots), None
        )

    def _answer(self, plan: _Plan, chance: float) -> Choice:
        taken = [slot.pick(chance) for slot in plan.slots]
        spare = next(
            (n for slot in plan.spares if (n := slot.pick_other(chance, taken[0])) is not None), ""
        )
        key = (*taken, spare)
        found = plan.answers.get(key)
        if found is None:
            if len(plan.answers) >= _MAX_ANSWERS:
                plan.answers.clear()
            found = plan.answers[key] = Choice(self._assemble(plan, taken, spare), self.is_degraded)
        return found

    def _assemble(self, plan: _Plan, taken: list[str], spare: str) -> tuple[TurnUri, ...]:
        """One of each kind, the spare, further TURN URLs of the best node, then STUN."""
        picked = [
            (slot.kind, self._urls[node]) for slot, node in zip(plan.slots, taken, strict=True)
        ]
        relaying = [(kind, urls) for kind, urls in picked if kind != "stun"]
        kind, best = relaying[0]
        found = [urls[each][0] for each, urls in relaying]
        if spare:
            found.append(self._urls[spare][kind][0])
        found += [url for each, _ in relaying for url in best.get(each, ())[1:]]
        found += [urls[each][0] for each, urls in picked if each == "stun"]
        return tuple(dict.fromkeys(found))[: plan.room]


def _rank(url: TurnUri) -> int:
    """TLS on 443 passes where nothing else does; otherwise as configured."""
    return 0 if url.kind == "tls" and url.port == 443 else 1
