"""The broker of one node, wired: who may ask, what is granted, and the fleet behind it.

Used by `python -m turn_broker` and by the signaling node. It decides nothing and knows no HTTP
server: routes and collectors are handed out.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from pathlib import Path

from prometheus_client.registry import Collector
from starlette.routing import Route

from turn_broker.accounts.access_token import AccessTokens
from turn_broker.accounts.jwks import KeySets
from turn_broker.accounts.table import Accounts
from turn_broker.accounts.verified_tokens import VerifiedTokens
from turn_broker.administrators import Administrators
from turn_broker.broker import Broker
from turn_broker.clock import unix_now
from turn_broker.config import SettingsError, TurnSettings, check_secret
from turn_broker.coturn.config_text import console_password_of
from turn_broker.coturn.control import CoturnControl
from turn_broker.coturn.settings import CoturnSettings
from turn_broker.counters import Counters, CountersCollector
from turn_broker.credentials import TurnCredential
from turn_broker.dialects.asking import AddressOf, peer_address
from turn_broker.fleet.agent import NodeAgent, start_agent
from turn_broker.fleet.control_http import ControlApi
from turn_broker.fleet.guard import GuardLimits
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.metrics import FleetCollector
from turn_broker.fleet.redis import RedisFleet
from turn_broker.fleet.redis_url import connect
from turn_broker.fleet.rotation import Rotation
from turn_broker.fleet.turn_control import TurnControl
from turn_broker.fleet.usage_watch import UsageWatch
from turn_broker.fleet.watch import FleetWatch
from turn_broker.guesses import Guesses
from turn_broker.http import routes
from turn_broker.issuer import Issuer
from turn_broker.nodes.health import TurnNode
from turn_broker.nodes.prober import PROBE_ENTROPY_BYTES, Prober, probe_credential
from turn_broker.parts import node_list_of, policy_of, ring_of

NEW_SECRET_BYTES = 32


class BrokerService:
    """`start` it before the first request and `stop` it after the last."""

    def __init__(  # noqa: PLR0913 - the parts it stands on
        self,
        settings: TurnSettings,
        accounts: Accounts,
        *,
        default_account: str,
        admin_token: str = "",
        backplane_url: str = "",
        nodes: list[TurnNode] | None = None,
        guesses: Guesses | None = None,
        address_of: AddressOf = peer_address,
    ) -> None:
        """`nodes` replaces the configured ones where this process runs the relay itself.

        Raises SettingsError.
        """
        self.settings = settings
        self._nodes = node_list_of(settings, nodes)
        self.fleet = _fleet_of(settings, backplane_url)
        self._is_alone = not backplane_url
        policy = policy_of(settings)
        self.rotation = Rotation(
            self.fleet,
            ring_of(settings),
            [node.id for node in self._nodes.nodes],
            unix_now,
            max_ttl_s=policy.max_ttl_s,
            new_secret=lambda: secrets.token_urlsafe(NEW_SECRET_BYTES),
            own_rings=lambda: [one.sid for one in accounts.all() if one.limits.own_secret],
        )
        if settings.identity_secret:
            check_secret("turn.identity_secret", settings.identity_secret)
        broker = Broker(
            self._nodes,
            self.rotation.ring,
            policy,
            identity_key=settings.identity_secret or settings.secret,
        )
        self.key_sets = KeySets(accounts)
        self.tokens = AccessTokens(accounts, self.key_sets)
        self.verified = VerifiedTokens(self.tokens, accounts)
        self._usage = UsageWatch(accounts, self.fleet)
        self.issuer = Issuer(
            broker,
            accounts,
            self.verified,
            self.fleet,
            limits=settings.issue,
            guesses=guesses,
            usage=self._usage,
        )
        self._prober = Prober(
            self._nodes,
            self._probe_credential,
            settings.probing,
            clock=unix_now,
            chance=random.random,
        )
        self.administrators = Administrators(
            self.issuer, default_account=default_account, admin_token=admin_token
        )
        self._control = ControlApi(
            self.issuer, self.fleet, self.rotation, self.administrators, address_of=address_of
        )
        self._watch = FleetWatch(self.fleet, self._nodes, secrets.token_hex(8), unix_now)
        self._address_of = address_of
        self._running = contextlib.AsyncExitStack()

    @property
    def counters(self) -> Counters:
        return self.issuer.counters

    @property
    def is_ready(self) -> bool:
        """False until the backplane, if there is one, has told the realm's secrets.

        Not when it is lost later: with what is known, credentials are granted all the same.
        """
        return self._is_alone or self.rotation.is_known

    def routes(self) -> list[Route]:
        """Every dialect, and the control endpoints."""
        return [*routes(self.issuer, address_of=self._address_of), *self._control.routes()]

    def collectors(self) -> list[Collector]:
        fleet = FleetCollector(self._nodes, self._prober.counters, self.rotation, self._watch)
        return [CountersCollector(self.counters), fleet]

    async def start(self, relay: TurnControl | None = None, relay_node: str = "") -> None:
        """`relay` is a TURN server in this process, which gets its agent here."""
        running = self._running
        if isinstance(self.fleet, RedisFleet):
            await self.fleet.start()
        running.push_async_callback(self.fleet.close)
        await self.rotation.start()
        running.push_async_callback(self.rotation.stop)
        await running.enter_async_context(self.key_sets)
        await running.enter_async_context(self._usage)
        await running.enter_async_context(self._watch)
        if relay is not None:
            agent = start_agent(relay_node, self.fleet, relay, clock=unix_now)
            await running.enter_async_context(agent)
        elif self.settings.coturn is not None and self._is_alone:
            await running.enter_async_context(self._coturn_agent(self.settings.coturn))
        await running.enter_async_context(self._prober)

    async def stop(self) -> None:
        await self._running.aclose()

    def _probe_credential(self) -> TurnCredential:
        ring = self.rotation.ring("")
        return probe_credential(ring.active, unix_now(), secrets.token_bytes(PROBE_ENTROPY_BYTES))

    def _coturn_agent(
        self, settings: CoturnSettings
    ) -> contextlib.AbstractAsyncContextManager[NodeAgent]:
        """The agent of the coturn beside this process, where nobody else shares the fleet."""
        password = console_password_of(settings, self.settings.secret)
        control = CoturnControl(settings, realm=self.settings.realm, console_password=password)
        limits = GuardLimits(allocations_per_identity=settings.allocations_per_identity)
        return start_agent(settings.node, self.fleet, control, clock=unix_now, limits=limits)


def _fleet_of(settings: TurnSettings, backplane_url: str) -> MemoryFleet | RedisFleet:
    if backplane_url:
        try:
            client = connect(backplane_url)
        except ValueError as flaw:
            raise SettingsError("backplane.url", str(flaw)) from flaw
        seal_key = settings.identity_secret or settings.secret
        return RedisFleet(client, settings.realm, unix_now, seal_key=seal_key)
    path = Path(settings.state_file) if settings.state_file else None
    try:
        return MemoryFleet(unix_now, path)
    except (OSError, ValueError) as flaw:
        raise SettingsError("turn.state_file", str(flaw)) from flaw
