"""The one way to a credential, for every dialect and for signaling.

Who asks, whether its address may try again, whether it may have one more, what the account allows,
then the grant, its record and the counters. Every refusal is a value. It does not know HTTP, and it
never waits, except to revoke.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from turn_broker.accounts.access_token import Claims, TokenRefusal
from turn_broker.accounts.table import NO_LIMITS, Accounts
from turn_broker.addresses import address_key
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.authorization import Basic, Bearer, parse_authorization
from turn_broker.broker import ENTROPY_BYTES, Broker, Grant, GrantRefusal, Wishes
from turn_broker.clock import monotonic, unix_now
from turn_broker.counters import Counters
from turn_broker.credentials import parse_username
from turn_broker.fleet.contract import Fleet, FleetUnavailable
from turn_broker.fleet.messages import Cut, Revocation, Terms
from turn_broker.fleet.usage_watch import UsageWatch
from turn_broker.guesses import Guesses, GuessLimits
from turn_broker.issue_limits import IssueLimiter, IssueLimits

QUOTA_RETRY_S = 3600.0
"""What a client is told that has used up its bytes: an operator has to act."""


class TokenVerifier(Protocol):
    """`AccessTokens`, or what stands before it."""

    def verify(self, token: str, now: float) -> Claims | TokenRefusal: ...


class Issuer:
    """See the module's text."""

    def __init__(  # noqa: PLR0913 - the parts it stands on
        self,
        broker: Broker,
        accounts: Accounts,
        tokens: TokenVerifier,
        fleet: Fleet,
        *,
        limits: IssueLimits | None = None,
        guesses: Guesses | None = None,
        usage: UsageWatch | None = None,
        counters: Counters | None = None,
        clock: Callable[[], float] = unix_now,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        """`clock` gives Unix seconds; `guesses` may be shared with others who verify tokens."""
        self.broker = broker
        self.accounts = accounts
        self.counters = counters or Counters()
        self.clock = clock
        self._tokens = tokens
        self._fleet = fleet
        self._limits = limits or IssueLimits()
        self._limiter = IssueLimiter(self._limits)
        self._guesses = guesses or Guesses(GuessLimits())
        self._usage = usage
        self._monotonic = monotonic

    # Who asks

    def authenticate(self, header: str | None, address: str) -> Asker | IssueRefusal:
        """Who sent this `Authorization` header from `address`."""
        match parse_authorization(header):
            case Bearer(token):
                return self.bearer(token, address)
            case Basic(username, password):
                return self.basic(username, password, address)
            case _:
                return IssueRefusal(
                    "unauthenticated", "send an access token (Bearer) or an API key (Basic)"
                )

    def bearer(self, token: str, address: str) -> Asker | IssueRefusal:
        """The bearer of an access token."""
        shut_out = self.shut_out(address)
        if shut_out is not None:
            return shut_out
        claims = self._tokens.verify(token, self.clock())
        if isinstance(claims, TokenRefusal):
            if claims.code == "unauthenticated":
                self.failed(address)
            retry_after_s = 2.0 if claims.code == "unavailable" else None
            return IssueRefusal(claims.code, claims.message, retry_after_s)
        account = self.accounts.by_sid(claims.account_sid)
        if account is None:
            return IssueRefusal("unauthenticated", "the token's account is disabled")
        return Asker(account, claims.identity, claims.grants, room=claims.room)

    def basic(self, username: str, password: str, address: str) -> Asker | IssueRefusal:
        """An account by its auth token, or by an API key and its secret."""
        shut_out = self.shut_out(address)
        if shut_out is not None:
            return shut_out
        account = self.accounts.authenticate_basic(None, username, password)
        if account is None:
            self.failed(address)
            return IssueRefusal("unauthenticated", "unknown account or wrong password")
        return Asker(account)

    def shut_out(self, address: str) -> IssueRefusal | None:
        """Before anything is looked at: whether `address` has guessed too often."""
        if not len(self._guesses):
            return None
        wait_s = self._guesses.refused(address_key(address), self._monotonic())
        if wait_s is None:
            return None
        return IssueRefusal("rate_limited", "too many wrong credentials from here", wait_s)

    def failed(self, address: str) -> None:
        """`address` sent a wrong token, secret or signature."""
        self._guesses.failed(address_key(address), self._monotonic())

    # What it gets

    def issue(
        self,
        asker: Asker,
        wishes: Wishes,
        dialect: str,
        address: str = "",
        *,
        is_limited: bool = True,
    ) -> Grant | IssueRefusal:
        """A credential for `asker`, recorded and counted; `address` is the client's, if known.

        `is_limited` is False for callers with rates of their own: after a restart all clients of a
        node come back at once, and each needs its credential.
        """
        refusal = self._inadmissible(asker, wishes)
        if refusal is None and is_limited:
            refusal = self._hasty(asker, address)
        if refusal is not None:
            return refusal
        bounded = self._bounded(asker, wishes, address)
        account, now = asker.account.sid, self.clock()
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        grant = self.broker.grant(account, asker.subject, now, wishes=bounded, entropy=entropy)
        if isinstance(grant, GrantRefusal):
            return IssueRefusal(grant.code, grant.message)
        if self._fleet.is_revoked(grant.id):
            return IssueRefusal("forbidden", "this identity is revoked")
        self._fleet.record(grant.record(account, now, dialect, bounded))
        self.counters.count_issued(dialect, account)
        return grant

    def count_refusal(self, refusal: IssueRefusal) -> None:
        self.counters.refused[refusal.code] += 1

    def _inadmissible(self, asker: Asker, wishes: Wishes) -> IssueRefusal | None:
        account, limits = asker.account, asker.account.limits
        if asker.grants is not None and not asker.grants.turn:
            return IssueRefusal("forbidden", "the access token has no turn grant")
        if limits.regions and wishes.region is not None and wishes.region not in limits.regions:
            return IssueRefusal("forbidden", "the account may not use this region")
        if limits.max_ttl_s is not None and (wishes.ttl or 0) > limits.max_ttl_s:
            return IssueRefusal("bad_request", f"ttl may be at most {limits.max_ttl_s} seconds")
        if self._usage is not None and self._usage.is_used_up(account):
            message = "the account has used up its bytes"
            return IssueRefusal("limit_exceeded", message, QUOTA_RETRY_S)
        return None

    def _hasty(self, asker: Asker, address: str) -> IssueRefusal | None:
        wait_s = self._wait(asker, address)
        if wait_s is None:
            return None
        return IssueRefusal("rate_limited", "too many credentials were asked for", wait_s)

    def _wait(self, asker: Asker, address: str) -> float | None:
        now, sid = self._monotonic(), asker.account.sid
        per_s, burst = asker.account.limits.per_s, asker.account.limits.burst
        if asker.is_anonymous:
            return self._limiter.anonymous(address_key(address), now)
        if asker.grants is None:
            return self._limiter.account(sid, per_s, burst, now)
        subject = asker.subject or ""
        return self._limiter.identity(sid, subject, address_key(address), per_s, burst, now)

    def _bounded(self, asker: Asker, wishes: Wishes, address: str) -> Wishes:
        """The wishes inside what the account allows; the same object where nothing bounds them."""
        limits = asker.account.limits
        ttl, policy = wishes.ttl, self.broker.policy
        if asker.is_anonymous:
            ttl = min(max(self._limits.anonymous_ttl_s, policy.min_ttl_s), policy.max_ttl_s)
        elif ttl is None and limits.max_ttl_s is not None:
            ttl = max(policy.min_ttl_s, min(policy.default_ttl_s, limits.max_ttl_s))
        region = wishes.region
        if region is None and limits.regions:
            region = limits.regions[0]
        terms = _bounded_terms(wishes.terms, asker, address)
        if (ttl, region, terms) == (wishes.ttl, wishes.region, wishes.terms):
            return wishes
        return replace(wishes, ttl=ttl, region=region, terms=terms)

    # And what is taken back

    async def revoke(self, asker: Asker, username: str) -> Cut | IssueRefusal:
        """Revoke one of the account's tokens by its TURN username."""
        parsed = parse_username(username)
        unknown = IssueRefusal("not_found", "no such credential of this account")
        if parsed is None:
            return unknown
        try:
            record = await self._fleet.token(parsed.opaque_id)
            if record is None or record.account != asker.account.sid:
                return unknown
            return await self._fleet.revoke(Revocation.of_token(record))
        except FleetUnavailable:
            return IssueRefusal("unavailable", "the fleet cannot be reached now", 5.0)


def _bounded_terms(terms: Terms, asker: Asker, address: str) -> Terms:
    limits = asker.account.limits
    if limits is NO_LIMITS:
        return terms
    bounds = [bound for bound in (terms.max_bytes, limits.token_bytes) if bound is not None]
    # An account's server asks from an address that no client of it has.
    is_bound = limits.bind_address and asker.grants is not None and bool(address)
    return replace(
        terms,
        hard_expiry=terms.hard_expiry or limits.hard_expiry,
        max_bytes=min(bounds) if bounds else None,
        identity_bytes=limits.identity_bytes,
        account_bytes=limits.byte_quota,
        max_allocations=limits.allocations,
        address=address if is_bound else terms.address,
    )
