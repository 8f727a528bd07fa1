"""The candidate buffer seen from outside: on the wire, and by receivers that are late."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiortc
import pytest
from rtc import Media, isolated_network, needs_own_network, traceless, until
from servers import Parley, start_parley

from signal_server.aiortc_link import CallSettings
from signal_server.aiortc_peer import AiortcPeer
from signal_server.client import SignalingClient
from signal_server.client_wire import SignalingError
from signal_server.wire import messages as wire
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.sdp import outline

DELAY_S = 2.0
"""How late the late receiver sets its remote description."""
ORDERED: tuple[str, ...] = ()
GATED = ("gated",)
END_OF_C = CandidateInit("", "0", 0, "C")
_rooms = itertools.count(1)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with isolated_network():
        yield


@pytest.fixture(scope="module")
def parley(network: None) -> Iterator[Parley]:
    with start_parley() as parley:
        yield parley
        assert traceless(parley.log_file)


@asynccontextmanager
async def pair(
    parley: Parley, features: tuple[str, ...]
) -> AsyncIterator[tuple[SignalingClient, SignalingClient]]:
    """A sender and a receiver with these features, in a room of their own."""
    room = f"room-{next(_rooms)}"
    async with (
        SignalingClient(parley.ws_url, parley.token("sue"), room=room) as sender,
        SignalingClient(
            parley.ws_url, parley.token("rob"), room=room, features=features
        ) as receiver,
    ):
        await until(lambda: receiver.peer in sender.roster.peers)
        yield sender, receiver


async def seen(client: SignalingClient) -> list[str]:
    """What has come from the other peer so far: a ping's answer closes the account."""
    await client.ping()
    out: list[str] = []
    while not client._incoming.empty():
        message = await anext(client)
        if isinstance(message, wire.RelayedCandidates):
            out += [each.candidate or "end" for each in message.candidates]
        elif isinstance(message, wire.RelayedPair):
            out.append(str(message.__struct_config__.tag))
    return out


def sdp_of(ufrag: str) -> str:
    return f"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:{ufrag}\r\n"


def candidates_of(ufrag: str, count: int) -> list[CandidateInit | None]:
    return [
        CandidateInit(f"candidate:{number} 1 udp 1 10.0.0.1 {number} typ host", "0", 0, ufrag)
        for number in range(1, count + 1)
    ]


def lines(count: int) -> list[str]:
    return [str(each.candidate) for each in candidates_of("x", count) if each]


async def test_peer_ordered_receiver_gets_candidates_after_the_offer(parley: Parley) -> None:
    async with pair(parley, ORDERED) as (sender, receiver):
        await sender.candidates(receiver.peer, [*candidates_of("A", 2), None])
        assert await seen(receiver) == []
        await sender.offer(receiver.peer, sdp_of("A"))
        assert await seen(receiver) == ["offer", *lines(2), "end"]


async def test_peer_gated_receiver_gets_candidates_after_it_applied(parley: Parley) -> None:
    async with pair(parley, GATED) as (sender, receiver):
        number = await sender.offer(receiver.peer, sdp_of("A"))
        await sender.candidates(receiver.peer, candidates_of("A", 2))
        await sender.candidates(receiver.peer, [None])
        assert await seen(receiver) == ["offer"]
        assert parley.metric("signaling_candidates_buffered") == 3
        await receiver.applied(sender.peer, negotiation=number)
        assert await seen(receiver) == [*lines(2), "end"]
        assert parley.metric("signaling_candidates_buffered") == 0
        with pytest.raises(SignalingError, match="candidate_after_end"):
            await sender.candidates(receiver.peer, candidates_of("A", 3))


async def test_peer_answer_opens_the_gate(parley: Parley) -> None:
    async with pair(parley, GATED) as (sender, receiver):
        number = await sender.offer(receiver.peer, sdp_of("A"))
        await sender.candidates(receiver.peer, candidates_of("A", 2))
        assert await seen(receiver) == ["offer"]
        await receiver.answer(sender.peer, sdp_of("B"), negotiation=number)
        assert await seen(receiver) == lines(2)


