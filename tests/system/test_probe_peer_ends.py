"""A server peer ends with its client: its place and its work are for the next visitor."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from rtc import isolated_network, needs_own_network, until

from probes import aiortc_media, attendance
from probes.messages import PeerAnswer, PeerRequest
from probes.metrics import Figures
from probes.peers import PeerHost, PeerRefusal
from probes.settings import ProbeSettings

SOON_S = 0.5
LATE_S = 30.0
"""For what takes about a second, on a machine that has more to do."""
pytestmark = [pytest.mark.root, needs_own_network]


@pytest.fixture(scope="module", autouse=True)
def own_network() -> Iterator[None]:
    with isolated_network():
        yield


@dataclass
class Hosting:
    figures: Figures = field(default_factory=Figures)
    ended: int = 0

    def __post_init__(self) -> None:
        settings = ProbeSettings(peer_s=120, allow_private_peers=True)
        self.host = PeerHost(settings, lambda *_: {}, time.time, self.figures)

    async def answered(self, sdp: str) -> PeerAnswer | PeerRefusal:
        def end() -> None:
            self.ended += 1

        return await self.host.open("somebody", PeerRequest(sdp=sdp), end)


@pytest.fixture
async def hosting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hosting]:
    """Of data only: other tests of this process may want their pictures decoded."""
    monkeypatch.setattr(aiortc_media, "install", lambda: None)
    hosting = Hosting()
    yield hosting
    await hosting.host.close()


@asynccontextmanager
async def offering() -> AsyncIterator[tuple[RTCPeerConnection, Any]]:
    pc = RTCPeerConnection()
    channel = pc.createDataChannel("probe")
    await pc.setLocalDescription(await pc.createOffer())
    try:
        yield pc, channel
    finally:
        await pc.close()


async def open_channel(hosting: Hosting, pc: RTCPeerConnection, channel: Any) -> None:
    answer = await hosting.answered(pc.localDescription.sdp)
    assert isinstance(answer, PeerAnswer)
    await pc.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
    await pc.addIceCandidate(None)
    await until(lambda: channel.readyState == "open", LATE_S)
    assert len(hosting.host) == 1


async def test_a_client_that_never_comes(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "CONNECT_S", SOON_S)
    async with offering() as (pc, _):
        assert isinstance(await hosting.answered(pc.localDescription.sdp), PeerAnswer)
        await until(lambda: len(hosting.host) == 0, LATE_S)
    assert (hosting.ended, hosting.figures.absences) == (1, {"never_connected": 1})


async def test_a_client_that_falls_silent(
    hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with offering() as (pc, channel):
        await open_channel(hosting, pc, channel)
        monkeypatch.setattr(attendance, "SILENT_S", SOON_S)
        await until(lambda: len(hosting.host) == 0, LATE_S)
    assert (hosting.ended, hosting.figures.absences) == (1, {"silent": 1})


async def test_a_client_that_says_goodbye(hosting: Hosting) -> None:
    async with offering() as (pc, channel):
        await open_channel(hosting, pc, channel)
    await until(lambda: len(hosting.host) == 0, LATE_S)
    assert (hosting.ended, hosting.figures.absences) == (1, {})


async def test_a_thousand_sections_take_no_place(hosting: Hosting) -> None:
    sections = "".join(f"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{i}\r\n" for i in range(1000))
    refused = await hosting.answered("v=0\r\n" + sections)
    assert isinstance(refused, PeerRefusal)
    assert (refused.code, hosting.ended, len(hosting.host)) == ("bad_request", 1, 0)
