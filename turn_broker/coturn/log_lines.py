"""coturn's verbose log, line by line.

Pure. Knows 4.6.1 and the prefixes of later versions (thread number, level, ISO time). coturn
writes a user name that it refuses as it came, newlines and all, so anybody can put whole lines
into the log: what follows such an error within the longest user name is not to be believed.
Elsewhere a user name has no blanks, so it cannot end a field.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_LINE = 8192
DOUBT_BYTES = 600
"""coturn takes user names of up to 512 bytes, and shorter ORIGINs."""

_SESSION = re.compile(
    rb"(?:\d{1,12}|\d{4}-\d\d-\d\dT[0-9:.,+Z-]{5,32})"  # seconds since the start, or ISO 8601
    rb":? ?(?:\(\d+\))?: ?(?:\(\d+\): ?)?(?:: )?(?:INFO: )?"
    rb"session (\d{1,20}): (.*)\Z"
)
_NEW = re.compile(rb"new, realm=<[^ <>]*>, username=<([^ ]*)>, lifetime=\d+(?:, [ -~]*)?\Z")
_PEER_USAGE = re.compile(
    rb"peer usage: realm=<[^ <>]*>, username=<[^ ]*>, "
    rb"rp=\d+, rb=(\d{1,19}), sp=\d+, sb=(\d{1,19})\Z"
)
_DELETE = re.compile(rb"delete: realm=<[^ <>]*>, username=<[^ ]*>\Z")
_SUSPECT = re.compile(rb"wrong username|check_stun_auth|origin <[^>]")


class LoggedOpen(Struct, frozen=True):
    """An allocation was made."""

    session: str
    username: str


class LoggedUse(Struct, frozen=True):
    """Payload since the last such line."""

    session: str
    sent_bytes: int
    """From the client."""
    received_bytes: int


class LoggedEnd(Struct, frozen=True):
    """A session is gone."""

    session: str


LogRecord = LoggedOpen | LoggedUse | LoggedEnd


class LogReader:
    """Bytes of the log in, records with their credibility out."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_skipping = False
        self._doubt = 0
        self.doubted = 0
        """Records that were read where anybody could have written them."""

    def feed(self, chunk: bytes) -> list[tuple[LogRecord, bool]]:
        """The records in whole lines, and whether each can be believed."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        found: list[tuple[LogRecord, bool]] = []
        if self._is_skipping and lines:
            self._is_skipping = False
            del lines[0]
        for line in lines:
            self._doubt -= len(line) + 1
            record = parse_line(line)
            if record is not None:
                believed = self._doubt <= 0
                self.doubted += not believed
                found.append((record, believed))
            if _SUSPECT.search(line):
                self._doubt = DOUBT_BYTES
        if len(rest) > MAX_LINE:
            rest, self._is_skipping = b"", True
        self._rest = rest
        return found

    def restart(self) -> None:
        """The log begins anew: half a line of the former is nothing."""
        self._rest = b""
        self._is_skipping = False


def parse_line(line: bytes) -> LogRecord | None:
    """What a line (without its end) says of a session's life; None for all others."""
    match = _SESSION.match(line)
    if match is None:
        return None
    session, text = match[1].decode(), match[2]
    if opened := _NEW.match(text):
        return LoggedOpen(session, opened[1].decode("utf-8", "replace"))
    if used := _PEER_USAGE.match(text):
        return LoggedUse(session, sent_bytes=int(used[2]), received_bytes=int(used[1]))
    return LoggedEnd(session) if _DELETE.match(text) else None
