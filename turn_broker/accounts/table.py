"""Accounts, their auth tokens and API keys, their limits, and who a Basic credential belongs to.

Pure: where accounts come from is handed in, and asked before each look-up. A wrong SID or secret is
a None, in constant time for the secrets. What is disabled is not in the table. It does not know
JWT, HTTP, files or TURN.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}\Z")
KEY_SID = re.compile(r"SK[0-9a-fA-F]{32}\Z")

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


class SecretDigest(msgspec.Struct, frozen=True):
    """SHA-256 over a salt and a secret: enough to recognize the secret, not to use it.

    One round is enough here, because every secret is 128 random bits or more: a slow hash makes
    guessing a chosen word dear, and no hardware walks 2^128. The salt keeps equal secrets apart.
    """

    salt: str
    sha256: str
    """Lower-case hex."""

    @classmethod
    def of(cls, secret: str, salt: str) -> SecretDigest:
        return cls(salt, _sha256(salt, secret.encode("utf-8", "surrogatepass")))

    def matches(self, secret: bytes) -> bool:
        """In a time that tells nothing about the digest."""
        return hmac.compare_digest(_sha256(self.salt, secret), self.sha256)

    def __repr__(self) -> str:
        return "SecretDigest(...)"


def _sha256(salt: str, secret: bytes) -> str:
    return hashlib.sha256(salt.encode() + b"\0" + secret).hexdigest()


Secret = str | SecretDigest
"""A secret that can be used, or only recognized."""


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account's own limits; what is None is the server's."""

    max_ttl_s: Annotated[int, Meta(ge=1, le=172_800)] | None = None
    regions: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """Regions it may name; the first one is its default. Empty: any."""
    per_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Credentials per second."""
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Credentials at once."""
    byte_quota: Annotated[int, Meta(ge=0)] | None = None
    """Relayed bytes of all its tokens; once they are used up no new credential is given, and
    relays that are open are cut."""
    token_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Relayed bytes of each token, after which its relays are cut."""
    identity_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Relayed bytes of all credentials of one identity, after which its relays are cut."""
    allocations: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Relays that one identity may hold open; above, the newest is cut."""
    hard_expiry: bool = False
    """Whether relays end with their credential, also where it was not asked for."""
    bind_address: bool = False
    """Whether a client's credential is good only at the address that asked for it."""
    own_secret: bool = False
    """Whether its credentials are minted with a TURN secret of its own."""


NO_LIMITS = AccountLimits()


