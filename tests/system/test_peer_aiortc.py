"""aiortc to aiortc over Parley alone: direct and through each relay, with data and media."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import aiortc
import pytest
from coturn import has_coturn, start_coturn
from rtc import (
    aiortc_peer,
    candidate_types,
    isolated_network,
    meet,
    needs_own_network,
    traceless,
    until,
)
from servers import Parley, start_parley

from signal_server.aiortc_link import CallSettings, pick_ice_servers
from signal_server.client_wire import SignalingError

_rooms = itertools.count(1)

DIRECT = CallSettings(ice_servers=[])
UDP = CallSettings(transport="udp", relay_only=True)
TCP = CallSettings(transport="tcp", relay_only=True)
UNCONNECTABLE = CallSettings(
    ice_servers=[{"urls": "turn:127.0.0.1:9", "username": "u", "credential": "p"}],
    relay_only=True,
)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with isolated_network():
        yield


@pytest.fixture(scope="module")
def parley(network: None) -> Iterator[Parley]:
    with start_parley() as parley:
        yield parley
        assert traceless(parley.log_file)


@pytest.fixture(scope="module")
def with_coturn(network: None) -> Iterator[Parley]:
    if not has_coturn():
        pytest.skip("needs turnserver")
    with start_coturn(secret="a-secret-of-coturn-and-parley-only") as coturn:
        at = f"turn:127.0.0.1:{coturn.port}?transport="
        urls = ["--turn-url", at + "udp", "--turn-url", at + "tcp"]
        with start_parley(*urls, "--turn-secret", coturn.secret) as parley:
            yield parley
            assert traceless(parley.log_file)


@pytest.fixture
def room() -> str:
    return f"room-{next(_rooms)}"


async def connect_two(parley: Parley, room: str, settings: CallSettings) -> tuple[set[str], ...]:
    """Call, see data, audio and video both ways; returns each side's candidate types."""
    async with (
        aiortc_peer(parley, "ann", room, settings) as (ann, ann_media),
        aiortc_peer(parley, "bob", room, settings) as (bob, bob_media),
    ):
        await meet(ann, bob)
        link = await ann.call(bob.client.peer)
        async with asyncio.timeout(20):
            await link.connected()
            await bob.link(ann.client.peer).connected()
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        assert (ann_media.messages, bob_media.messages) == (["from bob"], ["from ann"])
        answering = bob.link(ann.client.peer)
        return tuple(candidate_types(each.pc.localDescription.sdp) for each in (link, answering))


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_direct(parley: Parley, room: str) -> None:
    assert await connect_two(parley, room, DIRECT) == ({"host"}, {"host"})


@pytest.mark.parametrize("settings", [UDP, TCP], ids=["udp", "tcp"])
async def test_peer_aiortc_through_the_embedded_relay(
    parley: Parley, room: str, settings: CallSettings
) -> None:
    assert await connect_two(parley, room, settings) == ({"relay"}, {"relay"})


@pytest.mark.coturn
@pytest.mark.parametrize("settings", [UDP, TCP], ids=["udp", "tcp"])
async def test_peer_aiortc_through_coturn(
    with_coturn: Parley, room: str, settings: CallSettings
) -> None:
    assert await connect_two(with_coturn, room, settings) == ({"relay"}, {"relay"})


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_call_again_after_hanging_up(parley: Parley, room: str) -> None:
    async with aiortc_peer(parley, "ann", room, DIRECT, with_tracks=False) as (ann, ann_media):
        for _ in range(2):
            async with aiortc_peer(parley, "bob", room, DIRECT, with_tracks=False) as (bob, media):
                await meet(ann, bob)
                await bob.call(ann.client.peer)
                await until(lambda: media.has_everything)
            await until(lambda: not ann.links)
        assert ann_media.messages == ["from bob", "from bob"]


@pytest.fixture(scope="module")
def arbiter(network: None) -> Iterator[Parley]:
    with start_parley("--glare", "arbitrate") as arbiter:
        yield arbiter
        assert traceless(arbiter.log_file)


