"""Reports that visitors chose to share: kept for a while, found by an id that cannot be guessed.

Addresses are taken out unless the visitor agreed to share them. SQLite keeps them, in a file or in
memory. It does not know HTTP, nor what the checks of a report mean.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sqlite3
from typing import Any, Literal

import msgspec

from probes.messages import MAX_REPORT_BYTES

FORMAT = "parley-network-report/1"
AGREED = "include_addresses"
"""Field of a report: true when the visitor wants addresses in it."""
REMOVED = "[address]"
MAX_DEPTH = 16
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Of all reports together, whatever their number; a page's has about 5 KB."""
_ADDRESS = re.compile(
    r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
    r"|(?<![\w.:])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]*[0-9A-Fa-f:](?:%\w+)?(?![\w:])"
    r"|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\.local"
)
"""IPv4, IPv6 (two colons or more) and the mDNS names that stand for addresses."""
_OLDEST = "SELECT id, length(body) FROM report ORDER BY ends, rowid LIMIT 1"
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2})?(\.\d+)?")

Flaw = Literal["payload_too_large", "bad_request"]


def read_report(body: bytes) -> dict[str, Any] | Flaw:
    """The report as it may be kept, or why it may not."""
    if len(body) > MAX_REPORT_BYTES:
        return "payload_too_large"
    try:
        report = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return "bad_request"
    if not isinstance(report, dict) or report.get("format") != FORMAT or not _is_flat(report):
        return "bad_request"
    if report.get(AGREED) is not True:
        report = {**_scrubbed(report), AGREED: False}
    return report


def _is_flat(value: object, depth: int = 0) -> bool:
    if depth > MAX_DEPTH:
        return False
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(_is_flat(one, depth + 1) for one in inner)


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return _ADDRESS.sub(_unless_time, value)
    if isinstance(value, list):
        return [_scrubbed(one) for one in value]
    if isinstance(value, dict):
        return {_scrubbed(name): _scrubbed(one) for name, one in value.items()}
    return value


def _unless_time(found: re.Match[str]) -> str:
    return found[0] if _TIME.fullmatch(found[0]) else REMOVED


class Reports:
    """Bounded by `most` and `most_bytes`; the one that ends first goes first.

    Opens `path`, or memory for "".
    """

    def __init__(self, path: str, most: int, life_s: int, most_bytes: int = MAX_KEPT_BYTES) -> None:
        """Raises sqlite3.Error when the file cannot be used."""
        self._most = most
        self._most_bytes = most_bytes
        self._life_s = life_s
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        if path:
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS report"
            " (id TEXT PRIMARY KEY, body BLOB NOT NULL, owner BLOB NOT NULL, ends INT NOT NULL)"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS report_ends ON report (ends)")

    def __len__(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM report").fetchone()
        return int(count)

    def keep(self, name: str, delete_token: str, report: dict[str, Any], now: int) -> int:
        """Keeps it under a fresh random name; when it ends, Unix seconds."""
        ends = now + self._life_s
        self._db.execute("DELETE FROM report WHERE ends < ?", (now,))
        body = msgspec.json.encode(report)
        self._make_room(len(body))
        self._db.execute(
            "INSERT INTO report VALUES (?, ?, ?, ?)", (name, body, _digest(delete_token), ends)
        )
        return ends

    def _make_room(self, size: int) -> None:
        query = "SELECT count(*), coalesce(sum(length(body)), 0) FROM report"
        count, total = self._db.execute(query).fetchone()
        while count and (count >= self._most or total + size > self._most_bytes):
            oldest, freed = self._db.execute(_OLDEST).fetchone()
            self._db.execute("DELETE FROM report WHERE id = ?", (oldest,))
            count, total = count - 1, total - freed

    def find(self, name: str, now: int) -> bytes | None:
        """The report as JSON; None when there is none, or no longer."""
        query = "SELECT body FROM report WHERE id = ? AND ends >= ?"
        row = self._db.execute(query, (name, now)).fetchone()
        return bytes(row[0]) if row else None

    def remove(self, name: str, delete_token: str) -> bool:
        """Whether there was one that this token may take back."""
        row = self._db.execute("SELECT owner FROM report WHERE id = ?", (name,)).fetchone()
        if row is None or not hmac.compare_digest(bytes(row[0]), _digest(delete_token)):
            return False
        self._db.execute("DELETE FROM report WHERE id = ?", (name,))
        return True

    def close(self) -> None:
        self._db.close()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
