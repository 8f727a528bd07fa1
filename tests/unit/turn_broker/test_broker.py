"""What the broker grants: names, lifetimes, and which URLs in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.broker import Broker, Grant, GrantRefusal, TurnNode
from turn_broker.credentials import parse_username
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.policy import Policy
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
ENTROPY = bytes(range(10))
KINDS = {
    "tls": "turns:{0}:443?transport=tcp",
    "stun": "stun:{0}:3478",
    "tcp": "turn:{0}:3478?transport=tcp",
    "udp": "turn:{0}:3478?transport=udp",
}


def node(name: str, region: str = "eu", *kinds: str) -> TurnNode:
    urls = tuple(parse_turn_uri(KINDS[kind].format(name)) for kind in kinds or KINDS)
    return TurnNode(name, region, urls)


def broker(*nodes: TurnNode, **policy: int) -> Broker:
    return Broker(nodes or (node("a"),), SecretRing("secret"), Policy(**policy), identity_key="key")


def granted(given_by: Broker, subject: str | None = "alice", **wishes: Any) -> Grant:
    wishes.setdefault("entropy", ENTROPY)
    grant = given_by.grant(AC1, subject, NOW, **wishes)
    assert isinstance(grant, Grant)
    return grant


def urls(grant: Grant) -> list[str]:
    return [url for server in grant.ice_servers for url in server.urls]


def test_known_vector() -> None:
    """Digest: HMAC-SHA256("key", "AC1..|alice"); password: HMAC-SHA1("secret", username).

    Made with openssl, not with this code:
    printf '%s' "$AC1|alice" | openssl dgst -sha256 -hmac key -binary | head -c 10 | base32
    printf '%s' "$username" | openssl dgst -sha1 -hmac secret -binary | base64
    """
    grant = granted(broker(), ttl=600)

    assert grant.username == "1800000600:nhe5rvhqwgrkmlxs.aaaqeayeaudaocaj"
    assert grant.credential == "dXKeQUpwo4q+Afsbo6jSsUiWXUo="
    assert (grant.ttl, grant.expires_at) == (600, NOW + 600)
    assert grant.id == "nhe5rvhqwgrkmlxs.aaaqeayeaudaocaj"


def test_an_identity_keeps_its_digest_and_shares_it_with_nobody() -> None:
    one = broker()
    digest = granted(one).id.split(".")[0]

    assert granted(one, entropy=b"another" * 2).id.split(".")[0] == digest
    assert granted(one, "bob").id.split(".")[0] != digest
    assert one.identity_digest(AC2, "alice") != digest
    assert one.identity_digest(AC1, "alice") == digest
    rotated = Broker([node("a")], SecretRing("new"), identity_key="key")
    assert rotated.identity_digest(AC1, "alice") == digest


def test_without_a_subject_every_credential_is_an_identity_of_its_own() -> None:
    one = broker()
    first = granted(one, None, entropy=b"0123456789")
    second = granted(one, None, entropy=b"0123456780")

    assert first.id.split(".")[0] != second.id.split(".")[0]


@given(subject=st.text(max_size=200), entropy=st.binary(min_size=10, max_size=32))
def test_names_are_good_for_coturn_and_tell_nothing(subject: str, entropy: bytes) -> None:
    grant = granted(broker(), subject, entropy=entropy)

    parsed = parse_username(grant.username)
    assert parsed is not None
    assert parsed.opaque_id == grant.id
    assert len(grant.username) < 60
    digest, token_id = grant.id.split(".")
    assert len(digest) == len(token_id) == 16
    assert SecretRing("secret").verify(grant.username, grant.credential, NOW) is not None


def test_best_first() -> None:
    """STUN is listed first, as a server entry without a credential; TURN is UDP, TCP, TLS."""
    grant = granted(broker(node("a"), node("b")))

    assert urls(grant) == [
        "stun:a:3478",
        "turn:a:3478?transport=udp",
        "turn:a:3478?transport=tcp",
        "turns:a:443?transport=tcp",
    ]
    stun, turn = grant.ice_servers
    assert (stun.username, stun.credential) == (None, None)
    assert (turn.username, turn.credential) == (grant.username, grant.credential)


@pytest.mark.parametrize(
    ("nodes", "wishes", "expected"),
    [
        ([node("a", "eu", "udp"), node("b", "us", "udp")], {}, ["udp a", "udp b"]),
        ([node("a", "eu", "udp"), node("b", "us", "udp")], {"region": "us"}, ["udp b"]),
        ([node("a", "eu", "udp"), node("b", "us", "udp")], {"region": "x"}, ["udp a", "udp b"]),
        ([node("a", "eu", "udp"), node("b", "us", "udp")], {"region": ""}, ["udp a", "udp b"]),
        ([node("a")], {"max_urls": 1}, ["udp a"]),
        ([node("a")], {"max_urls": 2}, ["udp a", "tcp a"]),
        ([node("a")], {"transports": ["tls"]}, ["tls a"]),
        ([node("a")], {"transports": ("tcp", "udp")}, ["udp a", "tcp a"]),
        ([node("a", "eu", "udp")], {"transports": ["tls"]}, ["udp a"]),
        ([node("a", "eu", "udp", "stun")], {"transports": []}, ["stun a", "udp a"]),
        ([node("a", "eu", "tls")], {"region": "us", "transports": ["udp"]}, ["tls a"]),
        (
            [node("a", "eu", "udp", "tcp"), node("b", "eu"), node("c", "eu")],
            {},
            ["udp a", "tcp a", "udp b", "tcp b"],
        ),
        ([node("a", "eu", "udp", "udp", "tcp")], {}, ["udp a", "tcp a"]),
    ],
)
def test_choice(nodes: list[TurnNode], wishes: dict[str, Any], expected: list[str]) -> None:
    chosen = urls(granted(broker(*nodes), **wishes))

    assert chosen == [KINDS[kind].format(name) for kind, name in map(str.split, expected)]


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(["eu", "us"]), st.sets(st.sampled_from(sorted(KINDS)))),
        max_size=5,
    ),
    region=st.none() | st.sampled_from(["eu", "us", "ap"]),
    transports=st.none() | st.lists(st.sampled_from(["udp", "tcp", "tls"])),
    max_urls=st.none() | st.integers(1, 4),
)
def test_never_empty_never_more_than_four(
    shapes: list[tuple[str, set[str]]],
    region: str | None,
    transports: list[str] | None,
    max_urls: int | None,
) -> None:
    nodes = [node("n", "eu", "udp")]
    nodes += [
        node(f"n{i}", where, *sorted(kinds | {"tcp"})) for i, (where, kinds) in enumerate(shapes)
    ]

    grant = granted(broker(*nodes), region=region, transports=transports, max_urls=max_urls)

    chosen = urls(grant)
    assert 1 <= len(chosen) <= (max_urls or 4)
    assert len(set(chosen)) == len(chosen)
    assert any(url.startswith("turn") for url in chosen)


@pytest.mark.parametrize(
    ("wishes", "word"),
    [
        ({"ttl": 59}, "ttl"),
        ({"ttl": 86_401}, "ttl"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 10**30}, "ttl"),
        ({"max_urls": 0}, "max_urls"),
        ({"max_urls": 5}, "max_urls"),
        ({"transports": ["quic"]}, "transports"),
        ({"transports": ["stun"]}, "transports"),
    ],
)
def test_refused(wishes: dict[str, Any], word: str) -> None:
    refusal = broker().grant(AC1, "alice", NOW, entropy=ENTROPY, **wishes)

    assert isinstance(refusal, GrantRefusal)
    assert refusal.code == "bad_request"
    assert word in refusal.message


def test_policy_bounds_are_the_brokers() -> None:
    one = broker(min_ttl_s=1, default_ttl_s=2, max_ttl_s=3, max_urls=2)

    assert granted(one).ttl == 2
    assert granted(one, ttl=1).ttl == 1
    assert len(urls(granted(one))) == 2
    assert isinstance(one.grant(AC1, "a", NOW, ttl=4, entropy=ENTROPY), GrantRefusal)
    assert isinstance(one.grant(AC1, "a", NOW, max_urls=3, entropy=ENTROPY), GrantRefusal)


def test_what_cannot_be_built() -> None:
    for bounds in (
        {"min_ttl_s": 0},
        {"min_ttl_s": 7200},
        {"max_ttl_s": 60},
        {"max_ttl_s": 200_000},
        {"max_urls": 0},
        {"max_urls": 5},
    ):
        with pytest.raises(ValueError, match=r"."):
            Policy(**bounds)
    with pytest.raises(ValueError, match="no turn"):
        node("a", "eu", "stun")
    with pytest.raises(ValueError, match="at least one"):
        Broker([], SecretRing("s"))
    with pytest.raises(ValueError, match="random"):
        broker().grant(AC1, "a", NOW, entropy=b"short")


def test_the_credential_does_not_show() -> None:
    grant = granted(broker())

    assert grant.credential not in repr(grant)