@pytest.mark.parametrize("first_to_offer", ["polite", "impolite"])
@pytest.mark.parametrize("mode", ["passthrough", "arbitrate"])
@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_glare(
    parley: Parley, arbiter: Parley, room: str, mode: str, first_to_offer: str
) -> None:
    """Both offer before either has seen the other's: the polite one starts anew and answers."""
    server = arbiter if mode == "arbitrate" else parley
    async with (
        aiortc_peer(server, "ann", room, DIRECT) as (ann, ann_media),
        aiortc_peer(server, "bob", room, DIRECT) as (bob, bob_media),
    ):
        await meet(ann, bob)
        polite, impolite = ann.link(bob.client.peer), bob.link(ann.client.peer)
        if not polite.polite:
            polite, impolite = impolite, polite
        assert (polite.polite, impolite.polite) == (True, False)
        order = [polite, impolite] if first_to_offer == "polite" else [impolite, polite]
        crossing = Crossing(2)
        for link in order:
            crossing.hold_offers_of(link)
        await asyncio.gather(*(link.call() for link in order))
        async with asyncio.timeout(20):
            await polite.connected()
            await impolite.connected()
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        assert (polite.replaced, impolite.replaced) == (1, 0)


class Crossing:
    """Lets offers go only when all are ready, and holds what comes in until all are gone."""

    def __init__(self, offers: int) -> None:
        self._ready = asyncio.Barrier(offers)
        self._gone = asyncio.Barrier(offers)

    def hold_offers_of(self, link: Any) -> None:
        client = link._client
        send: Callable[..., Any] = client.offer

        async def offer(to: str, sdp: str) -> int:
            await self._ready.wait()
            try:
                number: int = await send(to, sdp)
            finally:
                await self._gone.wait()
            return number

        client.offer = offer


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_negotiates_again_without_glare(parley: Parley, room: str) -> None:
    """Established, the polite side asks the other to offer; both asking at once is harmless."""
    async with (
        aiortc_peer(parley, "ann", room, DIRECT, with_tracks=False) as (ann, ann_media),
        aiortc_peer(parley, "bob", room, DIRECT, with_tracks=False) as (bob, bob_media),
    ):
        await meet(ann, bob)
        one = await ann.call(bob.client.peer)
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        two = bob.link(ann.client.peer)
        before = (one.pc, two.pc)
        await until(lambda: one.pc.signalingState == two.pc.signalingState == "stable")
        await asyncio.gather(one.call(), two.call())
        await until(lambda: min(answers_of(one), answers_of(two)) >= 0)
        ann_media.channels[0].send("still here")
        await until(lambda: "still here" in bob_media.messages)
        assert (one.pc, two.pc) == before


