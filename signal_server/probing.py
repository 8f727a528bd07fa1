"""Gives the probes what they need of this node: tokens, ICE servers, regions, addresses.

Part of the composition root. It does not know what a probe does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from starlette.requests import Request

from probes.deployment import Deployment, IceServers, Relays
from probes.messages import TRANSPORTS, Transport
from probes.service import Probes
from signal_server import clock
from signal_server.config import Settings
from turn_broker.accounts.access_token import Grants, TokenRefusal
from turn_broker.accounts.table import Account
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.broker import Wishes
from turn_broker.config import SettingsError
from turn_broker.ice_servers import IceServer, parse_turn_uri
from turn_broker.nodes.health import TurnNode
from turn_broker.service import BrokerService

_ONLY_PROBE = Grants(join=False, call=False, turn=False, probe=True)
_ONLY_TURN = Grants(join=False, call=False, turn=True, probe=False)


def probes_of(settings: Settings, account: Callable[[], Account], turn: BrokerService) -> Probes:
    """`account` is whose keys sign the sessions' tokens; raises SettingsError."""

    def issue_token(identity: str, ttl_s: int) -> str:
        owner = account()
        signing = next(key.sid for key in owner.api_keys if key.secret)
        return turn.tokens.issue(
            owner, signing, identity, grants=_ONLY_PROBE, ttl_s=ttl_s, now=clock.unix()
        )

    def identity_of(token: str) -> str | None:
        claims = turn.verified.verify(token, clock.unix())
        if isinstance(claims, TokenRefusal) or not claims.grants.probe:
            return None
        return f"{claims.account_sid}|{claims.identity}"

    nodes = turn.issuer.broker.nodes.nodes

    def turn_regions() -> Sequence[str]:
        allowed = account().limits.regions
        named = dict.fromkeys(node.region for node in nodes)
        return [name for name in named if not allowed or name in allowed]

    def relays(identity: str, address: str | None, region: str | None) -> Relays:
        asker = Asker(account(), identity, _ONLY_TURN, is_anonymous=address is not None)
        ttl = settings.probes.session_ttl_s
        wishes = Wishes(ttl=ttl, region=region, client_address=address or None)
        grant = turn.issuer.issue(asker, wishes, "probe", address or "")
        if isinstance(grant, IssueRefusal):
            wait_s = grant.retry_after_s if grant.code == "rate_limited" else None
            return Relays({transport: [] for transport in TRANSPORTS}, "", wait_s=wait_s or 0.0)
        servers = grant.ice_servers
        if region is not None:
            servers = _of_region(region, servers, nodes)
        of_url = {str(url): node.region for node in nodes for url in node.urls}
        first = next((url for server in servers if server.username for url in server.urls), "")
        return Relays(
            {transport: _over(transport, servers) for transport in TRANSPORTS},
            of_url.get(first, ""),
            grant.expires_at,
        )

    deployment = Deployment(
        region=settings.node.region,
        node=settings.node.name,
        regions=settings.regions,
        issue_token=issue_token,
        identity_of=identity_of,
        turn_regions=turn_regions,
        relays=relays,
        address_of=_address_of,
        unix=clock.unix,
        monotonic=clock.monotonic,
    )
    try:
        return Probes(settings.probes, deployment)
    except sqlite3.Error as flaw:
        raise SettingsError("probes.reports_file", str(flaw)) from flaw


def _of_region(
    region: str, servers: tuple[IceServer, ...], nodes: Sequence[TurnNode]
) -> tuple[IceServer, ...]:
    """Without the spares of other regions; what the broker leaves out as broken is named, too,
    because a probe is to say so."""
    own = {str(url): url.kind for node in nodes if node.region == region for url in node.urls}
    relaying = next(server for server in servers if server.username)
    urls = [url for url in relaying.urls if url in own]
    for kind in TRANSPORTS:
        if kind not in [own[url] for url in urls]:
            urls += [url for url, its in own.items() if its == kind][:1]
    return (IceServer(tuple(urls), relaying.username, relaying.credential),)


def _over(transport: Transport, servers: tuple[IceServer, ...]) -> IceServers:
    """The servers cut down to the TURN URLs of one transport."""
    found = []
    for server in servers:
        urls = tuple(url for url in server.urls if parse_turn_uri(url).kind == transport)
        if urls:
            found.append(IceServer(urls, server.username, server.credential).to_w3c())
    return found


def _address_of(request: Request) -> str:
    return request.client.host if request.client else ""
