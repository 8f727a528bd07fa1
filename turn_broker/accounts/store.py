"""The account file: accounts and keys that `parley accounts` makes, hashed or sealed at rest.

One JSON file, mode 0600, replaced as a whole under a lock, so that two writers do not lose each
other's changes and no reader sees half of one. Servers look at it at most once a second, when they
are asked something; a file that cannot be read leaves the former accounts in force.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from turn_broker.accounts.access_token import prepare_key
from turn_broker.accounts.table import (
    NO_LIMITS,
    Account,
    AccountLimits,
    Algorithm,
    ApiKey,
    SecretDigest,
)
from turn_broker.clock import monotonic
from turn_broker.private_file import replace_private
from turn_broker.sealing import Seal

log = logging.getLogger("turn_broker.accounts.table")

FORMAT = 1
MAX_FILE_BYTES = 64 * 1024 * 1024
LOOK_INTERVAL_S = 1.0


class StoreError(ValueError):
    """The file cannot be read, or not changed in this way; says why, without a secret."""


class StoredKey(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One API key: exactly one of digest, sealed, public_key and jwks_url."""

    sid: str
    name: str = ""
    created_at: int
    """Unix seconds."""
    is_enabled: bool = True
    algorithm: Algorithm = "HS256"
    digest: SecretDigest | None = None
    """Logs in, and cannot sign."""
    sealed: str = ""
    """Logs in and signs."""
    public_key: str = ""
    jwks_url: str = ""

    @property
    def kind(self) -> Literal["login", "signing", "public", "jwks"]:
        if self.digest is not None:
            return "login"
        if self.sealed:
            return "signing"
        return "public" if self.public_key else "jwks"


class StoredAccount(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    sid: str
    name: str = ""
    created_at: int
    """Unix seconds."""
    is_enabled: bool = True
    auth_token: SecretDigest
    secondary: SecretDigest | None = None
    keys: list[StoredKey] = []
    limits: AccountLimits = NO_LIMITS


class AccountFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    revision: int = 0
    """Grows with every change."""
    accounts: list[StoredAccount] = []

    def account(self, sid: str) -> StoredAccount:
        """Raises StoreError."""
        for account in self.accounts:
            if account.sid == sid:
                return account
        raise StoreError(f"there is no account {sid} in the account file")

    def key(self, sid: str) -> tuple[StoredAccount, StoredKey]:
        """Raises StoreError."""
        for account in self.accounts:
            for key in account.keys:
                if key.sid == sid:
                    return account, key
        raise StoreError(f"there is no API key {sid} in the account file")


class AccountStore:
    """Reads and changes the file; `changed` is a `Source` of `Accounts`."""

    def __init__(
        self, path: Path, seal: Seal | None, clock: Callable[[], float] = monotonic
    ) -> None:
        """`clock` gives monotonic seconds."""
        self.path = path
        self.seal = seal
        self._clock = clock
        self._look_at = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self.failures = 0
        """Times the changed file could not be read."""

    def read(self) -> AccountFile:
        """What the file says now, an absent one nothing; raises StoreError."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return AccountFile()
        except OSError as flaw:
            raise StoreError(f"{self.path}: {flaw.strerror}") from flaw
        if len(content) > MAX_FILE_BYTES:
            raise StoreError(f"{self.path} is larger than {MAX_FILE_BYTES} bytes")
        try:
            return msgspec.json.decode(content, type=AccountFile)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
            raise StoreError(f"{self.path} is no account file of format {FORMAT}: {flaw}") from flaw

    def accounts(self) -> list[Account]:
        """The enabled accounts with their enabled keys; raises StoreError."""
        return [self._account(stored) for stored in self.read().accounts if stored.is_enabled]

    def changed(self) -> Sequence[Account] | None:
        """The accounts if the file changed since the last time, else None; never raises."""
        now = self._clock()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_INTERVAL_S
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            return self.accounts()
        except StoreError as flaw:
            self.failures += 1
            log.error("the account file is left aside", extra={"reason": str(flaw)})
            return None

    @contextlib.contextmanager
    def changing(self) -> Iterator[AccountFile]:
        """Change what it yields; it is checked and written at the end. Raises StoreError.

        Waits for another writer.
        """
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as flaw:
            raise StoreError(f"{lock}: {flaw.strerror}") from flaw
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            content = self.read()
            yield content
            content.revision += 1
            for stored in content.accounts:
                self._account(stored)
            replace_private(self.path, msgspec.json.format(msgspec.json.encode(content), indent=1))
        except OSError as flaw:
            raise StoreError(f"{self.path}: {flaw.strerror}") from flaw
        finally:
            os.close(handle)

    def _account(self, stored: StoredAccount) -> Account:
        keys = tuple(self._key(key) for key in stored.keys if key.is_enabled)
        try:
            return Account(stored.sid, stored.auth_token, keys, stored.secondary, stored.limits)
        except ValueError as flaw:
            raise StoreError(f"account {stored.sid[:40]}: {flaw}") from flaw

    def _key(self, stored: StoredKey) -> ApiKey:
        secret: str | SecretDigest = stored.digest or ""
        if stored.sealed:
            opened = self.seal.open(stored.sealed, stored.sid) if self.seal else None
            if opened is None:
                raise StoreError(f"API key {stored.sid[:40]}: turn.accounts_key does not open it")
            secret = opened
        try:
            key = ApiKey(stored.sid, secret, stored.algorithm, stored.public_key, stored.jwks_url)
            if key.public_key:
                prepare_key(key.algorithm, key.public_key)
        except ValueError as flaw:
            raise StoreError(f"API key {stored.sid[:40]}: {flaw}") from flaw
        return key
