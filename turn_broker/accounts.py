"""Accounts, their auth tokens and API keys, and who a Basic credential belongs to.

Pure: the table is built once from settings and never changes. A wrong SID or secret is a None, in
constant time for the secrets. It does not know JWT, HTTP or TURN.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}\Z")
KEY_SID = re.compile(r"SK[0-9a-fA-F]{32}\Z")

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that signs access tokens with exactly one algorithm.

    HS256 keys have a secret, which is also their Basic password. The others have a registered
    public key (PEM): whoever holds the private half signs elsewhere, so they cannot log in.
    """

    sid: str
    secret: str = field(default="", repr=False)
    algorithm: Algorithm = "HS256"
    public_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not KEY_SID.match(self.sid):
            raise ValueError("an API key SID is SK and 32 hex digits")
        has = (bool(self.secret), bool(self.public_key))
        if has != ((True, False) if self.algorithm == "HS256" else (False, True)):
            raise ValueError("an HS256 key has a secret, any other key has a public key")


@dataclass(frozen=True, slots=True)
class Account:
    """Owner of rooms, identities and limits; nothing crosses from one to another."""

    sid: str
    auth_token: str = field(repr=False)
    api_keys: tuple[ApiKey, ...] = ()

    def __post_init__(self) -> None:
        if not ACCOUNT_SID.match(self.sid):
            raise ValueError("an account SID is AC and 32 hex digits")
        if not self.auth_token:
            raise ValueError("an account has an auth token")


class Accounts:
    """Every account of this deployment, by SID and by API key."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, tuple[Account, ApiKey]] = {}
        for account in accounts:
            if account.sid in self._accounts:
                raise ValueError(f"account {account.sid} is there twice")
            self._accounts[account.sid] = account
            for key in account.api_keys:
                if key.sid in self._keys:
                    raise ValueError(f"API key {key.sid} is there twice")
                self._keys[key.sid] = (account, key)

    def by_sid(self, sid: str) -> Account | None:
        return self._accounts.get(sid)

    def key(self, kid: str) -> tuple[Account, ApiKey] | None:
        """The API key with its owner."""
        return self._keys.get(kid)

    def api_keys(self) -> tuple[ApiKey, ...]:
        """Every API key of every account."""
        return tuple(key for _, key in self._keys.values())

    def authenticate_basic(
        self, path_sid: str | None, username: str, password: str
    ) -> Account | None:
        """Account of `AC../auth token` or `SK../secret`; None unless it is also `path_sid`'s."""
        account, expected = self._basic(username)
        given = password.encode("utf-8", "surrogatepass")
        # An unknown name costs the same comparison, so time does not tell which names exist.
        if not hmac.compare_digest(given, expected.encode("utf-8")) or account is None:
            return None
        return account if path_sid in (None, account.sid) else None

    def _basic(self, username: str) -> tuple[Account | None, str]:
        account = self._accounts.get(username)
        if account is not None:
            return account, account.auth_token
        owned = self._keys.get(username)
        if owned is not None and owned[1].secret:
            return owned[0], owned[1].secret
        return None, "x" * 32
