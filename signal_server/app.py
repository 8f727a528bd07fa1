"""Composition root: the only place where signaling, broker, relay and pages meet.

Builds one node from settings and runs it on uvicorn. It decides nothing about messages or
credentials.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from probes.openapi import added_to
from signal_server import clock, metrics
from signal_server.backplane.contract import Backplane, Services
from signal_server.backplane.facts import Fact, Facts
from signal_server.backplane.journaled import JournaledBackplane
from signal_server.backplane.memory import Clocks, MemoryBackplane
from signal_server.backplane.redis_journal import RedisJournal
from signal_server.config import Settings
from signal_server.core.inputs import IceGrant, Permit
from signal_server.core.rules import Rules
from signal_server.core.state import FORMAT
from signal_server.core.switchboard import Switchboard
from signal_server.edge import operations, pages
from signal_server.edge.asyncapi import asyncapi_document
from signal_server.edge.dispatcher import Bearer, Dispatcher, Place
from signal_server.edge.fallback import Fallback
from signal_server.edge.front import make_front
from signal_server.edge.server import SocketSettings
from signal_server.edge.server_api import ServerApi
from signal_server.edge.siblings import Siblings
from signal_server.edge.webhook_journal import WebhookJournal
from signal_server.edge.webhooks import Webhooks
from signal_server.probing import probes_of
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode
from signal_server.worker_pages import WorkerPages
from turn_broker.accounts.access_token import Grants, TokenRefusal
from turn_broker.accounts.table import Account
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.broker import Grant, Wishes
from turn_broker.config import SettingsError
from turn_broker.fleet.redis_url import connect
from turn_broker.fleet.turn_control import TurnControl
from turn_broker.guesses import Guesses
from turn_broker.nodes.health import TurnNode
from turn_broker.openapi import openapi_components, openapi_paths
from turn_broker.parts import accounts_of, store_of
from turn_broker.problem import framework_problem
from turn_broker.service import BrokerService

log = logging.getLogger("parley.app")

SIGNAL_PATH = "/v1/signal"
MAX_REDIS_CONNECTIONS = 4096
WEBHOOK_GRACE_S = 3.0
"""How long a node that ends waits for its last webhooks."""
DEV_TOKEN_TTL_S = 86_400
_GRANT_REFUSALS = frozenset({"bad_request", "forbidden", "limit_exceeded"})
_ROOMS_WITH_PAGES = ("signal_server", "probes")
_TURN = Grants()
"""Of whoever signaling lets ask for ICE servers: the core has looked at the token's grants."""


