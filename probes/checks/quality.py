"""How good would a call be: sound and picture to the deployment's peer and back, second by second.

Loss on the way there is the server's count, loss on the way back ours. The verdict is of the worse
way, because a call needs both.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx
import msgspec
from aiortc import RTCDataChannel
from msgspec import Struct

from probes import aiortc_media, mos, recommend
from probes.checks import far_peer
from probes.checks.api import Api
from probes.checks.outcome import WORDS
from probes.checks.synthetic import Picture, Sound
from probes.messages import PeerFigures
from probes.pacing import LONG_QUEUE_MS, Pace
from probes.reasons import Reason, State
from probes.samples import WINDOW_S, Rate, Sample, rate, window
from probes.verdict import CheckResult
from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri

DURATION_S = 12.0
_EVERY_S = 1.0
SETTLE_S = 2.0
"""Until the rate of the video suits the link; what is lost meanwhile is not judged."""
AGAIN_S = 5.0
"""For a call that is not good at the end to become so: a moment's trouble is not the network's."""
_PINGS_PER_S = 5
_BUSY = 0.1
"""Share of the time that a machine may keep this process waiting, before its delay and its loss say
more of the machine than of the network."""
_HD = (1280, 720)
_HIGH_DELAY_MS, _HIGH_LOSS = 300.0, 0.05
_SILENT_SECONDS = 2
_LITTLE_BPS = 600_000
"""Below it a picture is worth a warning."""


class Update(Struct, frozen=True, kw_only=True):
    """One second of a running check, for whoever watches."""

    elapsed_s: float
    audio_bps: float
    video_bps: float
    loss_ratio: float
    round_trip_ms: float


@dataclass(slots=True)
class _Track:
    """What is known of one track, there and back."""

    kind: str
    window_s: float
    there: list[Sample] = field(default_factory=list)
    back: list[Sample] = field(default_factory=list)

    def rate(self) -> Rate:
        """Of the last seconds; the loss of the worse way, the bitrate of what came back.

        The echo numbers what it sends anew, so that each way counts its own loss.
        """
        there, back = window(self.there, self.window_s), window(self.back, self.window_s)
        loss = max(there.loss_ratio, back.loss_ratio)
        return Rate(back.bitrate_bps, loss, back.frame_rate, back.packets)

    def last_loss(self) -> float | None:
        """Of the last second, both ways together; None before there is one."""
        if len(self.there) < 2 or len(self.back) < 2:
            return None
        there, back = rate(*self.there[-2:]), rate(*self.back[-2:])
        return 1 - (1 - there.loss_ratio) * (1 - back.loss_ratio)

    @property
    def has_stopped(self) -> bool:
        """Packets came, and for some seconds none came any more."""
        last = self.there[-1 - _SILENT_SECONDS :]
        return len(last) > _SILENT_SECONDS and 0 < last[0].packets == last[-1].packets


class QualityCheck:
    """Through one TURN URL; results are a `quality-audio` and a `quality-video`."""

    def __init__(
        self,
        api: Api,
        uri: TurnUri,
        credential: TurnCredential,
        *,
        duration_s: float = DURATION_S,
        on_update: Callable[[Update], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._api = api
        self._uri = uri
        self._credential = credential
        self._duration_s = duration_s
        self._on_update = on_update
        self._tls = tls
        self._pace = Pace()
        self._trips: list[float] = []
        self._elapsed_s = 0.0
        self._late_s = 0.0
        """How much later than it wanted this process was woken, in all."""
        window_s = min(WINDOW_S, duration_s - SETTLE_S)
        self._audio = _Track("audio", window_s)
        self._video = _Track("video", window_s)

    async def check(self) -> list[CheckResult]:
        aiortc_media.install()
        pc = far_peer.relayed_connection(self._uri, self._credential)
        picture = Picture(self._pace.rate_bps)
        for track in (Sound(), picture):
            aiortc_media.send_again_once(pc.addTrack(track))
        received: list[aiortc_media.Received] = []
        pc.on("track", lambda track: received.append(aiortc_media.receive(pc, track, echo=False)))
        try:
            connected = far_peer.connected(self._api, pc, "echo", self._tls)
            async with connected as (answer, channel):
                pinging = asyncio.ensure_future(self._ping(channel))
                try:
                    await self._watch(answer.id, picture, received)
                finally:
                    pinging.cancel()
                    await asyncio.wait({pinging})
        except far_peer.NoFarPeer as flaw:
            return _both(flaw.state, flaw.reason, str(flaw))
        except httpx.HTTPError:
            return _both(State.FAILED, Reason.SERVER_GONE, "the deployment stopped answering")
        except msgspec.DecodeError:
            text = "something else than Parley answers"
            return _both(State.FAILED, Reason.HTTP_STATUS, text)
        if self._late_s > _BUSY * self._elapsed_s:
            return _both(State.SKIPPED, Reason.TIMEOUT, "this machine is too busy to tell")
        if self._audio.has_stopped:
            return _both(State.FAILED, Reason.SERVER_GONE, "the relay stopped carrying anything")
        return [self._sound(), self._picture()]

    async def _watch(
        self, name: str, picture: Picture, received: list[aiortc_media.Received]
    ) -> None:
        began = time.monotonic()
        async for elapsed_s in _seconds(began, self._duration_s + AGAIN_S):
            figures = await self._far_figures(name)
            for track in (self._audio, self._video):
                for far in figures.tracks:
                    if far.kind == track.kind:
                        track.there.append(_sample(elapsed_s, far.bytes, far.packets, far.lost))
                for near in received:
                    if near.kind == track.kind:
                        seen = near.figures()
                        track.back.append(
                            _sample(elapsed_s, seen.bytes, seen.packets, seen.lost, seen.frames)
                        )
            self._adapt(picture)
            self._tell(elapsed_s)
            self._elapsed_s = elapsed_s
            if round(elapsed_s) >= self._duration_s and (self._is_good or self._audio.has_stopped):
                return

    @property
    def _is_good(self) -> bool:
        return all(one.state is State.PASSED for one in (self._sound(), self._picture()))

    def _adapt(self, picture: Picture) -> None:
        loss = self._video.last_loss()
        if loss is not None:
            self._pace = self._pace.next(loss, self._queue_ms(1))
            picture.rate_bps = self._pace.rate_bps

    def _tell(self, elapsed_s: float) -> None:
        if self._on_update is None:
            return
        audio, video = self._audio.rate(), self._video.rate()
        self._on_update(
            Update(
                elapsed_s=elapsed_s,
                audio_bps=audio.bitrate_bps,
                video_bps=video.bitrate_bps,
                loss_ratio=max(audio.loss_ratio, video.loss_ratio),
                round_trip_ms=self._round_trip_ms(),
            )
        )

    async def _far_figures(self, name: str) -> PeerFigures:
        response = await self._api.call("GET", f"/v1/probes/peers/{name}")
        if response.status_code != 200:
            raise far_peer.NoFarPeer(Reason.SERVER_GONE, "the deployment's peer has ended")
        return msgspec.json.decode(response.content, type=PeerFigures)

    async def _ping(self, channel: RTCDataChannel) -> None:
        sent_at: dict[str, float] = {}

        def came_back(message: str) -> None:
            at = sent_at.pop(message, None)
            if at is not None:
                self._trips.append(1000 * (time.monotonic() - at))

        channel.on("message", came_back)
        number = 0
        while channel.readyState == "open":
            number += 1
            sent_at[str(number)] = time.monotonic()
            channel.send(str(number))
            due = time.monotonic() + 1 / _PINGS_PER_S
            await asyncio.sleep(1 / _PINGS_PER_S)
            self._late_s += time.monotonic() - due

    def _round_trip_ms(self) -> float:
        recent = sorted(self._trips[-25:])
        return recent[len(recent) // 2] if recent else 0.0

    def _queue_ms(self, seconds: float) -> float:
        """How much longer a round trip took lately than the shortest one."""
        recent = sorted(self._trips[-int(seconds * _PINGS_PER_S) :])
        # A full queue delays every packet, a busy machine one now and then.
        return recent[len(recent) // 4] - min(self._trips) if recent else 0.0

    def _reason(self, state: State, found: Rate, trip_ms: float) -> Reason:
        """What is wrong with a link; loss and delay beside a queue are those of a full link."""
        if state is State.PASSED:
            return Reason.NONE
        if self._queue_ms(self._video.window_s) > LONG_QUEUE_MS:
            return Reason.BANDWIDTH_TOO_LOW
        if found.loss_ratio > _HIGH_LOSS:
            return Reason.HIGH_LOSS
        return Reason.HIGH_DELAY if trip_ms > _HIGH_DELAY_MS else Reason.BANDWIDTH_TOO_LOW

    def _sound(self) -> CheckResult:
        found, trip_ms = self._audio.rate(), self._round_trip_ms()
        delay_ms = trip_ms / 2 if self._trips else mos.ONE_WAY_DELAY_MS
        score = mos.audio_mos(found.loss_ratio, delay_ms) if found.packets else mos.WORST
        figures = _figures(found, score, trip_ms)
        state = State.FAILED if score < recommend.AUDIO_MIN_MOS else _grade(found, trip_ms)
        return _result("audio", state, self._reason(state, found, trip_ms), figures)

    def _picture(self) -> CheckResult:
        found, trip_ms = self._video.rate(), self._round_trip_ms()
        figures = _figures(found, mos.video_mos(found.bitrate_bps, *_HD), trip_ms)
        advised = recommend.by_received(found.bitrate_bps, found.loss_ratio)
        text = f"{advised.resolution} at {advised.frame_rate} frames/s"
        if advised.resolution is None:
            state, text = State.FAILED, ""
        elif found.bitrate_bps < _LITTLE_BPS:
            state = State.WARNING
        else:
            state = _grade(found, trip_ms)
        return _result("video", state, self._reason(state, found, trip_ms), figures, text)


def _both(state: State, reason: Reason, text: str) -> list[CheckResult]:
    return [_result(kind, state, reason, {}, text) for kind in ("audio", "video")]


async def _seconds(began: float, duration_s: float) -> AsyncIterator[float]:
    """Once a second from now to the end, without drifting."""
    number = 0
    while True:
        elapsed_s = time.monotonic() - began
        yield elapsed_s
        number += 1
        if number * _EVERY_S > duration_s:
            return
        await asyncio.sleep(max(0.0, began + number * _EVERY_S - time.monotonic()))


def _sample(at_s: float, octets: int, packets: int, lost: int, frames: int = 0) -> Sample:
    return Sample(at_s, octets, packets, lost, frames)


def _figures(found: Rate, score: float, trip_ms: float) -> dict[str, float]:
    # None came back: then it is not known.
    trip = {"round_trip_ms": round(trip_ms, 3)} if trip_ms else {}
    return {
        "mos": round(score, 2),
        "bitrate_kbps": round(found.bitrate_bps / 1000, 1),
        "loss_ratio": round(found.loss_ratio, 4),
        **trip,
    }


def _grade(found: Rate, trip_ms: float) -> State:
    is_good = found.loss_ratio <= _HIGH_LOSS and trip_ms <= _HIGH_DELAY_MS
    return State.PASSED if is_good else State.WARNING


def _result(
    kind: str, state: State, reason: Reason, figures: dict[str, float], text: str = ""
) -> CheckResult:
    score = figures.get("mos")
    words = [] if score is None else [f"score {score:g} ({mos.rating(score)})"]
    words += [text] if text else [WORDS[reason]] if reason in WORDS else []
    return CheckResult(
        name=f"quality-{kind}", state=state, reason=reason, detail=", ".join(words), figures=figures
    )
