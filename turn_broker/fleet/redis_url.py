"""Connects to a Redis by URL: one server, Sentinel's master, or a Cluster, with or without TLS.

`redis://`, `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port,host:port`,
and the same with `rediss`. A user and a password before the `@` are the data nodes'. It does not
know what is kept there.
"""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

RedisClient = Redis | RedisCluster
CALL_TIMEOUT_S = 4.0
"""Of connecting; whoever calls limits the wait for an answer by the same."""
MAX_CONNECTIONS = 32
_CLUSTER_ATTEMPTS = 5
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_LOGIN = frozenset({"sentinel_username", "sentinel_password"})
_URL = re.compile(
    r"redis(?P<tls>s)?(?:\+(?P<kind>sentinel|cluster))?://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]+)(?:/(?P<path>[^/?#]*))?(?:\?(?P<query>[^#]*))?\Z"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?\Z")


class RedisAddress(Struct, frozen=True, kw_only=True):
    """A parsed URL."""

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    """Of Sentinel."""
    db: int = 0
    is_tls: bool = False
    username: str | None = None
    password: str | None = None
    options: dict[str, str] = {}
    """`ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `sentinel_username`, `sentinel_password`."""

    def __repr__(self) -> str:
        return f"RedisAddress(kind={self.kind!r}, ...)"


def parse_redis_url(url: str) -> RedisAddress:
    """Raises ValueError that says what is wrong and repeats no password."""
    match = _URL.match(url)
    if match is None:
        raise ValueError("is no redis://, rediss://, redis+sentinel:// or redis+cluster:// URL")
    kind: Literal["server", "sentinel", "cluster"] = "server"
    if match["kind"] == "sentinel":
        kind = "sentinel"
    elif match["kind"] == "cluster":
        kind = "cluster"
    hosts = tuple(_host(text, _PORTS[kind]) for text in match["hosts"].split(","))
    if kind == "server" and len(hosts) > 1:
        raise ValueError("one server has one address; several need +sentinel or +cluster")
    options = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    db = options.pop("db", "0" if kind != "server" else (match["path"] or "0"))
    if not db.isdecimal() or int(db) > 2**31:
        raise ValueError("the database must be a number")
    path = unquote(match["path"] or "")
    if kind == "cluster" and (path or db != "0"):
        raise ValueError("a Cluster has no databases")
    if kind == "sentinel" and not path:
        raise ValueError(
            "name Sentinel's service in the path: redis+sentinel://host:26379/mymaster"
        )
    allowed = _TLS_FILES if match["tls"] else frozenset[str]()
    allowed |= _SENTINEL_LOGIN if kind == "sentinel" else frozenset()
    unknown = sorted(options.keys() - allowed)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no parameter of such a URL")
    return RedisAddress(
        kind=kind,
        hosts=hosts,
        service=path if kind == "sentinel" else "",
        db=int(db),
        is_tls=bool(match["tls"]),
        username=unquote(match["user"] or "") or None,
        password=unquote(match["password"] or "") or None,
        options=options,
    )


class _SentinelsMaster(Redis):
    """Closes the connections to the Sentinels along with those to the master."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def connect(url: str, max_connections: int = MAX_CONNECTIONS) -> RedisClient:
    """A client that connects when it is used; raises ValueError as `parse_redis_url` does.

    A command is tried once (in a Cluster, also where the slot has moved to) and waits for its
    answer without an end: the caller knows what may be repeated and how long it may take.
    """
    address = parse_redis_url(url)
    tls = {name: value for name, value in address.options.items() if name in _TLS_FILES}
    once: dict[str, Any] = {
        "protocol": 2,
        # With one, redis-py 8.1 sends through wait_for: Python 3.11 swallows cancellations there.
        "socket_timeout": None,
        "socket_connect_timeout": CALL_TIMEOUT_S,
        "client_name": "parley",
        "retry": Retry(NoBackoff(), 0),
    }
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    if address.kind == "cluster":
        patient = ExponentialWithJitterBackoff(cap=0.5, base=0.05)
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            max_connections=max_connections,
            ssl=address.is_tls,
            **once | login | tls | {"retry": Retry(patient, _CLUSTER_ATTEMPTS)},
        )
    if address.kind == "sentinel":
        own = {
            name.removeprefix("sentinel_"): address.options.get(name) for name in _SENTINEL_LOGIN
        }
        shared: dict[str, Any] = once | tls | ({"ssl": True} if address.is_tls else {})
        sentinel: Any = Sentinel(address.hosts, sentinel_kwargs=shared | own)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(
            address.service,
            redis_class=_SentinelsMaster,
            max_connections=max_connections,
            db=address.db,
            **shared | login,
        )
        return master
    host, port = address.hosts[0]
    pool = BlockingConnectionPool(
        max_connections=max_connections,
        timeout=CALL_TIMEOUT_S,
        connection_class=SSLConnection if address.is_tls else Connection,
        host=host,
        port=port,
        db=address.db,
        **once | login | tls,
    )
    return Redis.from_pool(pool)


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.match(text)
    if match is None or not 1 <= int(match["port"] or default_port) <= 65535:
        raise ValueError(f"{text[:60]!r} is no host with a port")
    return match["host"].strip("[]"), int(match["port"] or default_port)
