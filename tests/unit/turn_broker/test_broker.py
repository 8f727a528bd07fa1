"""What the broker grants: names, lifetimes, and which URLs in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.broker import Broker, Grant, GrantRefusal, Wishes
from turn_broker.credentials import parse_username
from turn_broker.fleet.messages import Terms, TokenRecord
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.policy import Policy
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000
AC1, AC2 = "AC" + "1" * 32, "AC" + "2" * 32
ENTROPY = bytes(range(20))
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
    return broker_with(SecretRing("secret"), *nodes, **policy)


def broker_with(ring: SecretRing, *nodes: TurnNode, **policy: int) -> Broker:
    listed = NodeList(nodes or (node("a"),))
    return Broker(listed, lambda _: ring, Policy(**policy), identity_key="key")


def granted(given_by: Broker, subject: str | None = "alice", **wishes: Any) -> Grant:
    entropy = wishes.pop("entropy", ENTROPY)
    grant = given_by.grant(AC1, subject, NOW, wishes=Wishes(**wishes), entropy=entropy)
    assert isinstance(grant, Grant)
    return grant


def urls(grant: Grant) -> list[str]:
    return [url for server in grant.ice_servers for url in server.urls]


def test_known_vector() -> None:
    """Digest: HMAC-SHA256("key", "AC1..|alice"); password: HMAC-SHA1("secret", username).

    Made with openssl, not with this code:
    printf '%s' "$AC1|alice" | openssl dgst -sha256 -hmac key -binary | head -c 10 | xxd -p
    printf '%s' "$username" | openssl dgst -sha1 -hmac secret -binary | base64
    """
    grant = granted(broker(), ttl=600)

    assert grant.username == "1800000600:69c9d8d4f0b1a2a62ef2.00010203040506070809"
    assert grant.credential == "lGIDw48RSFtDtja1OzTRZgQ8rws="
    assert (grant.ttl, grant.expires_at) == (600, NOW + 600)
    assert grant.id == "69c9d8d4f0b1a2a62ef2.00010203040506070809"


def test_an_identity_keeps_its_digest_and_shares_it_with_nobody() -> None:
    one = broker()
    digest = granted(one).id.split(".")[0]

    assert granted(one, entropy=b"another" * 3).id.split(".")[0] == digest
    assert granted(one, "bob").id.split(".")[0] != digest
    assert one.identity_digest(AC2, "alice") != digest
    assert one.identity_digest(AC1, "alice") == digest
    rotated = broker_with(SecretRing("new"))
    assert rotated.identity_digest(AC1, "alice") == digest


def test_without_a_subject_every_credential_is_an_identity_of_its_own() -> None:
    one = broker()
    first = granted(one, None, entropy=bytes(10) + b"0123456789")
    second = granted(one, None, entropy=bytes(10) + b"0123456780")

    assert first.id.split(".")[0] != second.id.split(".")[0]


@given(subject=st.text(max_size=200), entropy=st.binary(min_size=20, max_size=32))
def test_names_are_good_for_coturn_and_tell_nothing(subject: str, entropy: bytes) -> None:
    grant = granted(broker(), subject, entropy=entropy)

    parsed = parse_username(grant.username)
    assert parsed is not None
    assert parsed.opaque_id == grant.id
    assert len(grant.username) < 60
    digest, token_id = grant.id.split(".")
    assert len(digest) == len(token_id) == 20
    assert SecretRing("secret").verify(grant.username, grant.credential, NOW) is not None


def test_best_first() -> None:
    """STUN is listed first, as a server entry without a credential; TURN is UDP, TCP, TLS."""
    grant = granted(broker())

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
    ("wishes", "expected"),
    [
        ({"region": "us"}, "turn:b:3478?transport=udp"),
        ({"region": "us", "transports": ("tls",), "max_urls": 1}, "turns:b:443?transport=tcp"),
        ({"transports": ()}, "turn:a:3478?transport=udp"),
    ],
)
def test_wishes_reach_the_node_list(wishes: dict[str, Any], expected: str) -> None:
    one = broker(node("a"), node("b", "us"))

    assert granted(one, **wishes).ice_servers[-1].urls[0] == expected


def test_an_identity_stays_with_its_node_and_identities_are_spread() -> None:
    one = broker(node("a"), node("b"), node("c"))

    def first(subject: str | None, entropy: bytes = ENTROPY) -> str:
        return granted(one, subject, entropy=entropy, max_urls=1).ice_servers[-1].urls[0]

    assert len({first("alice", bytes([5 * n]) * 20) for n in range(50)}) == 1
    assert len({first(f"user-{n}") for n in range(50)}) == 3
    assert len({first(None, bytes([5 * n]) * 20) for n in range(50)}) == 3


def test_each_account_mints_with_its_ring_of_the_moment() -> None:
    rings = {AC1: SecretRing("one"), AC2: SecretRing("two")}
    listed = NodeList([node("a")])
    one = Broker(listed, lambda account: rings[account], identity_key="key")

    first = one.grant(AC1, "alice", NOW, entropy=ENTROPY)
    second = one.grant(AC2, "alice", NOW, entropy=ENTROPY)
    rings[AC1] = rings[AC1].begin("next", NOW)
    before = one.grant(AC1, "alice", NOW, entropy=ENTROPY)
    rings[AC1] = rings[AC1].promote(NOW, 60)
    after = one.grant(AC1, "alice", NOW, entropy=ENTROPY)

    for grant, secret in ((first, "one"), (second, "two"), (before, "one"), (after, "next")):
        assert isinstance(grant, Grant)
        assert SecretRing(secret).verify(grant.username, grant.credential, NOW) is not None


def test_what_the_fleet_remembers() -> None:
    terms = Terms(hard_expiry=True, max_bytes=10)
    grant = granted(broker(), ttl=60)

    record = grant.record(AC1, NOW + 0.7, "native", Wishes(terms=terms, label="room"))

    assert record == TokenRecord(
        id=grant.id,
        account=AC1,
        issued_at=NOW,
        expires_at=NOW + 60,
        dialect="native",
        label="room",
        terms=terms,
    )
    assert record.identity == broker().identity_digest(AC1, "alice")


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(["eu", "us"]), st.sets(st.sampled_from(sorted(KINDS)))),
        max_size=5,
    ),
    region=st.none() | st.sampled_from(["eu", "us", "ap"]),
    transports=st.none() | st.lists(st.sampled_from(["udp", "tcp", "tls"])).map(tuple),
    max_urls=st.none() | st.integers(1, 4),
)
def test_never_empty_never_more_than_four(
    shapes: list[tuple[str, set[str]]],
    region: str | None,
    transports: tuple[str, ...] | None,
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
        ({"transports": ("quic",)}, "transports"),
        ({"transports": ("stun",)}, "transports"),
    ],
)
def test_refused(wishes: dict[str, Any], word: str) -> None:
    refusal = broker().grant(AC1, "alice", NOW, wishes=Wishes(**wishes), entropy=ENTROPY)

    assert isinstance(refusal, GrantRefusal)
    assert refusal.code == "bad_request"
    assert word in refusal.message


def test_policy_bounds_are_the_brokers() -> None:
    one = broker(min_ttl_s=1, default_ttl_s=2, max_ttl_s=3, max_urls=2)

    assert granted(one).ttl == 2
    assert granted(one, ttl=1).ttl == 1
    assert len(urls(granted(one))) == 2
    for beyond in (Wishes(ttl=4), Wishes(max_urls=3)):
        assert isinstance(one.grant(AC1, "a", NOW, wishes=beyond, entropy=ENTROPY), GrantRefusal)


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
    with pytest.raises(ValueError, match="random"):
        broker().grant(AC1, "a", NOW, entropy=b"short")


def test_the_credential_does_not_show() -> None:
    grant = granted(broker())

    assert grant.credential not in repr(grant)
