"""From settings to the parts of a broker. Every flaw is a `SettingsError` that names its key.

It reads files where a file is the thing (accounts, GeoIP) and starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from turn_broker.accounts.access_token import AccessTokens
from turn_broker.accounts.store import AccountStore, StoreError
from turn_broker.accounts.table import Account, Accounts, ApiKey
from turn_broker.broker import Broker
from turn_broker.config import AccountSettings, SettingsError, TurnSettings, check_secret
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.nodes.geoip import open_geoip
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.nodes.regions import Regions
from turn_broker.policy import Policy
from turn_broker.sealing import Seal
from turn_broker.secret_ring import RetiringSecret, SecretRing


def store_of(settings: TurnSettings) -> AccountStore | None:
    """The account file, or None where there is none; raises SettingsError."""
    if not settings.accounts_file:
        return None
    seal = None
    if settings.accounts_key:
        check_secret("turn.accounts_key", settings.accounts_key)
        seal = Seal(settings.accounts_key)
    return AccountStore(Path(settings.accounts_file), seal)


def accounts_of(settings: list[AccountSettings], store: AccountStore | None = None) -> Accounts:
    """The account table, with those of `store`; raises SettingsError."""
    if not settings:
        raise SettingsError("accounts", "at least one account is needed")
    built = [_account_of(f"accounts[{i}]", account) for i, account in enumerate(settings)]
    try:
        if store is not None:
            store.accounts()
        accounts = Accounts(built, store.changed if store else None)
        AccessTokens(accounts)
    except StoreError as flaw:
        raise SettingsError("turn.accounts_file", str(flaw)) from flaw
    except ValueError as flaw:
        raise SettingsError("accounts", str(flaw)) from flaw
    return accounts


def _account_of(at: str, settings: AccountSettings) -> Account:
    check_secret(f"{at}.auth_token", settings.auth_token)
    keys = []
    for i, key in enumerate(settings.keys):
        if key.algorithm == "HS256":
            check_secret(f"{at}.keys[{i}].secret", key.secret)
        try:
            keys.append(ApiKey(key.sid, key.secret, key.algorithm, key.public_key, key.jwks_url))
        except ValueError as flaw:
            raise SettingsError(f"{at}.keys[{i}]", str(flaw)) from flaw
    try:
        return Account(settings.sid, settings.auth_token, tuple(keys), limits=settings.limits)
    except ValueError as flaw:
        raise SettingsError(f"{at}.sid", str(flaw)) from flaw


def ring_of(settings: TurnSettings) -> SecretRing:
    """The secret ring; raises SettingsError."""
    check_secret("turn.secret", settings.secret)
    for i, secret in enumerate(settings.retiring_secrets):
        check_secret(f"turn.retiring_secrets[{i}]", secret)
    return SecretRing(
        settings.secret, tuple(RetiringSecret(secret) for secret in settings.retiring_secrets)
    )


def nodes_of(settings: TurnSettings) -> list[TurnNode]:
    """The TURN nodes, which may be none; raises SettingsError."""
    nodes = []
    if settings.urls:
        nodes.append(_node_of("turn.urls", "default", "default", settings.urls))
    for i, node in enumerate(settings.nodes):
        at = f"turn.nodes[{i}].urls"
        nodes.append(_node_of(at, node.id, node.region, node.urls, node.weight))
    if len({node.id for node in nodes}) != len(nodes):
        raise SettingsError("turn.nodes", "two nodes have the same id")
    return nodes


def _node_of(key: str, name: str, region: str, urls: list[str], weight: int = 1) -> TurnNode:
    try:
        return TurnNode(name, region, tuple(parse_turn_uri(url) for url in urls), weight)
    except ValueError as flaw:
        raise SettingsError(key, str(flaw)) from flaw


def policy_of(settings: TurnSettings) -> Policy:
    """The policy; raises SettingsError."""
    try:
        return Policy(
            min_ttl_s=settings.min_ttl_s,
            max_ttl_s=settings.max_ttl_s,
            default_ttl_s=settings.default_ttl_s,
            max_urls=settings.max_urls,
        )
    except ValueError as flaw:
        raise SettingsError("turn", str(flaw)) from flaw


def node_list_of(settings: TurnSettings, nodes: list[TurnNode] | None = None) -> NodeList:
    """The nodes, or `nodes` where the caller runs the relay itself; raises SettingsError."""
    served = nodes_of(settings) if nodes is None else nodes
    if not served:
        raise SettingsError("turn.urls", "no TURN server is configured")
    probing = settings.probing
    return NodeList(
        served,
        _regions_of(settings, served),
        misses=probing.misses,
        successes=probing.successes,
        max_urls=settings.max_urls,
    )


def _regions_of(settings: TurnSettings, nodes: list[TurnNode]) -> Regions:
    default = settings.default_region or None
    locate = None
    if settings.geoip_file:
        try:
            locate = open_geoip(Path(settings.geoip_file))
        except (OSError, ValueError, ImportError) as flaw:
            raise SettingsError("turn.geoip_file", str(flaw)) from flaw
    try:
        if not settings.regions:
            return Regions.named((node.region for node in nodes), default=default)
        regions = Regions(settings.regions, default=default, locate=locate)
    except ValueError as flaw:
        raise SettingsError("turn.regions", str(flaw)) from flaw
    unknown = {node.region for node in nodes} - set(regions.names)
    if unknown:
        raise SettingsError("turn.regions", f"a node is in region {min(unknown)}, which is missing")
    return regions


def broker_of(settings: TurnSettings) -> Broker:
    """A broker of the configured secrets alone, for commands; raises SettingsError."""
    if settings.identity_secret:
        check_secret("turn.identity_secret", settings.identity_secret)
    ring = ring_of(settings)
    return Broker(
        node_list_of(settings),
        lambda _: ring,
        policy_of(settings),
        identity_key=settings.identity_secret or settings.secret,
    )