class Node:
    """One node's parts, wired."""

    def __init__(
        self,
        settings: Settings,
        *,
        is_dev: bool,
        relay: TurnControl | None = None,
        relay_node: TurnNode | None = None,
        pages: WorkerPages | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """`relay_node` replaces the configured TURN nodes; `relay`, if this process runs it.

        `pages` join the metrics of several workers.
        """
        self.settings = settings
        self._relay = relay
        self._relay_node = relay_node
        self._pages = pages
        self._page_writer: asyncio.Task[None] | None = None
        self.accounts = accounts_of(settings.accounts, store_of(settings.turn))
        guesses = Guesses(settings.guesses)
        self.turn = BrokerService(
            settings.turn,
            self.accounts,
            default_account=settings.accounts[0].sid,
            admin_token=settings.server.admin_token,
            backplane_url=settings.backplane.url,
            nodes=[relay_node] if relay_node else None,
            guesses=guesses,
        )
        rules = Rules(
            limits=settings.limits,
            rates=settings.rates,
            calls=settings.calls,
            addresses=settings.addresses,
            negotiation=settings.negotiation,
        )
        self.webhooks = _webhooks(settings)
        self.backplane = self._backplane(rules)
        self.dispatcher = Dispatcher(
            self.backplane,
            self._authenticate,
            self._grant,
            guesses,
            settings.limits,
            Place(settings.node.name, settings.node.region),
        )
        self.probes = None
        if settings.probes.enabled:
            self.probes = probes_of(settings, lambda: self.account, self.turn)
        # One region's pages test the others.
        origins = {*settings.cors.origins, *(region.url for region in settings.regions)}
        self.front = make_front(
            {SIGNAL_PATH: self.dispatcher, **(self.probes.endpoints if self.probes else {})},
            SocketSettings(
                limits=settings.limits,
                allowed_origins=None if "*" in origins else frozenset(origins),
                trusted_proxies=frozenset(settings.server.trusted_proxies),
            ),
        )
        self.sockets = self.front.sockets
        self.siblings = siblings
        self.fallback = Fallback(self.dispatcher, settings.limits, siblings=siblings)
        self.on_drain: Callable[[], None] = _ignore
        """What `POST /v1/drain` does; set by whoever runs the node."""
        self.app = self._web(is_dev, sorted(origins))

    def _backplane(self, rules: Rules) -> Backplane:
        node = self.settings.node
        services = Services(self._grant, self._announce)

        def new_board() -> Switchboard:
            return Switchboard(node.name, node.region, rules, int(clock.unix() * 1000))

        def new_facts() -> Facts:
            return Facts(self.settings.webhooks.rooms)

        backplane = self.settings.backplane
        if not backplane.url:
            clocks = Clocks(clock.monotonic, clock.unix)
            return MemoryBackplane(new_board(), services, clocks, new_facts())
        # Each home waits for its journal on a connection of its own.
        client = connect(backplane.url, max_connections=MAX_REDIS_CONNECTIONS)
        turn = self.settings.turn
        journal = RedisJournal(client, turn.identity_secret or turn.secret)
        depth, kept = self.settings.limits.json_depth, backplane.standby_bytes
        return JournaledBackplane(node.name, journal, new_board, new_facts, depth, services, kept)

    async def start(self) -> None:
        """What runs beside the requests: the TURN fleet, key sets, webhooks."""
        name = self._relay_node.id if self._relay_node else ""
        if self.settings.backplane.url:
            # Nodes of another one share nothing with this one in Redis.
            log.info("backplane", extra={"state_format": FORMAT})
        await self.backplane.start(self.dispatcher)
        await self.turn.start(self._relay, name)
        if self.webhooks is not None:
            self.webhooks.start()
        if self._pages is not None:
            writing = self._pages.write_on(self._own_metrics)
            self._page_writer = asyncio.get_running_loop().create_task(writing)

    async def stop(self) -> None:
        """After the last request."""
        if self._page_writer is not None:
            self._page_writer.cancel()
        self.dispatcher.stop()
        await self.backplane.stop()
        if self.probes is not None:
            await self.probes.close()
        if self.webhooks is not None:
            await self.webhooks.close(WEBHOOK_GRACE_S)
        await self.turn.stop()
        if self.siblings is not None:
            await self.siblings.close()

    def _own_metrics(self) -> bytes:
        return metrics.render(self._registry)

    def _all_metrics(self) -> bytes:
        own = self._own_metrics()
        return own if self._pages is None else self._pages.render(own)

    def _is_ready(self) -> bool:
        is_served = self.turn.is_ready and self.backplane.is_ready
        return is_served and not self.dispatcher.is_draining

    def _drain_asked(self) -> None:
        self.on_drain()

    @property
    def account(self) -> Account:
        """The default account: the first one."""
        account = self.accounts.by_sid(self.settings.accounts[0].sid)
        assert account is not None
        return account

    def issue_token(self, identity: str, room: str | None, ttl_s: int = DEV_TOKEN_TTL_S) -> str:
        """Access token of the default account's first key; ValueError for a bad name."""
        key = self.account.api_keys[0]
        return self.turn.tokens.issue(
            self.account, key.sid, identity, room=room, ttl_s=ttl_s, now=clock.unix()
        )

    def _announce(self, fact: Fact) -> None:
        if self.webhooks is not None:
            self.webhooks.publish(fact)

    def _authenticate(self, token: str) -> Bearer | Refusal:
        now = clock.unix()
        claims = self.turn.verified.verify(token, now)
        if isinstance(claims, TokenRefusal):
            return Refusal(ErrorCode(claims.code), claims.message)
        grants = claims.grants
        if not (grants.join or grants.call or grants.turn):
            # Such as a probe session's.
            return Refusal(ErrorCode.FORBIDDEN, "the access token grants nothing in signaling")
        permit = Permit(
            account=claims.account_sid,
            identity=claims.identity,
            name=claims.name,
            join=grants.join,
            room=claims.room,
            may_turn=grants.turn,
            may_call=grants.call,
            relay_only=grants.relay_only,
        )
        return Bearer(permit, max(0.0, claims.expires_at - now))

    def _grant(
        self, account: str, identity: str, ttl: int | None, region: str | None, remote: str
    ) -> IceGrant | Refusal | None:
        owner = self.accounts.by_sid(account)
        if owner is None:
            return None
        asker = Asker(owner, identity, _TURN)
        wishes = Wishes(ttl=ttl, region=region, client_address=remote or None)
        grant = self.turn.issuer.issue(asker, wishes, "signaling", remote, is_limited=False)
        if isinstance(grant, IssueRefusal):
            self.turn.issuer.count_refusal(grant)
            return _refusal_of(grant)
        return _ice_grant(grant)

    def _web(self, is_dev: bool, origins: list[str]) -> Starlette:
        self._registry = metrics.page(
            metrics.SignalingCollector(
                self.dispatcher, self.backplane, self.sockets, lambda: self.fallback.sessions
            ),
            *self.turn.collectors(),
            *([self.probes.collector] if self.probes else []),
        )
        fragment = {"paths": openapi_paths(), "components": openapi_components()}
        if self.probes:
            fragment = added_to(fragment)
        number = version("parley-rtc")
        documents = {
            "/openapi.json": operations.openapi_document(number, fragment),
            "/asyncapi.json": asyncapi_document(number, SIGNAL_PATH),
        }
        routes: list[BaseRoute] = [
            *operations.routes(
                self._is_ready,
                self._all_metrics,
                metrics.CONTENT_TYPE,
                documents,
            ),
            *self.fallback.routes(),
            *ServerApi(self.dispatcher, self.turn.administrators, self._drain_asked).routes(),
            *self.turn.routes(),
            *(self.probes.routes() if self.probes else []),
            *pages.routes(
                [files(room) / "browser" for room in _ROOMS_WITH_PAGES],
                node=self.settings.node.name,
                region=self.settings.node.region,
                origins=[region.url for region in self.settings.regions],
            ),
        ]
        if is_dev:
            routes.append(operations.dev_token_route(self.issue_token))
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Retry-After"],
        )
        return Starlette(
            routes=routes,
            middleware=[cors],
            exception_handlers={HTTPException: framework_problem, ClientDisconnect: _nobody},
            max_body_size=2 * self.fallback.max_body_bytes,
        )


