"""Runs the checks of one command against one deployment and settles every one of them.

Regions and transports are tried side by side; what was not finished when the run is stopped is
`aborted`. It does not know terminals or files.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module

import httpx
from msgspec.structs import replace

from probes.checks.api import Api
from probes.checks.outcome import WORDS, timed
from probes.checks.turn import TurnCheck
from probes.checks.ws import WsCheck
from probes.messages import TRANSPORTS, ProbeSession, Transport
from probes.reasons import SETTLED, Reason, State
from probes.verdict import CheckResult, Verdict, verdict_of
from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri, parse_turn_uri

HTTP_TIMEOUT_S = 8.0
TURN_LIMIT_S = 60.0
WS_LIMIT_S = 15.0
API_LIMIT_S = 30.0
QUALITY_EXTRA_S = 45.0
MAX_RELAY_REGIONS = 8
"""Of which the relays are tested, unless they are named."""
PEER_RESERVE_S = 15.0
"""Of a server peer's life, for connecting and for a call that is not good at once."""
_CONNECTIONS = httpx.Limits(max_connections=8, keepalive_expiry=2.0)
"""An idle connection is given up before a server's own limit closes it under a request."""


class UnknownRegion(ValueError):  # noqa: N818 - a wish, not a fault
    """A region was asked for that the deployment does not have."""


