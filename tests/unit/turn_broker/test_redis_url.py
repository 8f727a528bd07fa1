"""Which Redis a URL names, and that no flaw of one repeats its password."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from turn_broker.fleet.redis_url import connect, parse_redis_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"kind": "server", "hosts": (("h", 6379),), "db": 0, "is_tls": False}),
        ("redis://127.0.0.1:7000/3", {"hosts": (("127.0.0.1", 7000),), "db": 3}),
        ("redis://h?db=4", {"db": 4}),
        ("redis://[::1]:7000", {"hosts": (("::1", 7000),)}),
        ("redis://:p%40ss@h", {"username": None, "password": "p@ss"}),
        ("redis://user:pass@h/1", {"username": "user", "password": "pass", "db": 1}),
        (
            "rediss://h?ssl_ca_certs=/ca.pem",
            {"is_tls": True, "options": {"ssl_ca_certs": "/ca.pem"}},
        ),
        (
            "redis+sentinel://:pw@a:1,b/main?db=2&sentinel_password=x",
            {
                "kind": "sentinel",
                "hosts": (("a", 1), ("b", 26379)),
                "service": "main",
                "db": 2,
                "password": "pw",
                "options": {"sentinel_password": "x"},
            },
        ),
        ("redis+cluster://a:1,b", {"kind": "cluster", "hosts": (("a", 1), ("b", 6379))}),
        ("rediss+cluster://a", {"kind": "cluster", "is_tls": True}),
    ],
)
def test_parsed(url: str, expected: dict[str, Any]) -> None:
    address = parse_redis_url(url)

    assert {name: getattr(address, name) for name in expected} == expected
    assert "pass" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:6379",
        "http://h",
        "redis+unix://h",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@h:0",
        "redis://:hunter2@h:65536",
        "redis://:hunter2@h:port",
        "redis://:hunter2@h/name",
        "redis://:hunter2@h/-1",
        "redis://:hunter2@a,b",
        "redis://:hunter2@h@h",
        "redis://:hunter2@h?socket_timeout=1",
        "redis://:hunter2@h?ssl_ca_certs=x",
        "redis://:hunter2@h/0#x",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://:hunter2@a/",
        "redis+cluster://:hunter2@a/1",
        "redis+cluster://:hunter2@a?db=1",
        "redis+cluster://:hunter2@a,,b",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as flaw:
        parse_redis_url(url)

    assert "hunter2" not in str(flaw.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://:pw@h:7000/3", Redis),
        ("rediss://h", Redis),
        ("redis+sentinel://:pw@a:1,b/main?sentinel_password=x", Redis),
        ("rediss+sentinel://a/main", Redis),
        ("redis+cluster://:pw@a:1,b", RedisCluster),
        ("rediss+cluster://a?ssl_ca_certs=/ca.pem", RedisCluster),
    ],
)
async def test_a_client_does_not_connect_before_it_is_used(url: str, kind: type) -> None:
    client = connect(url)

    assert isinstance(client, kind)
    await client.aclose()