def _ignore() -> None:
    """Nobody runs this node yet."""


def _webhooks(settings: Settings) -> Webhooks | None:
    """None without endpoints: the HTTP client costs 10 MB."""
    endpoints = settings.webhooks.endpoints
    if not endpoints:
        return None
    from signal_server.edge.webhook_post import WebhookPost

    post = WebhookPost(endpoints, timeout_s=settings.webhooks.timeout_s)
    return Webhooks(settings.webhooks, post, journal=_journal(settings))


def _journal(settings: Settings) -> WebhookJournal | None:
    """Raises SettingsError when the file cannot be used."""
    path = settings.webhooks.journal
    if not path:
        return None
    try:
        return WebhookJournal(path, settings.webhooks.endpoints)
    except sqlite3.Error as flaw:
        raise SettingsError("webhooks.journal", str(flaw)) from flaw


async def _nobody(request: Request, error: Exception) -> Response:
    """The client left while it was sending: not our bug, and nobody reads the answer."""
    return Response(status_code=400)


def _ice_grant(grant: Grant) -> IceGrant:
    servers: list[dict[str, Any]] = [server.to_w3c() for server in grant.ice_servers]
    return IceGrant(ice_servers=servers, ttl=grant.ttl, expires_at=grant.expires_at)


def _refusal_of(refusal: IssueRefusal) -> Refusal | None:
    """None: nothing is wrong with the wish, there is nothing to grant now."""
    if refusal.code not in _GRANT_REFUSALS:
        return None
    wait_s = refusal.retry_after_s
    retry_after_ms = None if wait_s is None else max(1, int(wait_s * 1000))
    return Refusal(ErrorCode(refusal.code), refusal.message, retry_after_ms=retry_after_ms)