class Kind(StrEnum):
    TURN = "turn"
    WS = "ws"
    API = "api"
    QUALITY = "quality"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to test; transports and regions narrow the choice, empty means all."""

    kind: Kind
    base_url: str
    transports: tuple[Transport, ...] = TRANSPORTS
    regions: tuple[str, ...] = ()
    quality_s: float = 12.0
    tls: ssl.SSLContext | None = None


_CUT = CheckResult(name="run", state=State.ABORTED, reason=Reason.ABORTED)


@dataclass(slots=True)
class Run:
    """A run with its results so far; `on_change` hears of each start and end."""

    plan: Plan
    on_change: Callable[[CheckResult], None]
    results: dict[tuple[str, str], CheckResult] = field(default_factory=dict)
    duration_s: float = 0.0
    was_cut: bool = False
    """It was cancelled, perhaps between two checks."""
    region: str = ""
    """That answered the API."""
    relays: dict[str, ProbeSession] = field(default_factory=dict)
    """By region where there are several, else by "": a session with its relays, in the order in
    which a call would take them."""

    async def go(self) -> None:
        """Until every check has settled; cancelling it leaves the rest aborted.

        Raises UnknownRegion.
        """
        began = time.monotonic()
        verify = self.plan.tls if self.plan.tls is not None else True
        try:
            async with httpx.AsyncClient(
                timeout=HTTP_TIMEOUT_S, verify=verify, limits=_CONNECTIONS
            ) as client:
                await self._all(Api(self.plan.base_url, client))
        except asyncio.CancelledError:
            self.was_cut = True
            raise
        finally:
            self.duration_s = time.monotonic() - began
            self._abort_rest()

    @property
    def verdict(self) -> Verdict:
        return verdict_of([*self.results.values(), *([_CUT] if self.was_cut else [])])

    async def _all(self, api: Api) -> None:
        await self._one(api.waiting(), api.check(), API_LIMIT_S)
        session = api.session
        if session is None:
            return
        self.region = session.region
        kind = self.plan.kind
        self._refuse_unknown(session)
        await self._open_relays(api, session)
        side_by_side: list[Awaitable[None]] = []
        if kind in (Kind.WS, Kind.ALL):
            side_by_side += self._regions(session)
        if kind in (Kind.TURN, Kind.ALL):
            side_by_side += self._turns(api)
        await asyncio.gather(*side_by_side)
        if kind in (Kind.QUALITY, Kind.ALL):
            await self._quality(api, session)

    def _regions(self, session: ProbeSession) -> list[Awaitable[None]]:
        wanted = self.plan.regions
        checks = [
            WsCheck(region, self.plan.tls)
            for region in session.regions
            if not wanted or region.id in wanted
        ]
        return [self._one(check.waiting(), check.check(), WS_LIMIT_S) for check in checks]

    def _refuse_unknown(self, session: ProbeSession) -> None:
        signaling = [region.id for region in session.regions]
        known = {Kind.WS: signaling, Kind.TURN: session.turn_regions}.get(
            self.plan.kind, [*signaling, *session.turn_regions]
        )
        unknown = [name for name in self.plan.regions if name not in known]
        if unknown:
            there = ", ".join(dict.fromkeys(known))
            raise UnknownRegion(f"no region {unknown[0]} here, but {there}")

    async def _open_relays(self, api: Api, session: ProbeSession) -> None:
        """A session for each region whose relays are to be tested."""
        nearest_first = sorted(session.turn_regions, key=lambda name: name != session.turn_region)
        if len(nearest_first) < 2 or self.plan.kind not in (Kind.TURN, Kind.ALL):
            self.relays[""] = session
            return
        wanted = [one for one in nearest_first if one in self.plan.regions]
        for region in wanted or nearest_first[:MAX_RELAY_REGIONS]:
            found = await api.session_of(region)
            if isinstance(found, ProbeSession):
                self.relays[region] = found
            else:
                for transport in self.plan.transports:
                    self._settle(_untested(transport, found, region))
        if not self.relays:
            self.relays[""] = session

    def _turns(self, api: Api) -> list[Awaitable[None]]:
        found: list[Awaitable[None]] = []
        alone = asyncio.Lock()
        for region, session in self.relays.items():
            for transport in self.plan.transports:
                offers = offers_of(session, transport)
                if not offers:
                    self._settle(_untested(transport, _why_none(session), region))
                checks = [self._turn_check(api, session, *one, region, alone) for one in offers]
                limit_s = TURN_LIMIT_S * len(self.relays)
                found += [self._one(one.waiting(), one.check(), limit_s) for one in checks]
        return found

    def _turn_check(
        self,
        api: Api,
        session: ProbeSession,
        uri: TurnUri,
        credential: TurnCredential,
        region: str,
        alone: asyncio.Lock,
    ) -> TurnCheck:
        async def server_peer() -> bool:
            if not session.limits.peers:
                return False
            # Beside other checks, whose answers must not wait for aiortc to load.
            await asyncio.to_thread(import_module, "probes.checks.far_peer")
            from probes.checks.far_peer import carries_data

            return await carries_data(api, uri, credential, self.plan.tls)

        return TurnCheck(
            uri,
            credential,
            region=region or None,
            is_expired=time.time() - api.clock_skew_s > session.expires_at,  # noqa: TID251
            tls=self.plan.tls,
            server_peer=server_peer,
            alone=alone,
        )

    async def _quality(self, api: Api, session: ProbeSession) -> None:
        found = self._best_relay()
        waiting = [
            CheckResult(name=f"quality-{kind}", state=State.RUNNING) for kind in ("audio", "video")
        ]
        if found is None or not session.limits.peers:
            why = "no relay works" if found is None else "the deployment runs no server peers"
            for one in waiting:
                self._settle(
                    replace(one, state=State.SKIPPED, reason=Reason.NOT_OFFERED, detail=why)
                )
            return
        from probes.checks.quality import QualityCheck

        for one in waiting:
            self._note(one)
        began = time.monotonic()
        duration_s = min(self.plan.quality_s, max(session.limits.peer_s - PEER_RESERVE_S, 1.0))
        check = QualityCheck(api, *found, duration_s=duration_s, tls=self.plan.tls)
        try:
            async with asyncio.timeout(self.plan.quality_s + QUALITY_EXTRA_S):
                results = await check.check()
        except TimeoutError:
            results = [replace(one, state=State.FAILED, reason=Reason.TIMEOUT) for one in waiting]
        elapsed_ms = int(1000 * (time.monotonic() - began))
        for result in results:
            self._settle(replace(result, duration_ms=elapsed_ms))

    def _best_relay(self) -> tuple[TurnUri, TurnCredential] | None:
        """The first transport that worked; none was tried: the first that is offered."""
        tried = {
            (result.region or "", result.transport): result.state
            for result in self.results.values()
            if result.name == "turn"
        }
        for region, session in self.relays.items():
            for transport in self.plan.transports:
                state = tried.get((region, transport), State.PASSED)
                if state in (State.PASSED, State.WARNING):
                    offers = offers_of(session, transport)
                    if offers:
                        return offers[0]
        return None

    async def _one(
        self, waiting: CheckResult, check: Awaitable[CheckResult], limit_s: float
    ) -> None:
        self._note(replace(waiting, state=State.RUNNING))
        self._settle(await timed(check, waiting, limit_s))

    def _note(self, result: CheckResult) -> None:
        self.results[_key(result)] = result
        self.on_change(result)

    def _settle(self, result: CheckResult) -> None:
        assert result.state in SETTLED
        api = self.results.get(("api", ""))
        is_refused = result.reason is Reason.CONNECTION_REFUSED
        if is_refused and api and api.state is State.PASSED and api.target == result.target:
            gone = "it answered before, and refuses now"
            result = replace(result, reason=Reason.SERVER_GONE, detail=gone)
        self._note(result)

    def _abort_rest(self) -> None:
        for result in list(self.results.values()):
            if result.state not in SETTLED:
                self._settle(
                    replace(result, state=State.ABORTED, reason=Reason.ABORTED, detail="stopped")
                )


def offers_of(session: ProbeSession, transport: Transport) -> list[tuple[TurnUri, TurnCredential]]:
    """Every TURN URL of the transport with its credential."""
    found: list[tuple[TurnUri, TurnCredential]] = []
    for server in session.ice_servers.get(transport, []):
        urls: Sequence[str] = server["urls"]
        if "username" not in server:
            continue
        credential = TurnCredential(server["username"], server["credential"])
        for url in [urls] if isinstance(urls, str) else urls:
            uri = parse_turn_uri(url)
            if uri.kind == transport:
                found.append((uri, credential))
    return found


def _untested(transport: Transport, reason: Reason, region: str) -> CheckResult:
    """A transport of which nothing is known, because there is nothing to test."""
    is_fault = reason in (Reason.NO_CREDENTIALS, Reason.SERVER_GONE)
    return CheckResult(
        name="turn",
        state=State.FAILED if is_fault else State.SKIPPED,
        reason=reason,
        transport=transport,
        region=region or None,
        detail=WORDS.get(reason, ""),
    )


def _why_none(session: ProbeSession) -> Reason:
    """Of a transport without a URL."""
    has_others = any(offers_of(session, transport) for transport in TRANSPORTS)
    is_refused = session.turn_regions and not has_others
    return Reason.NO_CREDENTIALS if is_refused else Reason.NOT_OFFERED


def _key(result: CheckResult) -> tuple[str, str]:
    if result.name == "api":
        return result.name, ""
    parts = (result.transport, result.region, result.name == "turn" and result.target)
    return result.name, " ".join(part for part in parts if part)
