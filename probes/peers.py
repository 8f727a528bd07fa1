"""Server peers: aiortc at the far end of a visitor's connection, for data, media in, or an echo.

Bounded in number, time and work: nothing is decoded, and a peer ends with its client. An offer's
candidates at private addresses are dropped, so that nobody makes the server knock on its own
network. It does not know tokens or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from probes import aiortc_media, descriptions
from probes.attendance import LOOK_EVERY_S, Attendance
from probes.deployment import IceServers
from probes.messages import (
    TRANSPORTS,
    PeerAnswer,
    PeerFigures,
    PeerMode,
    PeerRequest,
    Transport,
)
from probes.metrics import Figures
from probes.settings import ProbeSettings

_log = logging.getLogger("parley.probes")
ANSWER_TIMEOUT_S = 10.0
MAX_MESSAGE_BYTES = 16 * 1024
MAX_WAITING_BYTES = 256 * 1024
"""Echoed data that the network has not taken; what comes on top is not echoed."""
MAX_TRACKS = 2
MAX_CHANNELS = 4


@dataclass(frozen=True, slots=True)
class PeerRefusal:
    code: Literal["bad_request", "unavailable"]
    message: str


@dataclass(slots=True)
class _Peer:
    id: str
    owner: str
    mode: PeerMode
    pc: RTCPeerConnection
    began: float
    on_end: Callable[[], None]
    messages: int = 0
    message_bytes: int = 0
    channels: int = 0
    tracks: list[aiortc_media.Received] = field(default_factory=list)
    attendance: Attendance = field(default_factory=Attendance)
    last: asyncio.TimerHandle | None = None
    """Ends it at the latest."""
    look: asyncio.TimerHandle | None = None
    """The next one, whether its client is still there."""


class PeerHost:
    """Every server peer of this node; ends them when their time is over."""

    def __init__(
        self,
        settings: ProbeSettings,
        ice_servers: Callable[[str], dict[Transport, IceServers]],
        unix: Callable[[], float],
        figures: Figures,
    ) -> None:
        aiortc_media.install()
        self._settings = settings
        self._ice_servers = ice_servers
        self._unix = unix
        self._figures = figures
        self._peers: dict[str, _Peer] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._peers)

    async def open(
        self, owner: str, asked: PeerRequest, on_end: Callable[[], None]
    ) -> PeerAnswer | PeerRefusal:
        """Answers an offer; `on_end` is called once, also after a refusal."""
        flaw = descriptions.flaw_of(asked.sdp)
        if flaw is not None:
            on_end()
            return PeerRefusal("bad_request", flaw)
        loop = asyncio.get_running_loop()
        configuration = self._configuration(owner, asked.transport)
        if configuration is None:
            on_end()
            return PeerRefusal("unavailable", "no such relay here")
        pc = RTCPeerConnection(configuration)
        peer = _Peer(secrets.token_urlsafe(12), owner, asked.mode, pc, loop.time(), on_end)
        self._peers[peer.id] = peer
        peer.last = loop.call_later(self._settings.peer_s, self._end_soon, peer)
        self._listen(peer)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                sdp = await self._answer(peer, asked.sdp)
        except TimeoutError:
            await self._end(peer)
            return PeerRefusal("unavailable", "the server's candidates were not found in time")
        except Exception as flaw:  # noqa: BLE001 - aiortc raises anything for a bad description
            _log.info("an offer was not understood: %s", type(flaw).__name__)
            await self._end(peer)
            return PeerRefusal("bad_request", "the offer cannot be answered")
        except BaseException:
            self._end_soon(peer)
            raise
        self._look_later(peer, loop.time())
        self._figures.peers[asked.mode] += 1
        expires_at = int(self._unix()) + self._settings.peer_s
        return PeerAnswer(id=peer.id, sdp=sdp, expires_at=expires_at)

    async def figures(self, owner: str, name: str) -> PeerFigures | None:
        """What a peer of this owner has received; None when there is none."""
        peer = self._peers.get(name)
        if peer is None or peer.owner != owner:
            return None
        age_ms = int(1000 * (asyncio.get_running_loop().time() - peer.began))
        return PeerFigures(
            id=peer.id,
            mode=peer.mode,
            state=peer.pc.connectionState,
            age_ms=age_ms,
            messages=peer.messages,
            message_bytes=peer.message_bytes,
            tracks=[track.figures() for track in peer.tracks],
        )

    async def end(self, owner: str, name: str) -> PeerFigures | None:
        """Ends a peer of this owner; its last figures."""
        figures = await self.figures(owner, name)
        if figures is not None:
            await self._end(self._peers[name])
        return figures

    async def close(self) -> None:
        """Ends every peer."""
        for peer in list(self._peers.values()):
            self._end_soon(peer)
        while self._ending:
            await asyncio.wait(self._ending)

    def _configuration(self, owner: str, transport: Transport | None) -> RTCConfiguration | None:
        """None where there is no such relay."""
        if transport is None and not self._settings.peer_relay:
            return RTCConfiguration(iceServers=[])
        offered = self._ice_servers(owner)
        over = TRANSPORTS if transport is None else (transport,)
        servers = [server for one in over for server in offered[one] if "username" in server]
        if not servers:
            return None
        # aioice uses one TURN URL only.
        first = servers[0]
        relay = RTCIceServer(first["urls"][0], first["username"], first["credential"])
        return RTCConfiguration(iceServers=[relay], iceTransportPolicy=RTCIceTransportPolicy.RELAY)

    def _listen(self, peer: _Peer) -> None:
        pc = peer.pc

        def channel_opened(channel: RTCDataChannel) -> None:
            peer.channels += 1
            if peer.channels > MAX_CHANNELS:
                channel.close()
                return
            channel.on("message", lambda message: _echo(peer, channel, message))

        def track_came(track: MediaStreamTrack) -> None:
            if len(peer.tracks) >= MAX_TRACKS or peer.mode == "data":
                track.stop()
                return
            peer.tracks.append(aiortc_media.receive(pc, track, echo=peer.mode == "echo"))

        def state_changed() -> None:
            if pc.connectionState in ("failed", "closed"):
                self._end_soon(peer)

        pc.on("datachannel", channel_opened)
        pc.on("track", track_came)
        pc.on("connectionstatechange", state_changed)

    async def _answer(self, peer: _Peer, sdp: str) -> str:
        pc = peer.pc
        offer = descriptions.with_few_candidates(sdp)
        if not self._settings.allow_private_peers:
            offer = descriptions.without_private(offer)
        is_complete = descriptions.names_address(offer)
        if not is_complete:
            # Nobody to knock at: its own checks tell where the client is (RFC 8445, 7.3.1.3).
            offer = descriptions.without_end(offer)
        await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        if is_complete:
            await pc.addIceCandidate(None)
        await pc.setLocalDescription(await pc.createAnswer())
        start_kbps = self._settings.peer_start_bitrate_kbps
        return descriptions.with_start_bitrate(pc.localDescription.sdp, start_kbps)

    def _look_later(self, peer: _Peer, since: float) -> None:
        """As long as the peer lives."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            absence = peer.attendance.look(
                is_connected=peer.pc.iceConnectionState == "completed",
                packets=aiortc_media.packets_received(peer.pc),
                elapsed_s=loop.time() - since,
            )
            if absence is None:
                self._look_later(peer, loop.time())
            else:
                self._figures.absences[absence] += 1
                self._end_soon(peer)

        if peer.id in self._peers:
            peer.look = loop.call_later(LOOK_EVERY_S, look)

    def _end_soon(self, peer: _Peer) -> None:
        task = asyncio.ensure_future(self._end(peer))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, peer: _Peer) -> None:
        if self._peers.pop(peer.id, None) is None:
            return
        for timer in (peer.last, peer.look):
            if timer is not None:
                timer.cancel()
        peer.on_end()
        with contextlib.suppress(Exception):
            await aiortc_media.close(peer.pc)
        for track in peer.tracks:
            for task in list(track.tasks):
                task.cancel()


def _echo(peer: _Peer, channel: RTCDataChannel, message: str | bytes) -> None:
    size = len(message)
    peer.messages += 1
    peer.message_bytes += size
    is_small = size <= MAX_MESSAGE_BYTES and channel.bufferedAmount <= MAX_WAITING_BYTES
    if peer.mode != "sink" and is_small and channel.readyState == "open":
        channel.send(message)