async def test_peer_both_modes_hold_what_has_no_description_yet(parley: Parley) -> None:
    """A restart's candidates overtake its offer; those of the present generation do not wait."""
    for features in (ORDERED, GATED):
        async with pair(parley, features) as (sender, receiver):
            number = await sender.offer(receiver.peer, sdp_of("A"))
            await receiver.answer(sender.peer, sdp_of("B"), negotiation=number)
            assert await seen(receiver) == ["offer"]
            await sender.candidates(receiver.peer, [*candidates_of("C", 2), END_OF_C])
            assert await seen(receiver) == []
            await sender.candidates(receiver.peer, candidates_of("A", 1))
            assert await seen(receiver) == lines(1)
            number = await sender.offer(receiver.peer, sdp_of("C"))
            await receiver.answer(sender.peer, sdp_of("D"), negotiation=number)
            assert await seen(receiver) == ["offer", *lines(2), "end"]


class Trickler:
    """A peer that, unlike aiortc, sends its candidates beside the description."""

    def __init__(self, client: SignalingClient, to: str) -> None:
        self.messages: list[str] = []
        self._client = client
        self._to = to
        self._pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self._pc.on("datachannel", self._use)
        self._candidates: list[CandidateInit | None] = []

    def _use(self, channel: Any) -> None:
        channel.on("message", self.messages.append)
        if channel.readyState == "open":
            channel.send("from sue")
        else:
            channel.on("open", lambda: channel.send("from sue"))

    async def offer(self) -> str:
        self._use(self._pc.createDataChannel("chat"))
        return await self._describe()

    async def answer(self, sdp: str) -> str:
        await self._pc.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "offer"))
        return await self._describe()

    async def _describe(self) -> str:
        """The local description without the candidates, which are kept for `trickle`."""
        await self._pc.setLocalDescription()
        sdp: str = self._pc.localDescription.sdp
        ufrag = outline(sdp).ufrags[0]
        kept = []
        for line in sdp.splitlines():
            if line.startswith("a=candidate:"):
                self._candidates.append(CandidateInit(line[2:], "0", 0, ufrag))
            elif line != "a=end-of-candidates":
                kept.append(line)
        assert self._candidates
        unreadable = CandidateInit("candidate:x", "0", 0, ufrag)
        self._candidates = [unreadable, *self._candidates, CandidateInit("", None, None, ufrag)]
        return "\r\n".join([*kept, ""])

    async def trickle(self) -> None:
        """One message each, end-of-candidates last."""
        for candidate in self._candidates:
            await self._client.candidates(self._to, [candidate])

    @property
    def ports(self) -> set[int]:
        lines = [str(each.candidate) for each in self._candidates if each and each.candidate]
        return {int(line.split()[5]) for line in lines if line.endswith("host")}

    async def receive(self, kind: type[Any]) -> Any:
        async for message in self._client:
            if isinstance(message, kind):
                return message
        raise AssertionError("the iteration ended")

    async def finish(self) -> None:
        answer = await self.receive(wire.RelayedAnswer)
        await self._pc.setRemoteDescription(aiortc.RTCSessionDescription(answer.sdp, "answer"))

    async def close(self) -> None:
        await self._pc.close()


class LateMedia(Media):
    """Sets its remote description seconds after it was asked to."""

    def listen(self, pc: Any) -> None:
        super().listen(pc)
        at_once = pc.setRemoteDescription

        async def late(description: Any) -> None:
            await asyncio.sleep(DELAY_S)
            await at_once(description)

        pc.setRemoteDescription = late


