"""Access tokens (JWT): who a bearer is, which room they may join, and what they may ask for.

A token names its API key in `kid`; the key, never the token, decides the algorithm (RFC 8725 3.1).
A key set (JWKS) is asked for the key where no API key has that name. Anything wrong with a token is
a `TokenRefusal`. The time is an argument, and no verdict is kept.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jwt
import msgspec

from turn_broker.accounts.table import Account, Accounts, Algorithm, ApiKey
from turn_broker.globs import matches

AUDIENCE = "parley"
MAX_TOKEN_CHARS = 8192
MAX_PREPARED_KEYS = 100_000
MAX_NAME_CHARS = 128
"""Of an identity, a display name and a room pattern."""


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What a bearer may do; an absent grant has the default below."""

    join: bool = True
    call: bool = True
    turn: bool = True
    probe: bool = True
    admin: bool = False
    relay_only: bool = False


class Claims(msgspec.Struct, frozen=True):
    """A verified token."""

    account_sid: str
    identity: str
    name: str | None
    room: str | None
    """An exact room or a pattern with `*` (any characters, also none) and `?` (one character)."""
    grants: Grants
    expires_at: int
    key_id: str
    """SID of an API key, or the name of a key in one of the account's key sets."""

    def may_join(self, room: str) -> bool:
        """True when the token lets its bearer into `room`; without a room claim, into any."""
        return self.grants.join and (self.room is None or matches(self.room, room))


@dataclass(frozen=True, slots=True)
class TokenRefusal:
    """Why a token was not accepted; `message` never repeats any of it."""

    code: Literal["unauthenticated", "token_expired", "unavailable"]
    """unavailable: the key set that may have its key is being read, and the token may be good."""
    message: str


class PublishedKey(Protocol):
    """One key of a key set, for exactly the algorithm of `owner`."""

    @property
    def account(self) -> Account: ...
    @property
    def owner(self) -> ApiKey: ...
    @property
    def verifier(self) -> Any:
        """As PyJWT's algorithm prepared it."""


class KeySource(Protocol):
    """Key sets that others publish."""

    def find(self, account_sid: str, kid: str, algorithm: str) -> PublishedKey | None: ...

    def is_being_read(self, account_sid: str) -> bool:
        """Whether an unknown key of the account may be there in a moment; has it read if not."""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """jku, x5u, jwk and x5c would name other keys, crit and b64 other rules: all are refused."""

    alg: str
    kid: str
    typ: str | None = None


class _Payload(msgspec.Struct):
    iss: str
    aud: str | list[str]
    sub: str
    exp: int | float
    nbf: int | float | None = None
    iat: int | float | None = None
    name: str | None = None
    room: str | None = None
    grants: Grants = Grants()


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode


