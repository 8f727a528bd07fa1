"""coturn's SQLite database: the one table through which an agent hands secrets over.

coturn looks into `turn_secret` for each new session, so a change is in force at once. Write-ahead
logging keeps coturn's readers from being locked out, and refusing a client, while we write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUSY_S = 3.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS turnusers_lt (
  realm varchar(127) DEFAULT '', name varchar(512), hmackey char(128), PRIMARY KEY (realm, name));
CREATE TABLE IF NOT EXISTS turn_secret (
  realm varchar(127) DEFAULT '', value varchar(256), PRIMARY KEY (realm, value));
CREATE TABLE IF NOT EXISTS allowed_peer_ip (
  realm varchar(127) DEFAULT '', ip_range varchar(256), PRIMARY KEY (realm, ip_range));
CREATE TABLE IF NOT EXISTS denied_peer_ip (
  realm varchar(127) DEFAULT '', ip_range varchar(256), PRIMARY KEY (realm, ip_range));
CREATE TABLE IF NOT EXISTS turn_origin_to_realm (
  origin varchar(127), realm varchar(127), PRIMARY KEY (origin));
CREATE TABLE IF NOT EXISTS turn_realm_option (
  realm varchar(127) DEFAULT '', opt varchar(32), value varchar(128), PRIMARY KEY (realm, opt));
CREATE TABLE IF NOT EXISTS oauth_key (
  kid varchar(128), ikm_key varchar(256), timestamp bigint DEFAULT 0, lifetime integer DEFAULT 0,
  as_rs_alg varchar(64) DEFAULT '', realm varchar(127), PRIMARY KEY (kid));
CREATE TABLE IF NOT EXISTS admin_user (
  name varchar(32), realm varchar(127), password varchar(127), PRIMARY KEY (name));
"""


class TurnDb:
    """Every method blocks for some milliseconds, at worst `_BUSY_S`, and may raise sqlite3.Error
    or OSError."""

    def __init__(self, path: Path, realm: str) -> None:
        self._path = path
        self._realm = realm

    def create(self) -> None:
        """The file and what is missing of coturn's tables; not readable by others."""
        if not self._path.exists():
            self._path.touch(0o660)
        with self._opened() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_SCHEMA)

    def secrets(self) -> frozenset[str]:
        """Those in force."""
        with self._opened() as database:
            return self._secrets(database)

    def replace_secrets(self, secrets: tuple[str, ...]) -> None:
        """Exactly these from now on."""
        with self._opened() as database:
            before, after = self._secrets(database), frozenset(secrets)
            if before == after:
                return
            with database:
                database.executemany(
                    "INSERT OR IGNORE INTO turn_secret (realm, value) VALUES (?, ?)",
                    [(self._realm, secret) for secret in after - before],
                )
                database.executemany(
                    "DELETE FROM turn_secret WHERE realm = ? AND value = ?",
                    [(self._realm, secret) for secret in before - after],
                )

    def _secrets(self, database: sqlite3.Connection) -> frozenset[str]:
        rows = database.execute("SELECT value FROM turn_secret WHERE realm = ?", (self._realm,))
        return frozenset(value for (value,) in rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=_BUSY_S)
        try:
            yield database
        finally:
            database.close()
