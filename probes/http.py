"""HTTP of the probes: sessions, regions, ping, log, server peers and shared reports.

No account is needed; everything is rate-limited and bounded. CORS is the application's middleware.
It does not know how a client judges what it measures.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from probes.deployment import Deployment
from probes.messages import (
    MAX_REPORT_BYTES,
    MAX_SDP_CHARS,
    LogEntry,
    PeerAnswer,
    PeerRequest,
    Ping,
    ProbeLimits,
    ProbeSession,
    RegionList,
    ReportReceipt,
    SessionRequest,
)
from probes.metrics import Figures
from probes.reports import Reports, read_report
from probes.sessions import IDENTITY_PREFIX, SessionUse
from probes.settings import ProbeSettings
from turn_broker.addresses import address_key
from turn_broker.body import read_body
from turn_broker.issue_limits import Buckets
from turn_broker.problem import problem_response

if TYPE_CHECKING:
    from probes.peers import PeerHost

_TRACKED_ADDRESSES = 65_536
Host = Callable[[], Awaitable["PeerHost"]]
"""The server peers; aiortc is loaded when the first one is asked for."""
Authorized = Callable[[Request, str], Awaitable[Response]]


class ProbeApi:
    """The routes under `/v1/probes`."""

    def __init__(
        self,
        settings: ProbeSettings,
        deployment: Deployment,
        peers: Host | None,
        reports: Reports | None,
        figures: Figures,
    ) -> None:
        self._settings = settings
        self._deployment = deployment
        self._peers = peers
        self._reports = reports
        self._figures = figures
        self.use = SessionUse(settings)
        self._addresses = Buckets(_TRACKED_ADDRESSES)
        self._everybody = Buckets(1)

    def routes(self) -> list[Route]:
        bearer = self._bearer
        return [
            Route("/v1/probes/sessions", self._begin, methods=["POST"]),
            Route("/v1/probes/regions", self._regions),
            Route("/v1/probes/ping", self._ping),
            Route("/v1/probes/log", self._log, methods=["POST"]),
            Route("/v1/probes/peers", bearer(self._open_peer), methods=["POST"]),
            Route("/v1/probes/peers/{id}", bearer(self._peer), methods=["GET"]),
            Route("/v1/probes/peers/{id}", bearer(self._end_peer), methods=["DELETE"]),
            Route("/v1/probes/reports", bearer(self._share), methods=["POST"]),
            Route("/v1/probes/reports/{id}", self._report, methods=["GET"]),
            Route("/v1/probes/reports/{id}", self._take_back, methods=["DELETE"]),
        ]

    # Sessions and what needs none -----------------------------------------------------------

    async def _begin(self, request: Request) -> Response:
        wait = self._wait(request)
        if wait:
            self._figures.refused["rate_limited"] += 1
            return _limited(wait)
        body = await read_body(request)
        if body is None:
            return problem_response("payload_too_large", "the request is too large or too slow")
        try:
            asked = msgspec.json.decode(body or b"{}", type=SessionRequest)
        except (msgspec.DecodeError, UnicodeError) as flaw:
            return problem_response("bad_request", str(flaw)[:200])
        regions = list(self._deployment.turn_regions())
        if asked.region is not None and asked.region not in regions:
            return problem_response("not_found", f"relays are in {', '.join(regions)}")
        session = self._session(request, asked.region, regions)
        if isinstance(session, float):
            self._figures.refused["rate_limited"] += 1
            return _limited(session)
        self._figures.sessions += 1
        return _json(201, session)

    def _session(
        self, request: Request, region: str | None, regions: list[str]
    ) -> ProbeSession | float:
        """Or in how many seconds there may be one."""
        settings, deployment = self._settings, self._deployment
        identity = IDENTITY_PREFIX + secrets.token_hex(12)
        now = int(deployment.unix())
        ends = now + settings.session_ttl_s
        relays = deployment.relays(identity, deployment.address_of(request), region)
        if relays.wait_s:
            return relays.wait_s
        return ProbeSession(
            token=deployment.issue_token(identity, settings.session_ttl_s),
            expires_at=min(ends, relays.expires_at or ends),
            now=now,
            ice_servers=relays.servers,
            regions=deployment.regions_seen_by(request),
            region=deployment.region,
            node=deployment.node,
            limits=ProbeLimits(
                ttl_s=settings.session_ttl_s,
                peers=settings.peers_per_session if self._peers else 0,
                peer_s=settings.peer_s,
                reports=settings.reports_per_session if self._reports is not None else 0,
                report_bytes=MAX_REPORT_BYTES,
            ),
            turn_regions=regions,
            turn_region=relays.region,
        )

    async def _regions(self, request: Request) -> Response:
        return _json(200, RegionList(self._deployment.regions_seen_by(request)))

    async def _ping(self, request: Request) -> Response:
        deployment = self._deployment
        now_ms = int(deployment.unix() * 1000)
        return _json(200, Ping(deployment.region, deployment.node, now_ms))

    async def _log(self, request: Request) -> Response:
        body = await read_body(request)
        if body is None:
            return problem_response("payload_too_large", "the entry is too large or too slow")
        try:
            msgspec.json.decode(body or b"{}", type=LogEntry)
        except (msgspec.DecodeError, UnicodeError) as flaw:
            return problem_response("bad_request", str(flaw)[:200])
        self._figures.log_entries += 1
        return Response(status_code=204)

    # Server peers ---------------------------------------------------------------------------

    async def _open_peer(self, request: Request, identity: str) -> Response:
        if self._peers is None:
            return problem_response("unavailable", "this deployment runs no server peers")
        body = await read_body(request, 2 * MAX_SDP_CHARS)
        if body is None:
            return problem_response("payload_too_large", "the offer is too large or too slow")
        try:
            asked = msgspec.json.decode(body, type=PeerRequest)
        except (msgspec.DecodeError, UnicodeError) as flaw:
            return problem_response("bad_request", str(flaw)[:200])
        # Before a place is taken: whoever leaves meanwhile has none to give back.
        host = await self._peers()
        if not self.use.open_peer(identity):
            self._figures.refused["limit_exceeded"] += 1
            return problem_response("limit_exceeded", "too many server peers now", 5.0)
        answer = await host.open(identity, asked, lambda: self.use.close_peer(identity))
        if not isinstance(answer, PeerAnswer):
            self._figures.refused[answer.code] += 1
            return problem_response(answer.code, answer.message)
        return _json(201, answer)

    async def _peer(self, request: Request, identity: str) -> Response:
        host = await self._peers() if self._peers else None
        figures = await host.figures(identity, _id(request)) if host else None
        if figures is None:
            return problem_response("not_found", "no such server peer of this session")
        return _json(200, figures)

    async def _end_peer(self, request: Request, identity: str) -> Response:
        host = await self._peers() if self._peers else None
        figures = await host.end(identity, _id(request)) if host else None
        # A browser that closes its connection ends the peer, too, and often first.
        return Response(status_code=204) if figures is None else _json(200, figures)

    # Reports --------------------------------------------------------------------------------

    async def _share(self, request: Request, identity: str) -> Response:
        if self._reports is None:
            return problem_response("unavailable", "this deployment keeps no reports")
        body = await read_body(request, MAX_REPORT_BYTES)
        if body is None:
            return problem_response("payload_too_large", "the report is too large or too slow")
        report = read_report(body)
        if isinstance(report, str):
            return problem_response(report, "not a report of this format")
        if not self.use.take_report(identity):
            return problem_response("limit_exceeded", "this session has shared enough reports")
        name, delete_token = secrets.token_urlsafe(12), secrets.token_urlsafe(18)
        ends = self._reports.keep(name, delete_token, report, int(self._deployment.unix()))
        url = f"{request.url.scheme}://{request.url.netloc}/diagnostics?report={name}"
        self._figures.reports += 1
        return _json(
            201, ReportReceipt(id=name, url=url, expires_at=ends, delete_token=delete_token)
        )

    async def _report(self, request: Request) -> Response:
        now = int(self._deployment.unix())
        body = self._reports.find(_id(request), now) if self._reports else None
        if body is None:
            return problem_response("not_found", "no such report, or no longer")
        return _answer(200, body)

    async def _take_back(self, request: Request) -> Response:
        token = _bearer_text(request)
        if not token or not self._reports or not self._reports.remove(_id(request), token):
            return problem_response("not_found", "no such report with this delete_token")
        return Response(status_code=204)

    # Who asks -------------------------------------------------------------------------------

    def _wait(self, request: Request) -> float:
        """Seconds until the address may begin one more session; 0: now, and it is counted."""
        settings, now = self._settings, self._deployment.monotonic()
        address = address_key(self._deployment.address_of(request))
        mine = (settings.address_per_s, settings.address_burst)
        total_burst = max(settings.address_burst, math.ceil(10 * settings.total_per_s))
        everybodys = (settings.total_per_s, total_burst)
        wait = max(
            self._addresses.wait(address, *mine, now),
            self._everybody.wait("all", *everybodys, now),
        )
        if not wait:
            self._addresses.charge(address, settings.address_per_s, now)
            self._everybody.charge("all", settings.total_per_s, now)
        return wait

    def _bearer(self, endpoint: Authorized) -> Callable[[Request], Awaitable[Response]]:
        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            identity = self._deployment.identity_of(_bearer_text(request))
            if identity is None:
                return problem_response("unauthenticated", "send the probe session's token")
            return await endpoint(request, identity)

        return checked


def _bearer_text(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _limited(wait_s: float) -> Response:
    return problem_response("rate_limited", "too many tests from this network", wait_s)


def _json(status: int, content: object) -> Response:
    return _answer(status, msgspec.json.encode(content))


def _answer(status: int, body: bytes) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(body, status, headers=headers, media_type="application/json")
