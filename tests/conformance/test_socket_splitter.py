"""The pure parts: frame splitting against the library's own parser, and the timing wheel."""

from __future__ import annotations

from itertools import pairwise

import pytest
from conformance.socket_wire import masked
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from signal_server.edge.framing import BUDGET_SPENT, close_payload, head, split
from signal_server.edge.wheel import SLOTS, Wheel

LIMIT = 70_000

messages = st.lists(
    st.tuples(
        st.sampled_from([0x81, 0x81, 0x89, 0x8A, 0x01, 0x00, 0x80, 0x82]),
        st.one_of(
            st.text(max_size=40).map(str.encode),
            st.integers(120, 130).map(lambda n: b"n" * n),
            st.sampled_from([b"\xff", b"", b"w" * 65535, b"w" * 65536]),
        ),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=12,
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(marks)]


def feed(stream: bytes, cuts: list[int], budget: int) -> list[str | bytes]:
    """Split as a Socket does: keep the rest, and wait until the announced length is there."""
    frames: list[str | bytes] = []
    rest, need = b"", 2
    for piece in pieces(stream, cuts):
        rest += piece
        if len(rest) < need:
            continue
        need = BUDGET_SPENT
        position = 0
        while need == BUDGET_SPENT:
            found, position, need = split(rest, position, budget, LIMIT)
            assert len(found) <= budget
            frames += found
        rest = rest[position:]
        assert need > len(rest)
    return frames


@given(messages, st.lists(st.integers(0, 1 << 20), max_size=30), st.integers(1, 16))
def test_any_chunking_gives_the_same_frames(
    parts: list[tuple[int, bytes, bytes]], cuts: list[int], budget: int
) -> None:
    raw = [masked(first, payload, mask) for first, payload, mask in parts]
    expected: list[str | bytes] = []
    for frame, (first, payload, _) in zip(raw, parts, strict=True):
        try:
            expected.append(payload.decode() if first == 0x81 else frame)
        except UnicodeDecodeError:
            expected.append(frame)
    assert feed(b"".join(raw), cuts, budget) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10), st.integers(1, 16))
def test_random_bytes_give_what_the_library_makes_of_them(
    noise: bytes, cuts: list[int], budget: int
) -> None:
    """Feeding the split frames ends the library in the same state as feeding the raw stream."""
    whole = Protocol(Side.SERVER, max_size=LIMIT)
    whole.receive_data(noise)
    split_up = Protocol(Side.SERVER, max_size=LIMIT)
    for frame in feed(noise, cuts, budget):
        if split_up.close_sent is None:
            raw = masked(0x81, frame.encode()) if isinstance(frame, str) else frame
            split_up.receive_data(raw)
    assert _events(whole) == _events(split_up)
    if whole.close_sent is None or split_up.close_sent is not None:
        assert whole.close_sent == split_up.close_sent


def _events(library: Protocol) -> list[tuple[Opcode, bytes]]:
    frames = (event for event in library.events_received() if isinstance(event, Frame))
    return [(frame.opcode, bytes(frame.data)) for frame in frames]


def test_an_unmasked_frame_ends_the_stream_at_its_header() -> None:
    assert split(masked(0x81, b"a") + b"\x81\x02hi", 0, 16, LIMIT) == (["a", b"\x81\x02"], 11, 2)


def test_an_oversized_frame_ends_the_stream_at_its_header() -> None:
    data = b"\x81\xff" + (LIMIT + 1).to_bytes(8, "big") + b"\0\0\0\0abc"
    assert split(data, 0, 16, LIMIT) == ([data[:10]], len(data), 2)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1 << 20])
def test_server_headers_are_minimal_and_unmasked(size: int) -> None:
    client = Protocol(Side.CLIENT, max_size=None)
    client.receive_data(head(0x81, size) + b"x" * size)
    (event,) = client.events_received()
    assert isinstance(event, Frame)
    assert len(event.data) == size
    minimal = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(head(0x81, size)) == minimal


@given(st.integers(1000, 4999), st.text(max_size=200))
def test_close_reasons_fit_a_control_frame(code: int, reason: str) -> None:
    try:
        reason.encode()
    except UnicodeEncodeError:
        return
    payload = close_payload(code, reason)
    assert len(payload) <= 125
    assert int.from_bytes(payload[:2], "big") == code
    assert reason.startswith(payload[2:].decode())


class Waiting:
    def __init__(self) -> None:
        self.slot = -1

        self.calls = 0

    def due(self) -> None:
        self.calls += 1


def run(wheel: Wheel, ticks: int) -> list[tuple[int, Waiting]]:
    seen: list[tuple[int, Waiting]] = []
    for _ in range(ticks):
        due = wheel.advance()
        seen += [(wheel.now, entry) for entry in due if isinstance(entry, Waiting)]
    return seen


@given(st.lists(st.integers(1, SLOTS - 1), max_size=20), st.integers(0, 2000))
def test_entries_are_due_exactly_when_asked(waits: list[int], start: int) -> None:
    wheel = Wheel(1.0)
    run(wheel, start)
    entries = {wait: Waiting() for wait in waits}
    for wait, entry in entries.items():
        wheel.put(entry, wait)
    assert wheel.size == len(entries)
    assert run(wheel, SLOTS) == [(start + wait, entries[wait]) for wait in sorted(entries)]
    assert wheel.size == 0


def test_an_entry_waits_for_one_thing_only() -> None:
    wheel = Wheel(1.0)
    entry, removed = Waiting(), Waiting()
    wheel.put(entry, 2)
    wheel.put(entry, 5)
    wheel.put(removed, 3)
    wheel.remove(removed)
    wheel.remove(removed)
    assert wheel.size == 1
    assert run(wheel, 10) == [(5, entry)]


def test_an_entry_that_is_due_may_still_be_put_off() -> None:
    wheel = Wheel(1.0)
    called, removed, put_off = Waiting(), Waiting(), Waiting()
    for entry in (called, removed, put_off):
        wheel.put(entry, 1)
    due = wheel.advance()
    wheel.remove(removed)
    wheel.put(put_off, 3)
    for entry_due in due:
        wheel.call(entry_due)
        wheel.call(entry_due)
    assert [called.calls, removed.calls, put_off.calls] == [1, 0, 0]
    assert run(wheel, 5) == [(4, put_off)]
    assert wheel.size == 0


@given(st.lists(st.floats(0.05, 3600), min_size=1, max_size=4))
def test_every_wait_it_was_made_for_fits_the_wheel(waits: list[float]) -> None:
    wheel = Wheel(*waits)
    for wait in waits:
        ticks = wheel.ticks(wait)
        assert ticks < SLOTS
        assert wait <= ticks * wheel.tick_s + 1e-9
