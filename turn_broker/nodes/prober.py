"""Asks every URL of every node, again and again, whether it would serve a client now.

Allocate, CreatePermission and one relayed packet each way, with a credential of the broker's own.
The outcome goes to the `NodeList`; latencies and counts are plain integers for metrics. It does
not know what is done about a sick node.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Self

from msgspec import Meta, Struct

from turn_broker.background import Background
from turn_broker.credentials import TurnCredential, mint
from turn_broker.ice_servers import Kind, TurnUri
from turn_broker.nodes.health import NodeList, TurnNode, Verdict
from turn_broker.turn.client import TurnClient
from turn_broker.turn.dialogue import Failure
from turn_broker.turn.proof import prove_relay

log = logging.getLogger(__name__)

CREDENTIAL_TTL_S = 120
"""Short, but longer than the clocks of two well-kept machines differ."""
PROBE_ENTROPY_BYTES = 10
LATENCY_BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
JITTER = 0.2
"""Of the interval, both ways, so that brokers do not probe in step."""


class ProberSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[turn.probing]`: how the health of TURN nodes is learnt."""

    enabled: bool = True
    """Without it the URLs count as other brokers of the fleet find them, or as good."""
    interval_s: Annotated[float, Meta(ge=0.05, le=3600)] = 10.0
    """Between the rounds; each takes every URL once."""
    timeout_s: Annotated[float, Meta(ge=0.05, le=30)] = 3.0
    """Of each step of a probe."""
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 8
    """URLs that are probed at the same time."""
    misses: Annotated[int, Meta(ge=1, le=100)] = 3
    """In a row, after which a URL leaves the lists that clients get."""
    successes: Annotated[int, Meta(ge=1, le=100)] = 2
    """In a row, after which it returns."""


@dataclass(slots=True)
class Latency:
    """How long successful probes took; `counts` are cumulative only when read."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))
    """One for each of `LATENCY_BOUNDS_MS` (at most so long), and one for what took longer."""
    total_ms: int = 0

    def add(self, took_ms: int) -> None:
        self.counts[bisect_left(LATENCY_BOUNDS_MS, took_ms)] += 1
        self.total_ms += took_ms


@dataclass(slots=True)
class ProbeCounters:
    """Keys are node ids of the configuration and kinds of URL: a closed set."""

    latency: dict[tuple[str, Kind], Latency] = field(default_factory=dict)
    outcomes: dict[tuple[str, Kind, Verdict], int] = field(default_factory=dict)

    def add(self, node: str, kind: Kind, verdict: Verdict, took_ms: int) -> None:
        key = (node, kind, verdict)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if verdict != "down":
            self.latency.setdefault((node, kind), Latency()).add(took_ms)


def probe_credential(secret: str, now: float, entropy: bytes) -> TurnCredential:
    """A credential for one probe, of the identity `probe`, which no client's digest equals."""
    token_id = base64.b32encode(entropy[:PROBE_ENTROPY_BYTES]).decode().lower()
    return mint(secret, f"probe.{token_id}", int(now) + CREDENTIAL_TTL_S)


class Prober(Background):
    """Probes while it is entered; rounds never overlap."""

    def __init__(
        self,
        nodes: NodeList,
        credential: Callable[[], TurnCredential],
        settings: ProberSettings,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`credential` mints one (see `probe_credential`), `chance` gives 0 to 1 for the jitter.

        `tls` replaces the system's trust.
        """
        self.counters = ProbeCounters()
        self.rounds = 0
        """Finished."""
        self._nodes = nodes
        self._credential = credential
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._tls = tls or ssl.create_default_context()
        self._turns = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Self:
        return await super().__aenter__() if self._settings.enabled else self

    async def _work(self) -> None:
        while True:
            await self.probe_all()
            jitter = 1 + JITTER * (2 * self._chance() - 1)
            await asyncio.sleep(self._settings.interval_s * jitter)

    async def probe_all(self) -> None:
        """One round. A draining node refuses by intention and is left alone."""
        async with asyncio.TaskGroup() as probes:
            for status in self._nodes.statuses():
                if not status.is_draining:
                    for health in status.urls:
                        probes.create_task(self._probe(status.node, health.url))
        self.rounds += 1

    async def _probe(self, node: TurnNode, uri: TurnUri) -> None:
        loop = asyncio.get_running_loop()
        async with self._turns:
            began = loop.time()
            try:
                verdict, reason = await self._ask(uri)
            except Exception:
                # Our own mistake: it must neither end the rounds nor take a node away.
                log.exception("probing a URL of TURN node %s failed", node.id)
                return
            took_ms = round((loop.time() - began) * 1000)
        self.counters.add(node.id, uri.kind, verdict, took_ms)
        if self._nodes.observe(node.id, uri, verdict, self._clock(), reason):
            if verdict == "down":
                log.warning("TURN node %s left the list over %s: %s", node.id, uri.kind, reason)
            else:
                log.warning("TURN node %s is back on the list over %s", node.id, uri.kind)

    async def _ask(self, uri: TurnUri) -> tuple[Verdict, str]:
        timeout_s = self._settings.timeout_s
        if uri.kind == "stun":
            async with TurnClient(uri, timeout_s=timeout_s, tls=self._tls) as stun:
                bound = await stun.bind()
            return ("down", bound.reason) if isinstance(bound, Failure) else ("up", "")
        credential = self._credential()
        async with (
            TurnClient(uri, credential, timeout_s=timeout_s, tls=self._tls) as turn,
            TurnClient(uri, credential, timeout_s=timeout_s, tls=self._tls) as other,
        ):
            allocation = await turn.allocate()
            if isinstance(allocation, Failure):
                return "down", allocation.reason
            proof = await prove_relay(turn, other, timeout_s=timeout_s)
            return proof.verdict, proof.reason
