"""aiortc without transcoding: received media is counted, and sent back as it came.

aiortc has no public way around its decoders, so this module puts one in their place that hands the
encoded frame on (aiortc's sender packs `av.Packet` unchanged). It holds for the whole process: the
server of this deployment decodes nothing. It does not know sessions or bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, rtcrtpreceiver
from aiortc.codecs import CODECS, HEADER_EXTENSIONS
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpHeaderExtensionParameters

from probes.messages import TrackFigures
from probes.transport_feedback import EXTENSION_URI, ArrivalLog

_MAX_WAITING = 64
"""Frames of a track that its sender has not taken yet; what comes on top is dropped."""
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
    """What came on one track."""

    receiver: RTCRtpReceiver
    kind: str
    bytes: int = 0
    frames: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def figures(self) -> TrackFigures:
        """Packets, loss and jitter as the receiver reports them in RTCP."""
        packets = lost = 0
        jitter_ms = 0.0
        for stats in (await self.receiver.getStats()).values():
            if stats.type != "inbound-rtp":
                continue
            packets += stats.packetsReceived
            lost += max(stats.packetsLost, 0)
            clock_rate = 48_000 if self.kind == "audio" else 90_000
            jitter_ms = max(jitter_ms, 1000 * stats.jitter / clock_rate)
        return TrackFigures(
            kind="audio" if self.kind == "audio" else "video",
            packets=packets,
            lost=lost,
            bytes=self.bytes,
            jitter_ms=round(jitter_ms, 2),
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
    """Count a track's frames until it ends, and send them back if `echo`.

    Call it when the track appears, before the answer is made.
    """
    transceiver = next(one for one in pc.getTransceivers() if one.receiver.track is track)
    received = Received(transceiver.receiver, track.kind)
    if track.kind == "video":
        _report_arrivals(transceiver.receiver)
    back = None
    if echo:
        back = EchoTrack(track.kind)
        sender = pc.addTrack(back)
        _pass_picture_loss_on(sender, transceiver.receiver)
    task = asyncio.ensure_future(_count(track, received, back))
    received.tasks.add(task)
    task.add_done_callback(received.tasks.discard)
    return received


async def _count(track: MediaStreamTrack, received: Received, back: EchoTrack | None) -> None:
    while True:
        try:
            packet = await track.recv()
        except MediaStreamError:
            return
        received.frames += 1
        received.bytes += packet.size
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


def _report_arrivals(receiver: RTCRtpReceiver) -> None:
    """Transport-wide feedback to a sender that numbers its packets; REMB to any other.

    aiortc has no such feedback, and no public way to see a packet.
    """
    loop = asyncio.get_running_loop()
    log = ArrivalLog()
    handle = receiver._handle_rtp_packet  # noqa: SLF001

    async def reported(packet: Any, arrival_time_ms: int) -> None:
        sequence = packet.extensions.transport_sequence_number
        if sequence is not None:
            receiver._RTCRtpReceiver__remote_bitrate_estimator = None  # noqa: SLF001
            now = loop.time()
            log.add(sequence, now)
            if log.is_due(now):
                feedback = log.feedback(1, packet.ssrc, now)
                with contextlib.suppress(ConnectionError):
                    await receiver.transport._send_rtp(feedback)  # noqa: SLF001
        await handle(packet, arrival_time_ms=arrival_time_ms)

    receiver._handle_rtp_packet = reported  # noqa: SLF001
