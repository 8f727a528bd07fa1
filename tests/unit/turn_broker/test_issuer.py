"""Who gets a credential, bounded by what, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from turn_broker.accounts.access_token import AccessTokens, Grants
from turn_broker.accounts.table import Account, AccountLimits, Accounts, ApiKey
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.broker import Broker, Grant, Wishes
from turn_broker.counters import MAX_NAMED_ACCOUNTS, OTHER, Counters
from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import Charge, Cut, Revocation, Terms, Usage
from turn_broker.fleet.usage_watch import UsageWatch
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.issue_limits import IssueLimits
from turn_broker.issuer import Issuer
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.policy import Policy
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000
AC1, AC2, SK1 = "AC" + "1" * 32, "AC" + "2" * 32, "SK" + "1" * 32
SECRET = "one-0123456789abcdef0123456789abcdef"
KEY = ApiKey(SK1, SECRET)


class World:
    def __init__(
        self, limits: AccountLimits | None = None, issue: IssueLimits | None = None
    ) -> None:
        self.account = Account(AC1, "token-one", (KEY,), limits=limits or AccountLimits())
        self.accounts = Accounts([self.account, Account(AC2, "token-two")])
        self.tokens = AccessTokens(self.accounts)
        self.now = float(NOW)
        self.fleet = MemoryFleet(lambda: self.now)
        nodes = [
            TurnNode(region, region, (parse_turn_uri(f"turn:{region}.example"),))
            for region in ("eu", "us")
        ]
        self.watch = UsageWatch(self.accounts, self.fleet)
        self.issuer = Issuer(
            Broker(NodeList(nodes), lambda _: SecretRing("s"), Policy(), identity_key="k"),
            self.accounts,
            self.tokens,
            self.fleet,
            usage=self.watch,
            clock=lambda: self.now,
            monotonic=lambda: self.now,
            limits=issue,
        )

    def bearer(self, **claims: Any) -> str:
        token = self.tokens.issue(self.account, SK1, "alice", now=claims.pop("now", NOW), **claims)
        return f"Bearer {token}"

    def issue(self, wishes: Wishes | None = None, **asker: Any) -> Grant | IssueRefusal:
        return self.issuer.issue(Asker(self.account, **asker), wishes or Wishes(), "native", "::1")


def basic(user: str, password: str) -> str:
    return next(
        httpx.BasicAuth(user, password).auth_flow(httpx.Request("GET", "http://x"))
    ).headers["authorization"]


def granted(answer: Grant | IssueRefusal) -> Grant:
    assert isinstance(answer, Grant), answer
    return answer


def refused(answer: object) -> IssueRefusal:
    assert isinstance(answer, IssueRefusal), answer
    return answer


def test_who_asks() -> None:
    world = World()

    by_token = world.issuer.authenticate(world.bearer(), "::1")
    assert by_token == Asker(world.account, "alice", Grants())
    for user, password in ((AC1, "token-one"), (SK1, SECRET)):
        assert world.issuer.authenticate(basic(user, password), "::1") == Asker(world.account)
    for header in (None, "", "Digest x", "Bearer x", basic(AC1, "no")):
        assert refused(world.issuer.authenticate(header, "::1")).code == "unauthenticated"
    expired = world.issuer.authenticate(world.bearer(now=NOW - 9000), "::1")
    assert refused(expired).code == "token_expired"


def test_guesses_shut_an_address_out_and_no_other() -> None:
    world = World()
    for _ in range(10):
        world.issuer.authenticate(basic(AC1, "no"), "2001:db8::1")

    shut_out = refused(world.issuer.authenticate(basic(AC1, "token-one"), "2001:db8::2"))

    assert shut_out.code == "rate_limited"
    assert shut_out.retry_after_s == pytest.approx(1800)
    assert isinstance(world.issuer.authenticate(basic(AC1, "token-one"), "2001:db9::1"), Asker)
    world.now += 1801
    assert isinstance(world.issuer.authenticate(basic(AC1, "token-one"), "2001:db8::1"), Asker)


def test_neither_nothing_nor_an_expired_token_is_a_guess() -> None:
    world = World()
    for _ in range(50):
        world.issuer.authenticate(None, "::1")
        world.issuer.authenticate(world.bearer(now=NOW - 9000), "::1")

    assert isinstance(world.issuer.authenticate(world.bearer(), "::1"), Asker)


async def test_a_grant_is_recorded_and_counted() -> None:
    world = World()

    grant = granted(world.issue(Wishes(label="tag", terms=Terms(hard_expiry=True))))

    record = await world.fleet.token(grant.id)
    assert record is not None
    assert (record.account, record.dialect, record.label) == (AC1, "native", "tag")
    assert record.terms == Terms(hard_expiry=True)
    assert world.issuer.counters.issued == {("native", AC1): 1}


def test_an_account_bounds_what_it_gets() -> None:
    limits = AccountLimits(max_ttl_s=600, regions=("us",), token_bytes=1000, allocations=3)
    world = World(limits)

    grant = granted(world.issue(Wishes(terms=Terms(max_bytes=2000))))

    assert grant.ttl == 600
    assert grant.turn_urls[0] == "turn:us.example:3478?transport=udp"
    record = asyncio.run(world.fleet.token(grant.id))
    assert record is not None
    assert record.terms == Terms(max_bytes=1000, max_allocations=3)
    bytes_ = AccountLimits(identity_bytes=5, byte_quota=6, hard_expiry=True, bind_address=True)
    for grants, bound in ((None, None), (Grants(), "::1")):
        other = World(bytes_)
        grant = granted(other.issue(grants=grants))
        record = asyncio.run(other.fleet.token(grant.id))
        assert record is not None
        expected = Terms(hard_expiry=True, identity_bytes=5, account_bytes=6, address=bound)
        assert record.terms == expected
    assert refused(world.issue(Wishes(ttl=601))).code == "bad_request"
    assert refused(world.issue(Wishes(region="eu"))).code == "forbidden"
    assert granted(world.issue(Wishes(ttl=60, region="us"))).ttl == 60
    assert refused(world.issue(Wishes(ttl=5))).code == "bad_request"


def test_the_turn_grant_is_needed() -> None:
    assert refused(World().issue(grants=Grants(turn=False))).code == "forbidden"


def test_limits_say_when_to_come_back() -> None:
    world = World(issue=IssueLimits(identity_burst=2, identity_per_s=0.5))
    asks = [world.issue(subject="alice", grants=Grants()) for _ in range(3)]

    assert refused(asks[2]).code == "rate_limited"
    assert refused(asks[2]).retry_after_s == pytest.approx(2)
    assert isinstance(world.issue(subject="bob", grants=Grants()), Grant)
    assert all(isinstance(world.issue(subject="alice"), Grant) for _ in range(5))


def test_anonymous_probes_get_less() -> None:
    world = World(issue=IssueLimits(anonymous_ttl_s=90, anonymous_burst=5))
    first = granted(world.issue(Wishes(ttl=86_400), is_anonymous=True))

    assert first.ttl == 90
    answers = [world.issue(is_anonymous=True) for _ in range(5)]
    assert refused(answers[-1]).code == "rate_limited"


async def test_a_revoked_identity_gets_nothing() -> None:
    world = World()
    digest = world.issuer.broker.identity_digest(AC1, "alice")
    until = NOW + 100
    await world.fleet.revoke(Revocation(scope="identity", name=digest, until=until), wait_s=0)

    assert refused(world.issue(subject="alice", grants=Grants())).code == "forbidden"
    assert isinstance(world.issue(subject="bob", grants=Grants()), Grant)


async def test_a_quota_that_is_used_up_stops_new_credentials() -> None:
    world = World(AccountLimits(byte_quota=1000))
    grant = granted(world.issue())
    await world.fleet.charge([Charge(id=grant.id, sent_bytes=600, received_bytes=400)])
    assert isinstance(world.issue(), Grant)

    await world.watch.look()

    answer = refused(world.issue())
    assert (answer.code, answer.retry_after_s) == ("limit_exceeded", 3600)


async def test_the_last_figures_hold_while_the_fleet_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(AccountLimits(byte_quota=0))

    async def away(scope: str, name: str) -> Usage:
        raise FleetUnavailable

    monkeypatch.setattr(world.fleet, "usage", away)
    async with world.watch:
        await asyncio.sleep(0)
        assert world.watch.is_used_up(world.account)
    assert not world.watch.is_used_up(Account(AC2, "x"))


async def test_only_its_own_tokens_are_an_accounts_to_revoke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    grant = granted(world.issue())
    stranger = Asker(Account(AC2, "token-two"))

    for asker, username in (
        (stranger, grant.username),
        (Asker(world.account), "x"),
        (stranger, ""),
    ):
        assert refused(await world.issuer.revoke(asker, username)).code == "not_found"
    assert isinstance(await world.issuer.revoke(Asker(world.account), grant.username), Cut)
    assert world.fleet.is_revoked(grant.id)

    async def away(opaque_id: str) -> None:
        raise FleetUnavailable

    monkeypatch.setattr(world.fleet, "token", away)
    gone = refused(await world.issuer.revoke(Asker(world.account), grant.username))
    assert (gone.code, gone.retry_after_s) == ("unavailable", 5)


def test_account_labels_are_bounded() -> None:
    counters = Counters()
    for n in range(MAX_NAMED_ACCOUNTS + 50):
        counters.count_issued("native", str(n))
    counters.count_issued("native", "0")

    assert counters.issued["native", OTHER] == 50
    assert counters.issued["native", "0"] == 2
    assert len(counters.issued) == MAX_NAMED_ACCOUNTS + 1
