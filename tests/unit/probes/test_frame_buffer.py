"""Packets become frames in order, and a loss costs a moment: never the rest of the call."""

from __future__ import annotations

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from probes.frame_buffer import MOST_PACKETS, WAIT_TICKS, SoundFrames, VideoFrames

FRAME_TICKS = 3000
FIRST_SEQUENCE, FIRST_TIMESTAMP = 0xFFF0, 0xFFFF_F000
"""Both wrap soon."""


def packet(number: int, frame: int, *, is_last: bool) -> RtpPacket:
    made = RtpPacket(
        sequence_number=(FIRST_SEQUENCE + number) & 0xFFFF,
        timestamp=(FIRST_TIMESTAMP + frame * FRAME_TICKS) & 0xFFFF_FFFF,
        marker=int(is_last),
    )
    made._data = b"%d." % number
    return made


def stream(sizes: list[int]) -> list[RtpPacket]:
    """Frames of so many packets."""
    packets: list[RtpPacket] = []
    for frame, size in enumerate(sizes):
        for place in range(size):
            packets.append(packet(len(packets), frame, is_last=place == size - 1))
    return packets


def frames(buffer: VideoFrames, packets: list[RtpPacket]) -> list[JitterFrame]:
    return [frame for one in packets if (frame := buffer.add(one)[1]) is not None]


def data_of(sizes: list[int]) -> list[bytes]:
    packets = iter(stream(sizes))
    return [b"".join(next(packets)._data for _ in range(size)) for size in sizes]


def test_whole_frames_come_at_their_last_packet() -> None:
    sizes = [1, 3, 2, 40]
    found = frames(VideoFrames(), stream(sizes))
    assert [frame.data for frame in found] == data_of(sizes)
    assert found[1].timestamp == (FIRST_TIMESTAMP + FRAME_TICKS) & 0xFFFF_FFFF


def test_a_packet_that_is_sent_again_mends_its_frame() -> None:
    packets = stream([2, 2, 2])
    late = packets.pop(2)
    buffer = VideoFrames()
    assert len(frames(buffer, packets)) == 1
    is_lost, frame = buffer.add(late)
    assert not is_lost
    assert frame is not None
    assert frame.data == data_of([2, 2, 2])[1]


def test_after_a_wait_the_broken_frame_is_given_up() -> None:
    packets = stream([2] * 20)
    del packets[3]
    buffer = VideoFrames()
    answers = [buffer.add(one) for one in packets]
    lost = [place for place, (is_lost, _) in enumerate(answers) if is_lost]
    assert len(lost) == 1
    waited = packets[lost[0]].timestamp - packets[2].timestamp
    assert WAIT_TICKS < waited % 2**32 <= WAIT_TICKS + FRAME_TICKS
    expected = data_of([2] * 20)
    assert [frame.data for _, frame in answers if frame] == [expected[0], *expected[2:]]


def test_what_comes_too_late_is_dropped() -> None:
    packets = stream([1] * 20)
    late = packets.pop(1)
    buffer = VideoFrames()
    frames(buffer, packets)
    assert buffer.add(late) == (False, None)


def test_far_ahead_begins_anew() -> None:
    buffer = VideoFrames()
    buffer.add(packet(0, 0, is_last=True))
    is_lost, frame = buffer.add(packet(1 + MOST_PACKETS, 1, is_last=True))
    assert is_lost
    assert frame is not None


def test_frames_without_an_end_do_not_pile_up() -> None:
    buffer = VideoFrames()
    for number in range(3 * MOST_PACKETS):
        buffer.add(packet(number, number, is_last=False))
        assert len(buffer._held) <= WAIT_TICKS // FRAME_TICKS + 2


def test_padding_before_a_frame_is_no_part_of_it() -> None:
    first, padding, second = (
        packet(place, frame, is_last=end)
        for place, (frame, end) in enumerate([(0, True), (0, False), (1, True)])
    )
    found = frames(VideoFrames(), [first, padding, second])
    assert [(frame.data, frame.timestamp) for frame in found] == [
        (b"0.", first.timestamp), (b"2.", second.timestamp),
    ]  # fmt: skip


def test_sound_waits_for_nothing() -> None:
    buffer = SoundFrames()
    for one in (packet(5, 5, is_last=False), packet(2, 2, is_last=False)):
        is_lost, frame = buffer.add(one)
        assert not is_lost
        assert frame is not None
        assert frame.timestamp == one.timestamp


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=60),
    lost=st.sets(st.integers(0, 300)),
    swaps=st.lists(st.integers(0, 298), max_size=20),
)
def test_any_loss_and_disorder(sizes: list[int], lost: set[int], swaps: list[int]) -> None:
    packets = stream(sizes)
    for place in swaps:
        if 0 < place < len(packets) - 1:
            packets[place : place + 2] = reversed(packets[place : place + 2])
    came = [one for place, one in enumerate(packets) if place not in lost]
    clean = stream([*sizes, *[1] * 30])[len(packets) :]
    buffer = VideoFrames()
    found = frames(buffer, came + clean)
    numbers = [[int(one) for one in frame.data.split(b".")[:-1]] for frame in found]
    flat = [number for frame in numbers for number in frame]
    assert flat == sorted(set(flat)), "in order, and nothing twice"
    assert all(frame == list(range(frame[0], frame[-1] + 1)) for frame in numbers)
    if not lost & set(range(len(packets))):
        assert [frame.data for frame in found][: len(sizes)] == data_of(sizes)
    last = len(packets) + len(clean) - 1
    # A packet brings one frame at most, so that frames of one packet stay behind by the wait.
    assert last - flat[-1] == len(buffer._held) <= WAIT_TICKS // FRAME_TICKS + 1
