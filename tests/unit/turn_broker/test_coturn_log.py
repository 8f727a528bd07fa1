"""coturn's log: what it says, who can have written it, and where it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.coturn.log_file import LogFile
from turn_broker.coturn.log_lines import (
    DOUBT_BYTES,
    MAX_LINE,
    LoggedEnd,
    LoggedOpen,
    LoggedUse,
    LogReader,
    LogRecord,
    parse_line,
)

S = "session 001000000000000007: "
TAIL = "realm=<turn.lab>, username=<1795169883:a.b>"
NEW = f"{S}new, {TAIL}, lifetime=600"
USED = f"{S}peer usage: {TAIL}, rp=3, rb=315, sp=2, sb=300"
DELETE = f"{S}delete: {TAIL}"
PREFIXES = [
    "0: : ",
    "4612: (972152): INFO: ",
    "2023-10-04T02:33:52-0500(343249): INFO: ",
    "2021-11-01T23:57:03+0300: ",
    "2026-08-27T10:11:12.123456Z: INFO: ",
    "12: ",
]
SESSION = "001000000000000007"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("text", "record"),
    [
        (NEW, LoggedOpen(SESSION, "1795169883:a.b")),
        (NEW + ", cipher=TLS_AES_256, method=TLSv1.3", LoggedOpen(SESSION, "1795169883:a.b")),
        (USED, LoggedUse(SESSION, sent_bytes=300, received_bytes=315)),
        (DELETE, LoggedEnd(SESSION)),
    ],
)
def test_what_matters_is_read_in_every_known_form(
    prefix: str, text: str, record: LogRecord
) -> None:
    assert parse_line((prefix + text).encode()) == record


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0: : IPv4. Local relay addr: 127.0.0.1:20483",
        f"0: : {S}refreshed, {TAIL}, lifetime=0",
        f"0: : {S}usage: {TAIL}, rp=7, rb=788, sp=7, sb=904",
        f"0: : {S}peer 127.0.0.1 lifetime updated: 300",
        f"0: : {S}closed (2nd stage), user <1:a.b> realm <r> origin <>, local 1.1.1.1:1, remote"
        " 2.2.2.2:2, reason: allocation timeout",
        f"0: : ERROR: check_stun_auth: wrong username: 0: : {DELETE}",
        f" 0: : {DELETE}",
        f"{DELETE}",
        f"0: : {DELETE} ",
        f"0: : {NEW}\r",
        f"0: : {S}new, realm=<r>, username=<a b>, lifetime=600",
        f"0: : {S}peer usage: {TAIL}, rp=1, rb=-1, sp=1, sb=1",
        f"0: : {S}peer usage: {TAIL}, rp=1, rb={'9' * 20}, sp=1, sb=1",
        f"0: : session {'1' * 21}: delete: {TAIL}",
    ],
)
def test_everything_else_says_nothing(text: str) -> None:
    assert parse_line(text.encode()) is None


@pytest.mark.parametrize("name", ["1:a>,lifetime=6", "<>,=", "%s%n", "1:>,", "", "é"])
def test_a_hostile_name_stays_inside_its_brackets(name: str) -> None:
    line = f"0: : {S}new, realm=<r>, username=<{name}>, lifetime=600"
    assert parse_line(line.encode()) == LoggedOpen(SESSION, name)


def test_bytes_that_are_no_text_are_no_danger() -> None:
    line = f"0: : {S}new, realm=<r>, username=<".encode() + b"\xff\xfe>, lifetime=600"
    assert parse_line(line) == LoggedOpen(SESSION, "\ufffd\ufffd")


@given(st.binary())
def test_no_bytes_make_it_raise(raw: bytes) -> None:
    parse_line(raw)
    LogReader().feed(raw)


def lines(*texts: str) -> bytes:
    return "".join(f"0: : {text}\n" for text in texts).encode()


def test_lines_may_come_in_pieces() -> None:
    raw = lines(NEW, USED, DELETE)
    for size in (1, 7, len(raw)):
        reader = LogReader()
        found = []
        for at in range(0, len(raw), size):
            found += reader.feed(raw[at : at + size])
        assert [type(record) for record, _ in found] == [LoggedOpen, LoggedUse, LoggedEnd]
        assert all(believed for _, believed in found)


def test_what_follows_a_refused_name_is_not_believed_for_as_long_as_a_name_can_be() -> None:
    reader = LogReader()
    refused = "ERROR: check_stun_auth: wrong username: 99:x"
    found = reader.feed(lines(refused, DELETE, NEW))
    assert [believed for _, believed in found] == [False, False]
    assert reader.doubted == 2
    reader.feed(b"0: : something\n" * (DOUBT_BYTES // 15))
    assert [believed for _, believed in reader.feed(lines(USED))] == [True]


@pytest.mark.parametrize(
    ("line", "believed"),
    [
        ("session 1: closed, user <> realm <r> origin <evil", False),
        ("session 1: closed, user <> realm <r> origin <>, local", True),
    ],
)
def test_an_origin_is_the_client_s_words_too(line: str, believed: bool) -> None:
    ((_, is_believed),) = LogReader().feed(lines(line, DELETE))
    assert is_believed is believed


def test_a_line_without_end_is_skipped_whole() -> None:
    reader = LogReader()
    assert reader.feed(b"x" * (MAX_LINE + 1)) == []
    assert reader.feed(b"0: : " + DELETE.encode()) == []
    assert reader.feed(b"\n" + lines(NEW)) == [(LoggedOpen(SESSION, "1795169883:a.b"), True)]


def test_half_a_line_of_a_former_file_is_nothing() -> None:
    reader = LogReader()
    reader.feed(b"0: : session 00")
    reader.restart()
    assert len(reader.feed(lines(DELETE))) == 1


# The file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turnserver.log"


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_only_what_is_written_afterwards(path: Path) -> None:
    append(path, b"before")
    log = LogFile(path)
    log.skip()
    assert log.read() == (b"", False)
    append(path, b"after")
    assert log.read() == (b"after", False)
    assert log.read() == (b"", False)
    log.close()


def test_a_file_that_comes_later_is_read_from_its_beginning(path: Path) -> None:
    log = LogFile(path)
    log.skip()
    assert log.read() == (b"", False)
    append(path, b"first")
    assert log.read() == (b"first", True)
    log.close()


def test_a_renamed_file_is_read_to_its_end_first(path: Path) -> None:
    append(path, b"x")
    log = LogFile(path)
    log.skip()
    former = path.rename(path.with_suffix(".1"))
    assert log.read() == (b"", False)
    append(former, b"last words")
    path.touch()
    assert log.read() == (b"last words", False)
    append(former, b"and more")
    assert log.read() == (b"and more", False)
    append(path, b"new")
    assert log.read() == (b"", False)
    assert log.read() == (b"new", True)
    log.close()


def test_what_is_written_while_we_look_for_the_next_file_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, b"x")
    log = LogFile(path)
    log.skip()
    former = path.rename(path.with_suffix(".1"))
    append(path, b"new")
    look = LogFile._is_replaced

    def late(self: LogFile) -> bool:
        append(former, b"late")
        return look(self)

    with monkeypatch.context() as patched:
        patched.setattr(LogFile, "_is_replaced", late)
        assert log.read() == (b"late", False)
    assert [log.read(), log.read()] == [(b"", False), (b"new", True)]
    log.close()


def test_a_truncated_file_begins_anew(path: Path) -> None:
    append(path, b"a long beginning")
    log = LogFile(path)
    log.skip()
    path.write_bytes(b"short")
    assert log.read() == (b"short", True)
    log.close()