class AccessTokens:
    """Verifies and issues the tokens of `accounts`."""

    def __init__(
        self,
        accounts: Accounts,
        key_sets: KeySource | None = None,
        *,
        leeway_s: int = 30,
        max_lifetime_s: int = 366 * 86_400,
    ) -> None:
        """`leeway_s` forgives clocks; a token valid longer than `max_lifetime_s` is refused.

        Raises ValueError for a registered public key that is not one of its algorithm's.
        """
        self._accounts = accounts
        self._key_sets = key_sets
        self._leeway_s = leeway_s
        self._max_lifetime_s = max_lifetime_s
        self._jws = jwt.PyJWS(
            options={"verify_signature": True, "enforce_minimum_key_length": True}
        )
        self._verifiers: dict[str, tuple[ApiKey, Any]] = {}
        for key in accounts.api_keys():
            if key.signing_secret or key.public_key:
                self._verifier(key)

    def verify(self, token: str, now: float) -> Claims | TokenRefusal:
        """Claims of `token` at `now` (Unix seconds)."""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return _refused("the token is too long or not ASCII")
        try:
            head, _, rest = token.partition(".")
            header = _decode_header(_b64url(head))
            owned = self._accounts.key(header.kid)
            if owned is None:
                return self._verify_published(token, header, rest.partition(".")[0], now)
            account, key = owned
            if header.alg != key.algorithm:
                return _refused("the token's algorithm is not its key's")
            if not (key.signing_secret or key.public_key):
                return _refused("the token's key cannot sign access tokens")
            signed = self._jws.decode(token, self._verifier(key), [key.algorithm])
            return self._claims(_decode_payload(signed), account, key.sid, now)
        except (jwt.PyJWTError, msgspec.DecodeError, ValueError, RecursionError):
            return _refused("the token is malformed or its signature is wrong")

    def _verify_published(
        self, token: str, header: _Header, payload: str, now: float
    ) -> Claims | TokenRefusal:
        """By a key set of the account that the token says it is from."""
        if self._key_sets is None:
            return _refused("the token names no key of this server")
        # Not verified yet: it only says which sets to look in, and `_claims` compares it again.
        account_sid = _decode_payload(_b64url(payload)).iss
        found = self._key_sets.find(account_sid, header.kid, header.alg)
        if found is not None:
            signed = self._jws.decode(token, found.verifier, [found.owner.algorithm])
            return self._claims(_decode_payload(signed), found.account, header.kid, now)
        if self._key_sets.is_being_read(account_sid):
            return TokenRefusal("unavailable", "the account's key set is being read; try again")
        return _refused("the token names no key of this server")

    def issue(  # noqa: PLR0913 - one parameter per claim
        self,
        account: Account,
        key_sid: str,
        identity: str,
        *,
        room: str | None = None,
        name: str | None = None,
        grants: Grants | None = None,
        ttl_s: int = 3600,
        now: float,
    ) -> str:
        """A token signed with one of the account's HS256 keys; raises ValueError if it has none.

        Also for an identity, room or ttl that `verify` would refuse.
        """
        key = next((key for key in account.api_keys if key.sid == key_sid), None)
        secret = key.signing_secret if key else None
        if key is None or secret is None:
            raise ValueError(f"{key_sid} is no key of {account.sid} that can sign here")
        if not 0 < ttl_s <= self._max_lifetime_s:
            raise ValueError(f"ttl must be 1 to {self._max_lifetime_s} s")
        issued_at = int(now)
        payload: dict[str, Any] = {
            "iss": account.sid,
            "aud": AUDIENCE,
            "sub": identity,
            "iat": issued_at,
            "exp": issued_at + ttl_s,
        }
        payload |= {"room": room} if room is not None else {}
        payload |= {"name": name} if name is not None else {}
        payload |= {"grants": msgspec.structs.asdict(grants)} if grants is not None else {}
        flaw = _flaw(msgspec.convert(payload, _Payload))
        if flaw:
            raise ValueError(flaw)
        return jwt.encode(payload, secret, algorithm="HS256", headers={"kid": key.sid})

    def _verifier(self, key: ApiKey) -> Any:
        """The key as PyJWT takes it, prepared once; ValueError if it is none of its algorithm."""
        known = self._verifiers.get(key.sid)
        if known is not None and known[0] is key:
            return known[1]
        try:
            prepared = prepare_key(key.algorithm, key.signing_secret or key.public_key)
        except ValueError as flaw:
            raise ValueError(f"API key {key.sid} {flaw}") from flaw
        if len(self._verifiers) >= MAX_PREPARED_KEYS:
            self._verifiers.clear()
        self._verifiers[key.sid] = (key, prepared)
        return prepared

    def _claims(
        self, payload: _Payload, account: Account, key_id: str, now: float
    ) -> Claims | TokenRefusal:
        audience = [payload.aud] if isinstance(payload.aud, str) else payload.aud
        if payload.iss != account.sid:
            return _refused("the token's issuer is not the owner of its key")
        if AUDIENCE not in audience:
            return _refused(f"the token's audience is not {AUDIENCE}")
        flaw = _flaw(payload)
        if flaw:
            return _refused(flaw)
        if now >= payload.exp + self._leeway_s:
            return TokenRefusal("token_expired", "the token has expired")
        if payload.exp - now > self._max_lifetime_s + self._leeway_s:
            return _refused(f"the token is valid for more than {self._max_lifetime_s} s")
        if max(payload.nbf or 0, payload.iat or 0) > now + self._leeway_s:
            return _refused("the token is not valid yet")
        return Claims(
            account_sid=account.sid,
            identity=payload.sub,
            name=payload.name,
            room=payload.room,
            grants=payload.grants,
            expires_at=int(payload.exp),
            key_id=key_id,
        )


def prepare_key(algorithm: Algorithm, key: Any) -> Any:
    """`key` (PEM, secret or JWK) as PyJWT verifies with it; ValueError if it does not fit."""
    chosen = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = chosen.from_jwk(key) if isinstance(key, dict) else chosen.prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError) as reason:
        raise ValueError(f"is no {algorithm} key") from reason
    flaw = chosen.check_key_length(prepared)
    if flaw:
        raise ValueError(f"is too short: {flaw}")
    return prepared


def _b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _flaw(payload: _Payload) -> str | None:
    """What is wrong with the claims themselves, whoever signed them."""
    if not 1 <= len(payload.sub) <= MAX_NAME_CHARS or not payload.sub.isprintable():
        return f"the identity must be 1 to {MAX_NAME_CHARS} printable characters"
    if payload.name is not None and len(payload.name) > MAX_NAME_CHARS:
        return f"the name must be at most {MAX_NAME_CHARS} characters"
    if payload.room is not None and not 1 <= len(payload.room) <= MAX_NAME_CHARS:
        return f"the room must be 1 to {MAX_NAME_CHARS} characters"
    # Also false for NaN; math.isfinite would raise on an int of 400 digits.
    for seconds in (payload.exp, payload.nbf, payload.iat):
        if seconds is not None and not 0 <= seconds < 2**53:
            return "the token has a time out of range"
    return None


def _refused(message: str) -> TokenRefusal:
    return TokenRefusal("unauthenticated", message)
