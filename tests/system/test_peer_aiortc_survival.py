"""An aiortc call goes on while its signaling does not, and negotiates again when that is back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from rtc import Media, isolated_network, meet, needs_own_network, traceless, until
from servers import Parley, start_parley

from signal_server.aiortc_link import CallSettings
from signal_server.aiortc_peer import AiortcPeer
from signal_server.client import ClientEvent, SignalingClient
from signal_server.client_connect import ClientSettings
from signal_server.client_session import SessionLost
from signal_server.wire import messages as wire

pytestmark = pytest.mark.root
DIRECT = CallSettings(ice_servers=[])
SETTINGS = ClientSettings(backoff_base_s=0.2, backoff_cap_s=0.5)


class Servers:
    """The server there is now, by which tokens are made."""

    def __init__(self, parley: Parley) -> None:
        self.now = parley


@pytest.fixture
def servers() -> Iterator[Servers]:
    with isolated_network(), start_parley() as parley:
        yield Servers(parley)
        assert traceless(parley.log_file)


@asynccontextmanager
async def person(servers: Servers, name: str) -> AsyncIterator[tuple[AiortcPeer, Media, list[str]]]:
    """A peer in the room, its media, and what has happened to its session."""
    fates: list[str] = []

    async def token() -> str:
        return servers.now.token(name)

    def notice(event: ClientEvent) -> None:
        if isinstance(event, wire.Resumed | SessionLost):
            fates.append(type(event).__name__)

    media = Media(name, with_tracks=False)
    async with (
        SignalingClient(servers.now.ws_url, token, room="blue", settings=SETTINGS) as client,
        AiortcPeer(client, media, DIRECT, other=notice) as peer,
    ):
        yield peer, media, fates


def kill_sockets(which: str) -> None:
    subprocess.run(["ss", "-K", *which.split()], check=True, capture_output=True)


async def talk(sender: Media, receiver: Media, text: str) -> None:
    sender.channels[-1].send(text)
    await until(lambda: text in receiver.messages)


@needs_own_network
async def test_peer_aiortc_goes_on_across_killed_sockets(servers: Servers) -> None:
    """First one side's TCP connection is destroyed, then everybody's."""
    port = urlsplit(servers.now.url).port
    async with (
        person(servers, "ann") as (ann, ann_media, ann_fates),
        person(servers, "bob") as (bob, bob_media, bob_fates),
    ):
        await meet(ann, bob)
        link = await ann.call(bob.client.peer)
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        other, names = bob.link(ann.client.peer), (ann.client.peer, bob.client.peer)
        before = (link.pc, other.pc)
        own = ann.client._line.socket.local_address[1]
        for victim in (f"sport = :{own}", f"sport = :{port}"):
            expected = len(ann_fates) + 1
            kill_sockets(victim)
            await talk(ann_media, bob_media, f"while away: {victim}")
            await until(lambda expected=expected: len(ann_fates) == expected)  # type: ignore[misc]
        await until(lambda: bob_fates == ["Resumed"])
        assert ann_fates == ["Resumed", "Resumed"]
        assert (ann.client.peer, bob.client.peer) == names
        described, second = link.pc.remoteDescription.sdp, int(time.time())
        # aiortc numbers its descriptions by the second: the next must be another.
        await until(lambda: time.time() >= second + 1)
        await other.call()
        await until(lambda: link.pc.remoteDescription.sdp != described)
        await link.call()
        await talk(bob_media, ann_media, "after negotiating again")
        assert (link.pc, other.pc) == before
        assert (link.replaced, other.replaced) == (0, 0)


@needs_own_network
async def test_peer_aiortc_calls_again_after_a_restart(servers: Servers) -> None:
    """A node's end takes its sessions along: that is said, and a call is possible at once."""
    first = servers.now
    async with (
        person(servers, "ann") as (ann, ann_media, ann_fates),
        person(servers, "bob") as (bob, bob_media, bob_fates),
    ):
        await meet(ann, bob)
        await ann.call(bob.client.peer)
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        first.process.terminate()
        first.process.wait(10)
        with start_parley("--port", str(urlsplit(first.url).port)) as second:
            servers.now = second
            await until(lambda: ann_fates == bob_fates == ["SessionLost"])
            await meet(ann, bob)
            await ann.call(bob.client.peer)
            await until(lambda: min(map(len, (ann_media.messages, bob_media.messages))) == 2)
            await talk(ann_media, bob_media, "in the new session")
            await ann.client.close()
            await bob.client.close()
