"""aiortc without transcoding: received media is counted, and sent back as it came.

aiortc has no public way around its decoders, so this module puts one in their place that hands the
encoded frame on (aiortc's sender packs `av.Packet` unchanged). It holds for the whole process: the
server of this deployment decodes nothing. It does not know sessions or bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, rtcrtpreceiver
from aiortc.codecs import CODECS, HEADER_EXTENSIONS, is_rtx
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpHeaderExtensionParameters
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtcrtpsender import RTP_HISTORY_SIZE
from aiortc.rtp import RtpPacket

from probes.frame_buffer import SoundFrames, VideoFrames
from probes.messages import TrackFigures
from probes.transport_feedback import EXTENSION_URI, ArrivalLog

_MAX_WAITING = 64
"""Frames of a track that its sender has not taken yet; what comes on top is dropped."""
CLOSE_S = 2.0
_MAX_STREAMS = 4
"""Of one track: simulcast and a restart."""
_TRANSPORT_CC = RTCRtcpFeedback(type="transport-cc")
_TRANSPORT_SEQUENCE = RTCRtpHeaderExtensionParameters(id=5, uri=EXTENSION_URI)


class _PassOn:
    """A decoder that does not decode."""

    def __init__(self, clock_rate: int) -> None:
        self._time_base = Fraction(1, clock_rate)

    def decode(self, encoded_frame: Any) -> list[av.Packet]:
        packet = av.Packet(bytes(encoded_frame.data))
        packet.pts = encoded_frame.timestamp
        packet.time_base = self._time_base
        return [packet]


def install() -> None:
    """Let every receiver of this process hand on encoded frames; repeating it changes nothing.

    Video is negotiated with transport-wide feedback, which `receive` then gives.
    """
    rtcrtpreceiver.get_decoder = lambda codec: _PassOn(codec.clockRate)
    if _TRANSPORT_SEQUENCE in HEADER_EXTENSIONS["video"]:
        return
    HEADER_EXTENSIONS["video"].append(_TRANSPORT_SEQUENCE)
    for codec in CODECS["video"]:
        if codec.rtcpFeedback:
            codec.rtcpFeedback.append(_TRANSPORT_CC)


@dataclass(slots=True)
class Received:
    """What came on one track, counted as it came: what was sent again is no arrival."""

    receiver: RTCRtpReceiver
    kind: str
    bytes: int = 0
    """Of payloads."""
    frames: int = 0
    streams: dict[int, StreamStatistics] = field(default_factory=dict)
    """By SSRC."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def clock_rate(self) -> int:
        return 48_000 if self.kind == "audio" else 90_000

    def add(self, packet: RtpPacket) -> None:
        """A packet that was not sent again."""
        stream = self.streams.get(packet.ssrc)
        if stream is None:
            if len(self.streams) >= _MAX_STREAMS:
                return
            stream = self.streams[packet.ssrc] = StreamStatistics(self.clock_rate)
        stream.add(packet)
        self.bytes += len(packet.payload)

    def figures(self) -> TrackFigures:
        """Packets, loss and jitter as RFC 3550 counts them."""
        streams = self.streams.values()
        jitter = max((stream.jitter for stream in streams), default=0)
        return TrackFigures(
            kind="audio" if self.kind == "audio" else "video",
            packets=sum(stream.packets_received for stream in streams),
            lost=sum(max(stream.packets_lost, 0) for stream in streams),
            bytes=self.bytes,
            jitter_ms=round(1000 * jitter / self.clock_rate, 2),
            frames=self.frames,
        )


