"""The allocations of one TURN node and which of them must end, and why.

Pure: told the time. Takes session events, revocations, token records and what the fleet has added
up; returns the sessions to cut, and the charges to make. Knows neither the TURN server nor the
fleet, so what it knows stays in force when either is lost. An allocation whose username is not of
our making is counted and otherwise left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, takewhile

from msgspec import Struct

from turn_broker.addresses import address_key
from turn_broker.credentials import parse_username
from turn_broker.fleet.messages import Charge, LiveSession, Revocation, Terms, TokenRecord, Usage
from turn_broker.fleet.turn_control import (
    SessionClosed,
    SessionEvent,
    SessionOpened,
    SessionUsed,
)

RETRY_CUT_S = 2.0
"""A session that was to be cut and still lives is named again after so long."""
FIRST_LOOKUP_S = 0.5
LAST_LOOKUP_S = 60.0
"""A token without a record is looked up again after 0.5, 1, 2 ... 60 s: records come late."""
PURGE_S = 60.0
"""Between looks at revocations that have run out."""
MAX_BATCH = 1_000
"""Charges in one batch, and lookups at one time."""


_NO_TERMS = Terms()


class Reason(StrEnum):
    """Why an allocation is cut."""

    REVOKED = "revoked"
    EXPIRED = "expired"
    TOKEN_BYTES = "token_bytes"  # noqa: S105 - a reason, not a password
    IDENTITY_BYTES = "identity_bytes"
    ACCOUNT_BYTES = "account_bytes"
    ALLOCATIONS = "allocations"
    ADDRESS = "address"


class SessionCut(Struct, frozen=True):
    """An allocation that must end."""

    session: str
    reason: Reason


class GuardLimits(Struct, frozen=True, kw_only=True):
    """What holds for every token of the node, and the bounds of what is remembered."""

    allocations_per_identity: int = 16
    hard_expiry: bool = False
    """Every allocation ends with its credential, whatever its token's terms say."""
    grace_s: float = 2.0
    """Seconds after its expiry that a credential's allocations are left alone: clocks differ."""
    max_sessions: int = 100_000
    max_tokens: int = 200_000
    """Tokens without an open session, kept until they are charged."""
    max_revocations: int = 100_000


@dataclass(slots=True, eq=False)
class _Token:
    """One credential that allocated here."""

    id: str
    identity: str
    expires_at: int
    record: TokenRecord | None = None
    lookup_at: float = 0.0
    lookup_wait_s: float = FIRST_LOOKUP_S
    sessions: dict[str, _Session] = field(default_factory=dict)
    charged: int = 0
    """Bytes by the fleet's last answer."""
    sent: int = 0
    received: int = 0
    opened: int = 0
    """Not charged yet."""

    @property
    def has_charge(self) -> bool:
        return bool(self.sent or self.received or self.opened)


@dataclass(slots=True, eq=False)
class _Session:
    """One allocation; `token` is None where the username is not ours."""

    name: str
    token: _Token | None
    client: str
    transport: str
    since: int
    cut_at: float | None = None
    """When it was last told to end."""


