"""WebRTC for tests: a network of its own, and synthetic media whose arrival is counted."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack
from servers import Parley

from signal_server.aiortc_link import CallSettings
from signal_server.aiortc_peer import AiortcPeer
from signal_server.client import SignalingClient

HOST_ADDRESS = "10.97.0.1"
"""The one address that gives host candidates; aiortc leaves out 127.0.0.1."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def is_root() -> bool:
    return os.geteuid() == 0


needs_own_network = pytest.mark.skipif(not is_root(), reason="a network of its own needs root")
"""For direct connections: without it they would take the machine's real interfaces."""


@contextlib.contextmanager
def isolated_network() -> Iterator[None]:
    """Put this thread, and the children it starts, on a loopback of their own, if it may."""
    if not is_root():
        yield
        return
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        for command in ("link set lo up", f"addr add {HOST_ADDRESS}/32 dev lo"):
            subprocess.run(["ip", *command.split()], check=True)
        yield
    finally:
        _check(_libc.setns(before, _CLONE_NEWNET))
        os.close(before)


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for a condition of this process; fails after the deadline."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - frames and pages have no event
            await asyncio.sleep(0.01)


class Media:
    """One peer's tracks and data channel: sends a pattern and a tone, counts what arrives."""

    def __init__(self, name: str, *, with_tracks: bool = True) -> None:
        self.name = name
        self.frames: Counter[str] = Counter()
        self.messages: list[str] = []
        self.channels: list[Any] = []
        self._with_tracks = with_tracks
        self._readers: set[asyncio.Task[None]] = set()

    def listen(self, pc: Any) -> None:
        pc.on("track", self._read)
        pc.on("datachannel", self._use)

    def attach(self, pc: Any, offered: frozenset[str] | None) -> None:
        for kind, track in (("audio", AudioStreamTrack), ("video", VideoStreamTrack)):
            if self._with_tracks and (offered is None or kind in offered):
                pc.addTrack(track())
        if offered is None:
            self._use(pc.createDataChannel("chat"))

    @property
    def has_everything(self) -> bool:
        """Data, and more than one burst of audio and of video."""
        media = self.frames["audio"] >= 10 and self.frames["video"] >= 5
        return bool(self.messages) and (media or not self._with_tracks)

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _use(self, channel: Any) -> None:
        self.channels.append(channel)
        channel.on("message", self.messages.append)
        if channel.readyState == "open":
            channel.send(f"from {self.name}")
        else:
            channel.on("open", lambda: channel.send(f"from {self.name}"))

    def _read(self, track: Any) -> None:
        self._readers.add(asyncio.create_task(self._count(track)))

    async def _count(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                await track.recv()
                self.frames[track.kind] += 1


@contextlib.asynccontextmanager
async def aiortc_peer(
    parley: Parley,
    name: str,
    room: str,
    settings: CallSettings | None = None,
    *,
    with_tracks: bool = True,
) -> AsyncIterator[tuple[AiortcPeer, Media]]:
    """An aiortc peer that is in the room."""
    media = Media(name, with_tracks=with_tracks)
    async with (
        SignalingClient(parley.ws_url, parley.token(name), room=room) as client,
        AiortcPeer(client, media, settings) as peer,
    ):
        try:
            yield peer, media
        finally:
            await media.close()


async def meet(one: AiortcPeer, other: AiortcPeer) -> None:
    """Wait until each has seen the other in the room."""
    await until(
        lambda: (
            other.client.peer in one.client.roster.peers
            and one.client.peer in other.client.roster.peers
        )
    )


def candidate_types(sdp: str) -> set[str]:
    """The types of the candidates in a description."""
    lines = [line.split() for line in sdp.splitlines() if line.startswith("a=candidate:")]
    return {words[words.index("typ") + 1] for words in lines}


def traceless(log_file: Path) -> bool:
    """Nothing in the server's log looks like a bug."""
    log = log_file.read_text()
    return "Traceback" not in log and "exc_info" not in log
