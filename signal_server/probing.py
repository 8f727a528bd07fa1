"""Gives the probes what they need of this node: tokens, ICE servers, regions, addresses.

Part of the composition root. It does not know what a probe does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from starlette.requests import Request

from probes.deployment import Deployment, IceServers
from probes.messages import TRANSPORTS, Transport
from probes.service import Probes
from signal_server import clock
from signal_server.config import Settings
from turn_broker.accounts.access_token import Grants, TokenRefusal
from turn_broker.accounts.table import Account
from turn_broker.addresses import address_key
from turn_broker.broker import Wishes
from turn_broker.config import SettingsError
from turn_broker.ice_servers import IceServer, parse_turn_uri
from turn_broker.issuer import Asker, IssueRefusal
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

    def ice_servers(identity: str, address: str | None) -> dict[Transport, IceServers]:
        asker = Asker(account(), identity, _ONLY_TURN, is_anonymous=address is not None)
        wishes = Wishes(ttl=settings.probes.session_ttl_s)
        grant = turn.issuer.issue(asker, wishes, "probe", address or "")
        servers = () if isinstance(grant, IssueRefusal) else grant.ice_servers
        return {transport: _over(transport, servers) for transport in TRANSPORTS}

    deployment = Deployment(
        region=settings.node.region,
        node=settings.node.name,
        regions=settings.regions,
        issue_token=issue_token,
        identity_of=identity_of,
        ice_servers=ice_servers,
        address_of=_address_of,
        unix=clock.unix,
        monotonic=clock.monotonic,
    )
    try:
        return Probes(settings.probes, deployment)
    except sqlite3.Error as flaw:
        raise SettingsError("probes.reports_file", str(flaw)) from flaw


def _over(transport: Transport, servers: tuple[IceServer, ...]) -> IceServers:
    """The servers cut down to the TURN URLs of one transport."""
    found = []
    for server in servers:
        urls = tuple(url for url in server.urls if parse_turn_uri(url).kind == transport)
        if urls:
            found.append(IceServer(urls, server.username, server.credential).to_w3c())
    return found


def _address_of(request: Request) -> str:
    return address_key(request.client.host) if request.client else ""
