"""Undelivered letters on disk, so that they survive their process.

One SQLite file: a letter is written before its first attempt and taken out when it is delivered, or
when its dead body is no longer kept, so the file is as bounded as the queues. What is lost at worst
is one loop tick before a crash, and after a power failure what the machine had not written yet.
A receiver may get a letter twice, with the same `webhook-id`. It does not know lanes or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Sequence

from signal_server.edge.webhook_queue import Letter, WebhookEndpoint, log

_LOCK_WAIT_S = 5.0
"""How long a start waits for a process that still holds the file."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS letters (
  url TEXT NOT NULL, id TEXT NOT NULL, place INTEGER NOT NULL, account TEXT NOT NULL, room TEXT,
  type TEXT NOT NULL, sequence INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (url, id)
) WITHOUT ROWID
"""


class WebhookJournal:
    """The letters of one process at a time; raises sqlite3.Error when the file cannot be used."""

    def __init__(self, path: str, endpoints: Sequence[WebhookEndpoint]) -> None:
        self.failures = 0
        """Writes that failed: their letters are only in memory."""
        self._urls = [endpoint.url for endpoint in endpoints]
        self._commit_wanted = False
        with contextlib.suppress(OSError):
            # The bodies name identities: nobody else may read them. SQLite says what is wrong.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._file = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.execute("BEGIN IMMEDIATE")
        self._file.execute(_SCHEMA)
        self._file.execute("COMMIT")

    def letters(self) -> list[Letter]:
        """What was left, in the order of publication; of endpoints that are gone it is dropped."""
        marks = ", ".join("?" * len(self._urls))
        # S608: nothing but question marks is put in.
        self._file.execute(f"DELETE FROM letters WHERE url NOT IN ({marks})", self._urls)  # noqa: S608
        rows = self._file.execute(
            "SELECT url, id, place, account, room, type, sequence, body, reason FROM letters"
            " ORDER BY place"
        )
        return [
            Letter(
                id=number,
                order=place,
                lane=(account, room),
                type=kind,
                sequence=sequence,
                body=body,
                endpoint=self._urls.index(url),
                reason=reason,
            )
            for url, number, place, account, room, kind, sequence, body, reason in rows
        ]

    def keep(self, letter: Letter) -> None:
        """Write it down, or how it died."""
        account, room = letter.lane
        self._write(
            "REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(self._urls[letter.endpoint], letter.id, letter.order, account, room),
            *(letter.type, letter.sequence, letter.body, letter.reason),
        )

    def forget(self, letter: Letter) -> None:
        """It was delivered, or is not kept any more."""
        url = self._urls[letter.endpoint]
        self._write("DELETE FROM letters WHERE url = ? AND id = ?", url, letter.id)

    def close(self) -> None:
        """Write what is under way; the file is free for another process."""
        self._commit()
        self._file.close()

    def _write(self, statement: str, *values: object) -> None:
        try:
            if not self._commit_wanted:
                self._file.execute("BEGIN")
                self._commit_wanted = True
                asyncio.get_running_loop().call_soon(self._commit)
            self._file.execute(statement, values)
        except sqlite3.Error as failure:
            self._failed(failure)

    def _commit(self) -> None:
        """All writes of a loop tick at once."""
        if not self._commit_wanted:
            return
        self._commit_wanted = False
        try:
            self._file.execute("COMMIT")
        except sqlite3.Error as failure:
            self._failed(failure)
            with contextlib.suppress(sqlite3.Error):
                self._file.execute("ROLLBACK")

    def _failed(self, failure: sqlite3.Error) -> None:
        self.failures += 1
        if self.failures == 1:
            log.error("the webhook journal cannot be written: %s", failure)