def answers_of(link: Any) -> int:
    return 0 if link.pc.signalingState == "stable" else -1


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_ice_restart_replaces_both_ends(parley: Parley, room: str) -> None:
    async with (
        aiortc_peer(parley, "ann", room, DIRECT, with_tracks=False) as (ann, ann_media),
        aiortc_peer(parley, "bob", room, DIRECT, with_tracks=False) as (bob, bob_media),
    ):
        await meet(ann, bob)
        link = await ann.call(bob.client.peer)
        await until(lambda: ann_media.has_everything and bob_media.has_everything)
        await bob.client.renegotiate(ann.client.peer, "ice_restart")
        await until(lambda: len(bob_media.messages) == 2 and len(ann_media.messages) == 2)
        assert (link.replaced, bob.link(ann.client.peer).replaced) == (1, 1)


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_says_why_it_did_not_connect(parley: Parley, room: str) -> None:
    """A relay that is not there gives no candidates: the call fails in words, not in silence."""
    async with (
        aiortc_peer(parley, "ann", room, UNCONNECTABLE) as (ann, _),
        aiortc_peer(parley, "bob", room, DIRECT) as (bob, _),
    ):
        await meet(ann, bob)
        with pytest.raises(ConnectionError, match="no ICE candidate"):
            await ann.call(bob.client.peer)
        await bob.call(ann.client.peer)
        with pytest.raises(ConnectionError, match="no ICE candidate"):
            async with asyncio.timeout(20):
                await ann.link(bob.client.peer).connected()
        with pytest.raises(SignalingError, match="not_found"):
            await ann.call("nobody")


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_link_ends_when_the_peer_leaves(parley: Parley, room: str) -> None:
    async with aiortc_peer(parley, "ann", room, DIRECT, with_tracks=False) as (ann, _):
        async with aiortc_peer(parley, "bob", room, UNCONNECTABLE) as (bob, _):
            await meet(ann, bob)
            link = await ann.call(bob.client.peer)
        with pytest.raises(ConnectionError, match="closed"):
            async with asyncio.timeout(10):
                await link.connected()
        await until(lambda: not ann.links)


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_rolled_back_offer_leaves_a_clean_slate(
    parley: Parley, room: str
) -> None:
    async with (
        aiortc_peer(parley, "ann", room, DIRECT, with_tracks=False) as (ann, _),
        aiortc_peer(parley, "bob", room, DIRECT, with_tracks=False) as (bob, media),
    ):
        await meet(ann, bob)
        link = ann.link(bob.client.peer)
        withdrawn = asyncio.Event()
        answer = ann.client.answer

        async def late_answer(to: str, sdp: str, *, negotiation: int, pc: str = "main") -> None:
            await withdrawn.wait()
            await answer(to, sdp, negotiation=negotiation, pc=pc)

        ann.client.answer = late_answer  # type: ignore[method-assign]
        abandoned = aiortc.RTCPeerConnection()
        abandoned.createDataChannel("abandoned")
        await abandoned.setLocalDescription()
        number = await bob.client.offer(ann.client.peer, abandoned.localDescription.sdp)
        await bob.client.rollback(ann.client.peer, negotiation=number)
        await abandoned.close()
        withdrawn.set()
        await until(lambda: link.replaced == 1)
        await bob.call(ann.client.peer)
        await until(lambda: media.has_everything)


@pytest.mark.root
@needs_own_network
async def test_peer_aiortc_survives_a_hostile_description(parley: Parley, room: str) -> None:
    async with (
        aiortc_peer(parley, "ann", room, DIRECT) as (ann, _),
        aiortc_peer(parley, "eve", room, DIRECT) as (eve, _),
        aiortc_peer(parley, "bob", room, DIRECT, with_tracks=False) as (bob, media),
    ):
        await meet(ann, eve)
        await eve.client.offer(ann.client.peer, "v=0\r\nm=\r\na=candidate:")
        with pytest.raises(ConnectionError, match="in aiortc"):
            async with asyncio.timeout(10):
                await ann.link(eve.client.peer).connected()
        await meet(ann, bob)
        await bob.call(ann.client.peer)
        await until(lambda: media.has_everything)


def test_peer_one_turn_url_is_picked() -> None:
    granted: list[dict[str, Any]] = [
        {"urls": ["stun:a:3478", "stun:b:3478"]},
        {
            "urls": ["turn:a:3478?transport=udp", "turn:a:3478?transport=tcp", "turns:a:5349"],
            "username": "u",
            "credential": "p",
        },
    ]
    picked = {
        transport: [server["urls"] for server in pick_ice_servers(granted, transport)]
        for transport in (None, "udp", "tcp", "tls")
    }
    assert picked == {
        None: ["stun:a:3478", "turn:a:3478?transport=udp"],
        "udp": ["stun:a:3478", "turn:a:3478?transport=udp"],
        "tcp": ["stun:a:3478", "turn:a:3478?transport=tcp"],
        "tls": ["stun:a:3478", "turns:a:5349"],
    }
    assert pick_ice_servers(granted, "udp")[1]["username"] == "u"
    assert pick_ice_servers([{"urls": "turn:a"}], "tcp") == []