@pytest.mark.root
@needs_own_network
@pytest.mark.parametrize("features", [ORDERED, GATED], ids=["ordered", "gated"])
@pytest.mark.parametrize("candidates", ["first", "meanwhile"])
async def test_peer_late_receiver_connects(
    parley: Parley, features: tuple[str, ...], candidates: str
) -> None:
    """Every candidate before the offer, or all while the receiver is still busy with it."""
    media = LateMedia("rob", with_tracks=False)
    async with (
        pair(parley, features) as (sender, receiver),
        AiortcPeer(receiver, media, CallSettings(ice_servers=[])) as peer,
    ):
        caller = Trickler(sender, receiver.peer)
        sdp = await caller.offer()
        if candidates == "first":
            await caller.trickle()
            await sender.offer(receiver.peer, sdp)
        else:
            await sender.offer(receiver.peer, sdp)
            await caller.trickle()
        assert peer.links.get(sender.peer) is None or not peer.links[sender.peer]._remote.mids
        held = parley.metric("signaling_candidates_buffered")
        assert held == (0 if features == ORDERED else len(caller._candidates))
        async with asyncio.timeout(20):
            await caller.finish()
            await peer.link(sender.peer).connected()
        await until(lambda: media.messages == ["from sue"] and caller.messages == ["from rob"])
        await caller.close()


@pytest.mark.root
@needs_own_network
@pytest.mark.parametrize("features", [ORDERED, GATED], ids=["ordered", "gated"])
async def test_peer_candidates_of_an_ignored_offer_do_no_harm(
    parley: Parley, features: tuple[str, ...]
) -> None:
    """Glare: the impolite side ignores the offer, and all of its candidates with their end."""
    room, media = f"room-{next(_rooms)}", Media("rob", with_tracks=False)
    timeouts = parley.metric("signaling_gate_timeouts_total")
    async with (
        SignalingClient(
            parley.ws_url, parley.token("rob"), room=room, features=features
        ) as impolite,
        SignalingClient(parley.ws_url, parley.token("sue"), room=room) as polite,
        AiortcPeer(impolite, media, CallSettings(ice_servers=[])) as peer,
    ):
        await until(lambda: polite.peer in impolite.roster.peers)
        link = await peer.call(polite.peer)
        losing, winning = (Trickler(polite, impolite.peer) for _ in range(2))
        await polite.offer(impolite.peer, await losing.offer())
        await losing.trickle()
        await losing.close()
        theirs = await winning.receive(wire.RelayedOffer)
        answer = await winning.answer(theirs.sdp)
        await polite.answer(impolite.peer, answer, negotiation=theirs.negotiation)
        await winning.trickle()
        async with asyncio.timeout(20):
            await link.connected()
        await until(lambda: media.messages == ["from sue"] and winning.messages == ["from rob"])
        assert link.replaced == 0
        await until(lambda: parley.metric("signaling_candidates_buffered") == 0)
        ice = link.pc.sctp.transport.transport
        await until(lambda: len(ice.getRemoteCandidates()) == len(winning.ports))
        assert {each.port for each in ice.getRemoteCandidates()} == winning.ports
        assert parley.metric("signaling_gate_timeouts_total") == timeouts
        await winning.close()


@pytest.mark.root
@needs_own_network
async def test_peer_end_of_candidates_lets_a_hopeless_call_fail(parley: Parley) -> None:
    """Without it aiortc would wait for a candidate that never comes."""
    media = Media("rob", with_tracks=False)
    async with (
        pair(parley, GATED) as (sender, receiver),
        AiortcPeer(receiver, media, CallSettings(ice_servers=[])) as peer,
    ):
        caller = Trickler(sender, receiver.peer)
        await sender.offer(receiver.peer, await caller.offer())
        await sender.candidates(receiver.peer, [None])
        await until(lambda: sender.peer in peer.links)
        with pytest.raises(ConnectionError, match="failed"):
            async with asyncio.timeout(20):
                await peer.links[sender.peer].connected()
        await caller.close()
