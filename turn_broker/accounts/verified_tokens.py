"""Remembers which access tokens were verified, for clients that come back with the same one.

After a node's restart or a network's hiccup all its clients return at once, and most of a hello is
the signature. Only a success is remembered, under the token's SHA-256, until it expires or the key
that signed it is no longer the one it was. It does not know what makes a token valid.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from turn_broker.accounts.access_token import AccessTokens, Claims, TokenRefusal
from turn_broker.accounts.table import Account, Accounts, ApiKey

REMEMBERED = 20_000
"""Tokens: a quarter of a kilobyte each. Beyond them the one verified first is forgotten."""


class VerifiedTokens:
    """Answers as `tokens.verify` does."""

    def __init__(
        self, tokens: AccessTokens, accounts: Accounts, *, remembered: int = REMEMBERED
    ) -> None:
        """`accounts` are those of `tokens`."""
        self._tokens = tokens
        self._accounts = accounts
        self._remembered = remembered
        self._verified: OrderedDict[bytes, tuple[Claims, tuple[Account, ApiKey]]] = OrderedDict()

    def verify(self, token: str, now: float) -> Claims | TokenRefusal:
        """Claims of `token` at `now` (Unix seconds)."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._verified.get(digest)
        if found is not None:
            claims, owned = found
            # The same object: nobody has changed the accounts since.
            if now < claims.expires_at and self._accounts.key(claims.key_id) is owned:
                return claims
            del self._verified[digest]
        verdict = self._tokens.verify(token, now)
        if isinstance(verdict, Claims):
            self._remember(digest, verdict, now)
        return verdict

    def _remember(self, digest: bytes, claims: Claims, now: float) -> None:
        owned = self._accounts.key(claims.key_id)
        # None: a key set's, which is replaced without our knowledge.
        if owned is None or now >= claims.expires_at or not self._remembered:
            return
        if len(self._verified) >= self._remembered:
            self._verified.popitem(last=False)
        self._verified[digest] = (claims, owned)

    def __len__(self) -> int:
        return len(self._verified)
