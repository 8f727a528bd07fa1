"""A coturn as a node agent sees it: secrets by its database, sessions by its log and console.

The log tells at once what happened, but anybody can write lines into it; so what it says where it
is not to be believed is settled by the console's list of sessions, which also tells a client's
address. Payload in such places is not counted, and how many records that were is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from turn_broker.clock import monotonic
from turn_broker.coturn.console import Console, ListedSession
from turn_broker.coturn.log_file import LogFile
from turn_broker.coturn.log_lines import LoggedEnd, LoggedOpen, LoggedUse, LogReader, LogRecord
from turn_broker.coturn.settings import CoturnSettings, alternate
from turn_broker.coturn.turndb import TurnDb
from turn_broker.credentials import parse_username
from turn_broker.fleet.turn_control import (
    ControlLost,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    SessionUsed,
)

POLL_S = 0.03
LIST_SOON_S = 0.3
"""After a record that is not to be believed."""
LIST_INTERVAL_S = 60.0
FIND_ATTEMPTS = 4
FIND_WAIT_S = 0.005
"""The console's list follows the log by a moment."""


class CoturnControl:
    """TurnControl over a coturn on this machine that reads our configuration."""

    def __init__(self, settings: CoturnSettings, *, realm: str, console_password: str) -> None:
        self._settings = settings
        self._console = Console(settings.console_port, console_password)
        self._database = TurnDb(Path(settings.database), realm)
        self._log = LogFile(Path(settings.log_file))
        self._reader = LogReader()
        self._known: dict[str, str] = {}
        """User names by session."""
        self._ended: set[str] = set()
        self._list_at = 0.0
        self._secrets: tuple[str, ...] | None = None
        """None until they were set: then those in the database hold."""
        self._withholds_secrets = False

    @property
    def software(self) -> str:
        """`coturn 4.6.1`, or without a number until it was first reached."""
        version = self._console.version
        return f"coturn {'.'.join(map(str, version))}" if version else "coturn"

    @property
    def doubted_records(self) -> int:
        """Records of the log that anybody could have written, since the start."""
        return self._reader.doubted

    async def set_secrets(self, secrets: tuple[str, ...]) -> None:
        """Exactly these verify from now on; kept for later while draining withholds them."""
        self._secrets = secrets
        await self._write_secrets()

    async def cut(self, session: str) -> bool:
        """Ends an allocation within a millisecond; coturn tells by its log."""
        if session not in self._known:
            return False
        await self._console.cut(session)
        return True

    async def drain(self, on: bool) -> None:
        """Sends new clients to `drain_to`, or refuses their credentials where there is none.

        An allocation keeps its key, so a running one is refreshed all the same.
        """
        target = self._settings.drain_to
        if not target:
            self._withholds_secrets = on
            await self._write_secrets()
            return
        host, port = alternate(target)
        command = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        there = sum(each == command for each in await self._console.alternates())
        for _ in range(1 - there if on else there):
            await self._console.run(f"{'aas' if on else 'das'} {command}")

    async def close(self) -> None:
        """Lets go of log and console; coturn goes on."""
        self._log.close()
        await self._console.close()

    async def events(self) -> AsyncGenerator[SessionEvent, None]:
        """What exists by the console, then what the log says."""
        self._known.clear()
        await self._console.connect()
        try:
            self._log.skip()
            self._reader.restart()
            for event in self._compare(await self._console.sessions(), frozenset(), fresh=False):
                yield event
            self._list_at = monotonic() + LIST_INTERVAL_S
            while True:
                async for event in self._written():
                    yield event
                if monotonic() >= self._list_at:
                    async for event in self._listed():
                        yield event
                if not self._console.is_connected:
                    raise ControlLost("coturn has closed its console")
                await asyncio.sleep(POLL_S)
        except OSError as flaw:
            raise ControlLost(f"coturn's log cannot be read: {flaw.strerror}") from flaw
        finally:
            self._log.close()
            self._known.clear()

    async def _written(self) -> AsyncGenerator[SessionEvent, None]:
        """What the log says up to its present end."""
        while True:
            chunk, is_new = self._log.read()
            if is_new:
                self._reader.restart()
            if not chunk:
                return
            for record, is_believed in self._reader.feed(chunk):
                if not is_believed:
                    self._list_at = min(self._list_at, monotonic() + LIST_SOON_S)
                elif event := await self._event(record):
                    yield event

    async def _event(self, record: LogRecord) -> SessionEvent | None:
        if isinstance(record, LoggedOpen):
            if record.session in self._known:
                return None
            listed = await self._find(record)
            self._known[record.session] = record.username
            return _opened(listed, None)
        if isinstance(record, LoggedEnd):
            self._ended.add(record.session)
            known = self._known.pop(record.session, None)
            return None if known is None else SessionClosed(session=record.session)
        if record.session not in self._known or not record.sent_bytes + record.received_bytes:
            return None
        return _used(record)

    async def _find(self, opened: LoggedOpen) -> ListedSession:
        """With the client's address, which the log does not tell."""
        if parse_username(opened.username) is not None:
            for attempt in range(FIND_ATTEMPTS):
                await asyncio.sleep(attempt * FIND_WAIT_S)
                for listed in await self._console.sessions(opened.username):
                    if listed.session == opened.session:
                        return listed
        return ListedSession(session=opened.session, username=opened.username)

    async def _listed(self) -> AsyncGenerator[SessionEvent, None]:
        """Settles what the log left open, by the console's list."""
        self._list_at = monotonic() + LIST_INTERVAL_S
        before = frozenset(self._known)
        self._ended.clear()
        listed = await self._console.sessions()
        # What was written before the list was made comes before what the list says.
        async for event in self._written():
            yield event
        for event in self._compare(listed, before, fresh=True):
            yield event

    def _compare(
        self, listed: Iterable[ListedSession], before: frozenset[str], *, fresh: bool
    ) -> list[SessionEvent]:
        there = {each.session: each for each in listed}
        gone = [session for session in before - there.keys() if session in self._known]
        for session in gone:
            del self._known[session]
        events: list[SessionEvent] = [SessionClosed(session=session) for session in gone]
        for each in there.values():
            if each.session in self._known or (fresh and each.session in self._ended):
                continue
            self._known[each.session] = each.username
            events.append(_opened(each, None if fresh else each.age_s))
        return events

    async def _write_secrets(self) -> None:
        try:
            if self._secrets is None:
                self._secrets = tuple(await asyncio.to_thread(self._database.secrets))
            secrets = () if self._withholds_secrets else self._secrets
            await asyncio.to_thread(self._database.replace_secrets, secrets)
        except (sqlite3.Error, OSError) as flaw:
            raise ControlLost("coturn's database cannot be written") from flaw


def _opened(listed: ListedSession, age_s: int | None) -> SessionOpened:
    return SessionOpened(
        session=listed.session,
        username=listed.username,
        client=listed.client,
        transport=listed.transport,
        age_s=age_s,
    )


def _used(record: LoggedUse) -> SessionUsed:
    return SessionUsed(
        session=record.session,
        sent_bytes=record.sent_bytes,
        received_bytes=record.received_bytes,
    )