class Guard:
    """Exactly one caller at a time. Every method that returns cuts names a session again only
    after `RETRY_CUT_S`."""

    def __init__(self, limits: GuardLimits | None = None) -> None:
        self.limits = limits or GuardLimits()
        self._sessions: dict[str, _Session] = {}
        self._tokens: dict[str, _Token] = {}
        self._identities: dict[str, dict[str, _Session]] = {}
        self._revoked: dict[str, int] = {}
        self._spent: dict[tuple[str, str], int] = {}
        self._flying: tuple[Charge, ...] = ()
        self._purge_at = 0.0
        self.foreign = 0
        """Allocations open now whose username is not ours."""
        self.unfollowed = 0
        """Allocations that were not followed because there are too many."""
        self.uncharged_bytes = 0
        """Bytes that were forgotten before the fleet took them."""
        self.sent_bytes = 0
        self.received_bytes = 0
        """Of all allocations, since the start."""

    def __len__(self) -> int:
        return len(self._sessions)

    # What the TURN server says

    def handle(self, event: SessionEvent, now: float) -> tuple[SessionCut, ...]:
        """Take in what happened to a session."""
        if isinstance(event, SessionOpened):
            return self._open(event, now)
        session = self._sessions.get(event.session)
        if session is None:
            return ()
        if isinstance(event, SessionClosed):
            self._close(session)
            return ()
        return self._use(session, event, now)

    def forget_sessions(self) -> None:
        """The TURN server is lost: what it carried is unknown until it tells anew."""
        for session in list(self._sessions.values()):
            self._close(session)

    # What the fleet says

    def revoke(self, revocation: Revocation, now: float) -> tuple[SessionCut, ...]:
        """Cut what it concerns, and every later allocation of it."""
        if revocation.until < now:
            return ()
        name = revocation.name
        self._revoked[name] = max(revocation.until, self._revoked.get(name, 0))
        if len(self._revoked) > self.limits.max_revocations:
            del self._revoked[min(self._revoked, key=self._revoked.__getitem__)]
        if revocation.scope == "identity":
            concerned: Iterable[_Session] = self._identities.get(name, {}).values()
        else:
            token = self._tokens.get(name)
            concerned = token.sessions.values() if token else ()
        return self._judge(concerned, now)

    def lookups(self, now: float) -> tuple[str, ...]:
        """Ids of open tokens whose record is to be asked for now; each is counted as asked."""
        due: list[str] = []
        for token in self._tokens.values():
            if token.record or not token.sessions or now < token.lookup_at:
                continue
            if now > token.expires_at:
                continue
            token.lookup_at = now + token.lookup_wait_s
            token.lookup_wait_s = min(2 * token.lookup_wait_s, LAST_LOOKUP_S)
            due.append(token.id)
            if len(due) == MAX_BATCH:
                break
        return tuple(due)

    def learn(self, record: TokenRecord, now: float) -> tuple[SessionCut, ...]:
        """A token's record was found."""
        token = self._tokens.get(record.id)
        if token is None:
            return ()
        token.record = record
        return self._judge(token.sessions.values(), now)

    def charges(self) -> tuple[Charge, ...]:
        """The batch to charge; the same one until `charged` says that the fleet took it."""
        if not self._flying:
            owing = (token for token in self._tokens.values() if token.has_charge)
            self._flying = tuple(_charge(token) for token in islice(owing, MAX_BATCH))
        return self._flying

    def charged(self, totals: Mapping[str, Usage], now: float) -> tuple[SessionCut, ...]:
        """The fleet took the batch; `totals` are its tokens' by id."""
        touched: list[_Session] = []
        for charge in self._flying:
            token = self._tokens.get(charge.id)
            if token is None:
                continue
            token.sent -= charge.sent_bytes
            token.received -= charge.received_bytes
            token.opened -= charge.opened
            if charge.id in totals:
                token.charged = totals[charge.id].bytes
            touched.extend(token.sessions.values())
            self._drop_if_done(token)
        self._flying = ()
        return self._judge(touched, now)

    def scopes(self) -> Iterator[tuple[str, str]]:
        """The identities and accounts that have a quota and an open session, each once."""
        records = [each.record for each in self._tokens.values() if each.record and each.sessions]
        yield from dict.fromkeys(
            ("identity", record.identity)
            for record in records
            if record.terms.identity_bytes is not None
        )
        yield from dict.fromkeys(
            ("account", record.account)
            for record in records
            if record.terms.account_bytes is not None
        )

    def spent(self, used: Mapping[tuple[str, str], Usage], now: float) -> tuple[SessionCut, ...]:
        """What the fleet has added up for each of `scopes()`."""
        self._spent = {scope: usage.bytes for scope, usage in used.items()}
        return self._judge(self._sessions.values(), now)

    # Time

    def tick(self, now: float) -> tuple[SessionCut, ...]:
        """What time alone ends; call a few times a second."""
        if now >= self._purge_at:
            self._purge_at = now + PURGE_S
            for name in [name for name, until in self._revoked.items() if until < now]:
                del self._revoked[name]
        return self._judge(self._sessions.values(), now)

    def live(self, most: int) -> tuple[LiveSession, ...]:
        """At most `most` of our sessions."""
        ours = ((each, each.token) for each in self._sessions.values() if each.token)
        return tuple(
            LiveSession(
                session=session.name, id=token.id, since=session.since, transport=session.transport
            )
            for session, token in islice(ours, most)
        )

    # Inside

    def _open(self, event: SessionOpened, now: float) -> tuple[SessionCut, ...]:
        former = self._sessions.get(event.session)
        if former is not None:
            self._close(former)
        if len(self._sessions) >= self.limits.max_sessions:
            self.unfollowed += 1
            return ()
        token = self._token_of(event.username)
        session = _Session(
            event.session, token, event.client, event.transport, int(now) - (event.age_s or 0)
        )
        self._sessions[session.name] = session
        if token is None:
            self.foreign += 1
            return ()
        token.sessions[session.name] = session
        token.opened += event.age_s is None
        self._identities.setdefault(token.identity, {})[session.name] = session
        return self._judge((session,), now)

    def _token_of(self, username: str) -> _Token | None:
        parsed = parse_username(username)
        identity, dot, _ = parsed.opaque_id.partition(".") if parsed else ("", "", "")
        if parsed is None or not dot or not identity:
            return None
        token = self._tokens.get(parsed.opaque_id)
        if token is None:
            if len(self._tokens) >= self.limits.max_tokens + self.limits.max_sessions:
                self._drop_idle_token()
            token = _Token(parsed.opaque_id, identity, parsed.expires_at)
            self._tokens[token.id] = token
        return token

    def _use(self, session: _Session, event: SessionUsed, now: float) -> tuple[SessionCut, ...]:
        self.sent_bytes += event.sent_bytes
        self.received_bytes += event.received_bytes
        token = session.token
        if token is None:
            return ()
        token.sent += event.sent_bytes
        token.received += event.received_bytes
        return self._judge(token.sessions.values(), now)

    def _close(self, session: _Session) -> None:
        del self._sessions[session.name]
        token = session.token
        if token is None:
            self.foreign -= 1
            return
        del token.sessions[session.name]
        others = self._identities[token.identity]
        del others[session.name]
        if not others:
            del self._identities[token.identity]
        self._drop_if_done(token)

    def _drop_if_done(self, token: _Token) -> None:
        if not token.sessions and not token.has_charge:
            del self._tokens[token.id]

    def _drop_idle_token(self) -> None:
        for token in self._tokens.values():
            if not token.sessions:
                self.uncharged_bytes += token.sent + token.received
                del self._tokens[token.id]
                return

    def _judge(self, sessions: Iterable[_Session], now: float) -> tuple[SessionCut, ...]:
        cuts = []
        for session in sessions:
            if session.token is None:
                continue
            if session.cut_at is not None and now < session.cut_at + RETRY_CUT_S:
                continue
            reason = self._reason(session, session.token, now)
            if reason is not None:
                session.cut_at = now
                cuts.append(SessionCut(session.name, reason))
        return tuple(cuts)

    def _reason(self, session: _Session, token: _Token, now: float) -> Reason | None:
        if self._is_revoked(token.id, now) or self._is_revoked(token.identity, now):
            return Reason.REVOKED
        terms = token.record.terms if token.record else _NO_TERMS
        ends = terms.hard_expiry or self.limits.hard_expiry
        if ends and now > token.expires_at + self.limits.grace_s:
            return Reason.EXPIRED
        if terms.address and address_key(session.client) != address_key(terms.address):
            return Reason.ADDRESS
        if _exceeds(token.charged + token.sent + token.received, terms.max_bytes):
            return Reason.TOKEN_BYTES
        if _exceeds(self._spent.get(("identity", token.identity)), terms.identity_bytes):
            return Reason.IDENTITY_BYTES
        account = token.record.account if token.record else ""
        if _exceeds(self._spent.get(("account", account)), terms.account_bytes):
            return Reason.ACCOUNT_BYTES
        return Reason.ALLOCATIONS if self._is_one_too_many(session, token, terms) else None

    def _is_one_too_many(self, session: _Session, token: _Token, terms: Terms) -> bool:
        """The newest are cut, so each counts only those that were opened before it."""
        allowed = self.limits.allocations_per_identity
        if terms.max_allocations is not None:
            allowed = min(allowed, terms.max_allocations)
        siblings = self._identities[token.identity]
        if len(siblings) <= allowed:
            return False
        older = takewhile(lambda each: each is not session, siblings.values())
        return sum(each.cut_at is None for each in older) >= allowed

    def _is_revoked(self, name: str, now: float) -> bool:
        return self._revoked.get(name, 0) >= now


def _exceeds(used: int | None, allowed: int | None) -> bool:
    return used is not None and allowed is not None and used > allowed


def _charge(token: _Token) -> Charge:
    return Charge(
        id=token.id, sent_bytes=token.sent, received_bytes=token.received, opened=token.opened
    )
