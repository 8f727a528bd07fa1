"""coturn's command line: one connection, one command at a time, and what `ps` says.

Knows the protocol, not what the commands are for. Nothing that a client chose is ever written to
it: sessions are digits, user names match our own form, addresses come from settings.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from msgspec import Struct

from turn_broker.coturn.settings import Version, parse_version
from turn_broker.fleet.turn_control import ControlLost

DEADLINE_S = 2.0
MAX_ANSWER = 64 * 1024 * 1024
_PROMPT = b"> "
_ASKS_PASSWORD = b"Enter password: \r\n"
_COMMAND = re.compile(
    r"(?:ps|pc|ps [A-Za-z0-9._:-]{1,200}|cs [0-9]{1,20}|[ad]as [0-9a-fA-F.:\[\]]+)\Z"
)
_HEAD = re.compile(r"\s*\d+\) id=(\d{1,20}), user <([^ ]*)>:\s*\Z")
_STARTED = re.compile(r"\s*started (\d{1,12}) secs ago\s*\Z")
_CLIENT = re.compile(r"\s*client protocol ([A-Z]{1,8})\b")
_ADDRESS = re.compile(r"\s*client addr (\[[0-9a-fA-F:.]+\]|[0-9.]+|[0-9a-fA-F:]+):\d+, ")


class ListedSession(Struct, frozen=True, kw_only=True):
    """One block of `ps`."""

    session: str
    username: str
    age_s: int = 0
    client: str = ""
    transport: str = ""


class Console:
    """Connects when it is first needed; every method raises ControlLost."""

    def __init__(self, port: int, password: str, *, host: str = "127.0.0.1") -> None:
        self._address = (host, port)
        self._password = password
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self.version: Version | None = None
        """Of coturn, once connected."""

    async def connect(self) -> None:
        """Connects and logs in, unless it is connected already."""
        async with self._lock:
            await self._connected()

    @property
    def is_connected(self) -> bool:
        """Whether coturn has not closed the connection, as far as is known."""
        if self._streams is None:
            return False
        reader, writer = self._streams
        return not (reader.at_eof() or writer.is_closing())

    async def sessions(self, username: str | None = None) -> list[ListedSession]:
        """Allocations that exist, of one user name (which must be of our form) or all."""
        text = await self.run("ps" if username is None else f"ps {username}")
        return list(parse_sessions(text))

    async def cut(self, session: str) -> None:
        """Ends a session; coturn does not say whether there was one."""
        await self.run(f"cs {session}")

    async def alternates(self) -> list[str]:
        """`ADDRESS:PORT` of the servers that new clients are sent to."""
        return re.findall(r"^\s*Alternate server: (\S+)\s*$", await self.run("pc"), re.MULTILINE)

    async def run(self, command: str) -> str:
        """The answer to one command; ValueError for one that must not be sent."""
        if not _COMMAND.match(command):
            raise ValueError("not a command of ours")
        async with self._lock:
            reader, writer = await self._connected()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    writer.write(command.encode() + b"\r\n")
                    await writer.drain()
                    return (await _until(reader, _PROMPT)).decode("utf-8", "replace")
            except (OSError, EOFError, TimeoutError) as flaw:
                self._drop()
                raise ControlLost("coturn's console does not answer") from flaw
            except BaseException:
                self._drop()  # a cancelled command's answer must not be read as the next one's
                raise

    async def close(self) -> None:
        """Ends the connection."""
        async with self._lock:
            self._drop()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self.is_connected:
            return self._streams
        self._drop()
        try:
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection(*self._address)
                self._streams = reader, writer
                banner = await _until(reader, _ASKS_PASSWORD)
                self.version = parse_version(banner.decode("ascii", "replace"))
                writer.write(self._password.encode() + b"\r\n")
                answer = await _until(reader, _PROMPT, _ASKS_PASSWORD)
        except (OSError, EOFError, TimeoutError) as flaw:
            self._drop()
            raise ControlLost("coturn's console cannot be reached") from flaw
        except BaseException:
            self._drop()
            raise
        if answer.endswith(_ASKS_PASSWORD):
            self._drop()
            raise ControlLost("coturn's console refuses the password")
        return reader, writer

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _until(reader: asyncio.StreamReader, *ends: bytes) -> bytes:
    got = bytearray()
    while not got.endswith(ends):
        chunk = await reader.read(65_536)
        if not chunk or len(got) > MAX_ANSWER:
            raise EOFError
        got += chunk
    return bytes(got)


def parse_sessions(text: str) -> Iterator[ListedSession]:
    """The blocks of a `ps`; what has another form is left out."""
    found: dict[str, str | int] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            if found:
                yield ListedSession(**found)  # type: ignore[arg-type]
            found = {"session": head[1], "username": head[2]}
        elif not found:
            continue
        elif started := _STARTED.match(line):
            found["age_s"] = int(started[1])
        elif client := _CLIENT.match(line):
            found["transport"] = client[1].lower()
        elif address := _ADDRESS.match(line):
            found["client"] = address[1].strip("[]")
    if found:
        yield ListedSession(**found)  # type: ignore[arg-type]
