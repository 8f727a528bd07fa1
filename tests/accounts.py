"""Accounts of a test's `parley serve`, and the access tokens that their keys sign."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import jwt


def _secret() -> str:
    return secrets.token_hex(32)


@dataclass(frozen=True)
class Account:
    """One account with one HS256 key; `number` tells it from the others of the same server."""

    number: int = 1
    auth_token: str = field(default_factory=_secret)
    secret: str = field(default_factory=_secret)
    """Of the key."""

    @property
    def sid(self) -> str:
        return f"AC{self.number:032x}"

    @property
    def key_sid(self) -> str:
        return f"SK{self.number:032x}"

    @property
    def toml(self) -> str:
        """For parley.toml, after every section."""
        return (
            f'[[accounts]]\nsid = "{self.sid}"\nauth_token = "{self.auth_token}"\n'
            f'[[accounts.keys]]\nsid = "{self.key_sid}"\nsecret = "{self.secret}"\n'
        )

    def claims(self, identity: str, **changes: Any) -> dict[str, Any]:
        """`changes` replace claims, or drop them with None."""
        now = int(time.time())
        claims = {"iss": self.sid, "aud": "parley", "sub": identity, "iat": now, "exp": now + 600}
        claims |= changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, identity: str, **changes: Any) -> str:
        headers = {"kid": self.key_sid}
        claims = self.claims(identity, **changes)
        return jwt.encode(claims, self.secret, algorithm="HS256", headers=headers)