def check_url(url: str) -> None:
    """ValueError unless it is https, or http to this machine."""
    try:
        parts = urlsplit(url)
        is_local = _is_loopback(parts.hostname or "")
        port = parts.port
    except ValueError as flaw:
        raise ValueError("the key set's URL cannot be read") from flaw
    if not parts.hostname or port == 0 or parts.username is not None:
        raise ValueError("the key set's URL has no host, or a user in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise ValueError("the key set's URL must be https")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that signs access tokens with exactly one algorithm.

    An HS256 key has a secret, which is also its Basic password; where only the secret's digest is
    kept, that is all it is good for. The others have a registered public key (PEM) or the URL of a
    key set (JWKS): whoever holds the private half signs elsewhere, so they cannot log in.
    """

    sid: str
    secret: Secret = field(default="", repr=False)
    algorithm: Algorithm = "HS256"
    public_key: str = field(default="", repr=False)
    jwks_url: str = ""

    def __post_init__(self) -> None:
        if not KEY_SID.match(self.sid):
            raise ValueError("an API key SID is SK and 32 hex digits")
        has = (bool(self.secret), bool(self.public_key) + bool(self.jwks_url))
        if has != ((True, 0) if self.algorithm == "HS256" else (False, 1)):
            raise ValueError(
                "an HS256 key has a secret, any other key has a public key or a jwks_url"
            )

        if self.jwks_url:
            check_url(self.jwks_url)

    @property
    def signing_secret(self) -> str | None:
        """What signs and verifies HS256 and SigV4; None where it is not known."""
        return self.secret if self.secret and isinstance(self.secret, str) else None


@dataclass(frozen=True, slots=True)
class Account:
    """Owner of rooms, identities and limits; nothing crosses from one to another."""

    sid: str
    auth_token: Secret = field(repr=False)
    api_keys: tuple[ApiKey, ...] = ()
    secondary_auth_token: Secret | None = field(default=None, repr=False)
    """As good as the first one, while an operator moves his programs from one to the other."""
    limits: AccountLimits = NO_LIMITS

    def __post_init__(self) -> None:
        if not ACCOUNT_SID.match(self.sid):
            raise ValueError("an account SID is AC and 32 hex digits")
        if not self.auth_token:
            raise ValueError("an account has an auth token")


Source = Callable[[], Sequence[Account] | None]
"""Accounts that change while the process runs: all of them when they changed, else None."""
_NOBODY = SecretDigest.of("x" * 32, "nobody")


@dataclass(frozen=True, slots=True)
class _Login:
    """Always two digests: time does not tell whether an account has a secondary auth token."""

    account: Account
    first: SecretDigest
    second: SecretDigest


class Accounts:
    """Every account of this deployment, by SID and by API key."""

    def __init__(self, accounts: Iterable[Account], source: Source | None = None) -> None:
        """`source` adds accounts; one whose SID or key is there already is left out.

        Raises ValueError for a SID that `accounts` has twice.
        """
        self._fixed = tuple(accounts)
        self._source = source
        self._sids: dict[str, Account] = {}
        self._keys: dict[str, tuple[Account, ApiKey]] = {}
        self._logins: dict[str, _Login] = {}
        self._build(self._fixed)
        self._freshen()

    def by_sid(self, sid: str) -> Account | None:
        self._freshen()
        return self._sids.get(sid)

    def key(self, kid: str) -> tuple[Account, ApiKey] | None:
        """The API key with its owner."""
        self._freshen()
        return self._keys.get(kid)

    def api_keys(self) -> tuple[ApiKey, ...]:
        """Every API key of every account."""
        self._freshen()
        return tuple(key for _, key in self._keys.values())

    def all(self) -> tuple[Account, ...]:
        """Every account; the first one is the default."""
        self._freshen()
        return tuple(self._sids.values())

    def authenticate_basic(
        self, path_sid: str | None, username: str, password: str
    ) -> Account | None:
        """Account of `AC../auth token` or `SK../secret`; None unless it is also `path_sid`'s."""
        self._freshen()
        given = password.encode("utf-8", "surrogatepass")
        login = self._logins.get(username)
        # An unknown name costs the same comparisons, so time does not tell which names exist.
        first, second = (login.first, login.second) if login else (_NOBODY, _NOBODY)
        is_right = first.matches(given) | second.matches(given)
        if login is None or not is_right:
            return None
        return login.account if path_sid in (None, login.account.sid) else None

    def _freshen(self) -> None:
        if self._source is None:
            return
        added = self._source()
        if added is not None:
            self._sids, self._keys, self._logins = {}, {}, {}
            self._build(self._fixed)
            self._build(account for account in added if not self._collides(account))

    def _collides(self, account: Account) -> bool:
        return account.sid in self._sids or any(key.sid in self._keys for key in account.api_keys)

    def _build(self, accounts: Iterable[Account]) -> None:
        for account in accounts:
            if account.sid in self._sids:
                raise ValueError(f"account {account.sid} is there twice")
            self._sids[account.sid] = account
            primary = account.auth_token
            self._add_login(account.sid, account, primary, account.secondary_auth_token or primary)
            for key in account.api_keys:
                if key.sid in self._keys:
                    raise ValueError(f"API key {key.sid} is there twice")
                self._keys[key.sid] = (account, key)
                if key.secret:
                    self._add_login(key.sid, account, key.secret, key.secret)

    def _add_login(self, name: str, account: Account, first: Secret, second: Secret) -> None:
        self._logins[name] = _Login(account, _digest(first, name), _digest(second, name))


def _digest(secret: Secret, name: str) -> SecretDigest:
    return secret if isinstance(secret, SecretDigest) else SecretDigest.of(secret, name)
