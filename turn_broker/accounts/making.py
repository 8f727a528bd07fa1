"""Makes accounts and keys for the account file, and changes them.

Each function changes the content it is given and returns the new secret, which is shown once and
kept only hashed or sealed. Pure but for the randomness.
"""

from __future__ import annotations

import secrets

from turn_broker.accounts.store import AccountFile, StoredAccount, StoredKey, StoreError
from turn_broker.accounts.table import AccountLimits, Algorithm, SecretDigest
from turn_broker.sealing import NONCE_BYTES, Seal

MAX_KEYS = 64
"""Of one account."""
MAX_NAME_CHARS = 128


def create_account(
    content: AccountFile, name: str, limits: AccountLimits, now: float
) -> tuple[StoredAccount, str]:
    """A new account with its auth token."""
    _check_name(name)
    token = _secret()
    account = StoredAccount(
        sid=f"AC{secrets.token_hex(16)}",
        name=name,
        created_at=int(now),
        auth_token=_digest(token),
        limits=limits,
    )
    content.accounts.append(account)
    return account, token


def begin_rotation(content: AccountFile, sid: str) -> str:
    """A secondary auth token, as good as the first; raises StoreError while there is one."""
    account = content.account(sid)
    if account.secondary is not None:
        raise StoreError(f"{sid} has a secondary auth token already: promote or discard it")
    token = _secret()
    account.secondary = _digest(token)
    return token


def end_rotation(content: AccountFile, sid: str, *, promote: bool) -> None:
    """Promote: the secondary replaces the first, which is refused from then on; else drop it."""
    account = content.account(sid)
    if account.secondary is None:
        raise StoreError(f"{sid} has no secondary auth token")
    if promote:
        account.auth_token = account.secondary
    account.secondary = None


def create_secret_key(
    content: AccountFile, sid: str, name: str, seal: Seal | None, now: float
) -> tuple[StoredKey, str]:
    """A key with a secret: one that signs where there is a seal, one that only logs in if not."""
    secret = _secret()
    key = StoredKey(sid=f"SK{secrets.token_hex(16)}", name=name, created_at=int(now))
    if seal is None:
        key.digest = _digest(secret)
    else:
        key.sealed = seal.close(secret, key.sid, secrets.token_bytes(NONCE_BYTES))
    _add_key(content, sid, key)
    return key, secret


def register_public_key(
    content: AccountFile,
    sid: str,
    name: str,
    algorithm: Algorithm,
    now: float,
    *,
    public_key: str = "",
    jwks_url: str = "",
) -> StoredKey:
    """A key whose private half signs elsewhere: a PEM, or the URL of a key set."""
    key = StoredKey(
        sid=f"SK{secrets.token_hex(16)}",
        name=name,
        created_at=int(now),
        algorithm=algorithm,
        public_key=public_key,
        jwks_url=jwks_url,
    )
    _add_key(content, sid, key)
    return key


def _add_key(content: AccountFile, sid: str, key: StoredKey) -> None:
    _check_name(key.name)
    account = content.account(sid)
    if len(account.keys) >= MAX_KEYS:
        raise StoreError(f"{sid} has {MAX_KEYS} keys already")
    account.keys = [*account.keys, key]


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise StoreError(f"a name has at most {MAX_NAME_CHARS} printable characters")


def _secret() -> str:
    return secrets.token_hex(32)


def _digest(secret: str) -> SecretDigest:
    return SecretDigest.of(secret, secrets.token_hex(16))