class EchoTrack(MediaStreamTrack):  # type: ignore[misc]  # aiortc has no types here
    """Sends what `receive` puts in; bounded, and drops the newest when the sender is behind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._frames: asyncio.Queue[av.Packet] = asyncio.Queue(_MAX_WAITING)

    def put(self, packet: av.Packet) -> None:
        if not self._frames.full():
            self._frames.put_nowait(packet)

    async def recv(self) -> av.Packet:
        return await self._frames.get()


def receive(pc: RTCPeerConnection, track: MediaStreamTrack, *, echo: bool) -> Received:
    """Count what comes on a track until it ends, and send its frames back if `echo`.

    Call it when the track appears, before the answer is made.
    """
    transceiver = next(one for one in pc.getTransceivers() if one.receiver.track is track)
    received = Received(transceiver.receiver, track.kind)
    _watch_packets(received)
    back = None
    if echo:
        back = EchoTrack(track.kind)
        sender = pc.addTrack(back)
        send_again_once(sender)
        _pass_picture_loss_on(sender, transceiver.receiver)
    task = asyncio.ensure_future(_count(track, received, back))
    received.tasks.add(task)
    task.add_done_callback(received.tasks.discard)
    return received


def send_again_once(sender: RTCRtpSender) -> None:
    """A lost packet is sent again once: aiortc asks for all that is missing with every new gap, and
    would fill a thin link with answers."""
    send_again = sender._retransmit  # noqa: SLF001
    done: deque[int] = deque(maxlen=2 * RTP_HISTORY_SIZE)

    async def once(sequence_number: int) -> None:
        if sequence_number not in done:
            done.append(sequence_number)
            await send_again(sequence_number)

    sender._retransmit = once  # noqa: SLF001


def packets_received(pc: RTCPeerConnection) -> int:
    """Of every transport, DTLS and what it protects; connectivity checks do not count."""
    ends = [one.receiver for one in pc.getTransceivers()] + ([pc.sctp] if pc.sctp else [])
    # aiortc gives no number that is as cheap as this.
    transports = {end.transport for end in ends}
    return sum(one._RTCDtlsTransport__rx_packets for one in transports)  # noqa: SLF001


async def close(pc: RTCPeerConnection) -> None:
    """Closes a connection; aioice would wait a minute for a relay that is gone."""
    for transceiver in pc.getTransceivers():
        # Their threads end here, however long the rest takes.
        await transceiver.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await pc.close()


async def _count(track: MediaStreamTrack, received: Received, back: EchoTrack | None) -> None:
    while True:
        try:
            packet = await track.recv()
        except MediaStreamError:
            return
        received.frames += 1
        if back is not None:
            back.put(packet)


def _pass_picture_loss_on(sender: RTCRtpSender, receiver: RTCRtpReceiver) -> None:
    """Only the browser's encoder can make a key frame, so a request for one goes to it."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        for source in receiver.getSynchronizationSources():
            # aiortc has no public way to send a picture loss indication.
            loop.create_task(receiver._send_rtcp_pli(source.source))  # noqa: RUF006, SLF001

    sender._send_keyframe = ask  # noqa: SLF001


def _watch_packets(received: Received) -> None:
    """Count packets, and tell a video sender that numbers them when they came; REMB to any other.

    aiortc has no transport-wide feedback, its statistics of a repaired stream are those of the
    repairs, and it has no public way to see a packet.
    """
    receiver, kind = received.receiver, received.kind
    handle, log = receiver._handle_rtp_packet, ArrivalLog()  # noqa: SLF001
    frames = SoundFrames() if kind == "audio" else VideoFrames()
    receiver._RTCRtpReceiver__jitter_buffer = frames  # noqa: SLF001

    async def watched(packet: RtpPacket, arrival_time_ms: int) -> None:
        codec = receiver._RTCRtpReceiver__codecs.get(packet.payload_type)  # noqa: SLF001
        if codec is not None and not is_rtx(codec):
            received.add(packet)
        if kind == "video":
            await _report_arrival(receiver, log, packet)
        await handle(packet, arrival_time_ms=arrival_time_ms)

    receiver._handle_rtp_packet = watched  # noqa: SLF001


async def _report_arrival(receiver: RTCRtpReceiver, log: ArrivalLog, packet: RtpPacket) -> None:
    sequence = packet.extensions.transport_sequence_number
    if sequence is None:
        return
    receiver._RTCRtpReceiver__remote_bitrate_estimator = None  # noqa: SLF001
    now = asyncio.get_running_loop().time()
    log.add(sequence, now)
    if log.is_due(now):
        feedback = log.feedback(1, packet.ssrc, now)
        with contextlib.suppress(ConnectionError):
            await receiver.transport._send_rtp(feedback)  # noqa: SLF001
