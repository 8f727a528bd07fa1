"""aiortc peers over the signaling client: calls, answers, and what aiortc itself cannot do.

aiortc 1.16 loses candidates that come before the remote description, uses one TURN URL, cannot
roll back and cannot restart ICE. So candidates are held here until they apply, the URL is picked
here, and where a browser would roll back or restart, the connection is replaced by a new one.
It does not know rooms beyond the roster and never touches the media.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from msgspec import Struct

from signal_server.client import SignalingClient
from signal_server.client_wire import ServerMessage, SignalingError
from signal_server.wire import messages as wire
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import outline

try:
    import aiortc
    from aiortc.sdp import candidate_from_sdp
except ImportError as missing:
    raise ImportError(
        "signal_server.aiortc_peer needs aiortc: pip install 'parley-rtc[probes]'"
    ) from missing

Transport = Literal["udp", "tcp", "tls"]
Prepare = Callable[[Any, bool], None]
"""Called with each new RTCPeerConnection, and whether it will offer, to add tracks and events."""
IceServer = Mapping[str, Any]

_HELD_CANDIDATES = Limits().candidates_per_generation * Limits().open_generations
_INBOX_MESSAGES = 512
_log = logging.getLogger("parley.client")


def pick_ice_servers(
    ice_servers: Sequence[IceServer], transport: Transport | None = None
) -> list[dict[str, Any]]:
    """The first STUN URL and the first TURN URL (of that transport): all that aiortc can use."""
    picked: dict[str, dict[str, Any]] = {}
    for server in ice_servers:
        urls = server["urls"]
        for url in [urls] if isinstance(urls, str) else urls:
            kind = "stun" if url.startswith("stun") else "turn"
            if kind == "stun" or transport in (None, transport_of(url)):
                picked.setdefault(kind, {**server, "urls": url})
    return list(picked.values())


def transport_of(turn_url: str) -> Transport:
    """RFC 7065: turns is TLS; without a transport, turn is UDP."""
    if turn_url.startswith("turns:"):
        return "tls"
    return "tcp" if turn_url.endswith("?transport=tcp") else "udp"


class CallSettings(Struct, frozen=True, kw_only=True):
    """How an AiortcPeer connects."""

    ice_servers: Sequence[IceServer] | None = None
    """None asks the server anew for each connection, because credentials expire."""
    transport: Transport | None = None
    """Which kind of TURN URL to use; None takes the first."""
    relay_only: bool = False


class AiortcPeer:
    """A room member that answers everybody and calls whom it is told to.

    `async with AiortcPeer(client, prepare) as peer: link = await peer.call(peer_id)`. It consumes
    the client's messages; those it has no use for go to `other`.
    """

    def __init__(
        self,
        client: SignalingClient,
        prepare: Prepare,
        settings: CallSettings | None = None,
        *,
        other: Callable[[ServerMessage], None] | None = None,
    ) -> None:
        self.client = client
        self.prepare = prepare
        self.settings = settings or CallSettings()
        self.links: dict[str, PeerLink] = {}
        self._other = other
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="parley-aiortc-peer")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._close_links()

    async def call(self, peer: str) -> PeerLink:
        """Offer a connection to that peer, or negotiate the present one again."""
        link = self.link(peer)
        await link.call()
        return link

    def link(self, peer: str) -> PeerLink:
        """The link to a peer of the room, made when it is first asked for."""
        link = self.links.get(peer)
        if link is None:
            entry = self.client.roster.peers.get(peer)
            if entry is None:
                raise SignalingError("not_found", "no such peer in the room")
            link = self.links[peer] = PeerLink(self, peer, polite=entry.polite)
        return link

    async def _run(self) -> None:
        try:
            async for message in self.client:
                await self._take(message)
        except SignalingError as final:
            _log.warning("signaling ended, code %s", final.code)
        await self._close_links()

    async def _take(self, message: ServerMessage) -> None:
        if isinstance(message, wire.RelayedPair) and message.pc == wire.DEFAULT_PC:
            if message.sender in self.client.roster.peers:
                self.link(message.sender).receive(message)
            return
        if isinstance(message, wire.Welcome):
            # Peers know this side under a new id; what was agreed under the old one is void.
            await self._close_links()
        elif isinstance(message, wire.PeerLeft) and message.peer in self.links:
            await self.links.pop(message.peer).close()
        if self._other is not None:
            self._other(message)

    async def _close_links(self) -> None:
        links, self.links = list(self.links.values()), {}
        for link in links:
            await link.close()


class PeerLink:
    """The connection to one peer: perfect negotiation as far as aiortc goes.

    Works off messages one by one in its own task; `call` takes its turn between them.
    """

    def __init__(self, owner: AiortcPeer, peer: str, *, polite: bool) -> None:
        self.peer = peer
        self.polite = polite
        self.pc: Any = None
        """The present RTCPeerConnection; another object after a glare or an ICE restart."""
        self.replaced = 0
        self._owner = owner
        self._client = owner.client
        self._turn = asyncio.Lock()
        self._inbox: asyncio.Queue[wire.RelayedPair] = asyncio.Queue(_INBOX_MESSAGES)
        self._held: list[CandidateInit] = []
        self._remote = outline("")
        """What the applied remote description says about ICE."""
        self._offered = 0
        self._outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="parley-peer-link")

    async def connected(self) -> None:
        """Wait for the connection; raises what made it impossible. Bound it with a timeout."""
        await asyncio.shield(self._outcome)

    async def call(self) -> None:
        """Offer. When established and polite, the other side is asked to: a polite peer's own
        offer may have to be rolled back, which aiortc cannot do to a running connection."""
        async with self._turn:
            if self.polite and self._established:
                await self._client.renegotiate(self.peer)
            else:
                await self._offer()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._fail(ConnectionError("the link was closed"))
        if self.pc is not None:
            await self.pc.close()

    def receive(self, message: wire.RelayedPair) -> None:
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            self._fail(ConnectionError("the peer sends faster than aiortc works"))
            self._task.cancel()

    @property
    def _established(self) -> bool:
        return self.pc is not None and self.pc.connectionState == "connected"

    async def _run(self) -> None:
        while True:
            message = await self._inbox.get()
            async with self._turn:
                try:
                    await self._take(message)
                except SignalingError as no:
                    _log.info("%s refused, code %s", message.__struct_config__.tag, no.code)
                except Exception as failure:  # noqa: BLE001 aiortc's SDP parser raises anything
                    self._fail(ConnectionError(f"{type(failure).__name__} in aiortc"))

    async def _take(self, message: wire.RelayedPair) -> None:
        if isinstance(message, wire.RelayedOffer):
            await self._take_offer(message)
        elif isinstance(message, wire.RelayedAnswer):
            await self._take_answer(message)
        elif isinstance(message, wire.RelayedCandidates):
            await self._take_candidates(message.candidates)
        elif isinstance(message, wire.RelayedRollback):
            if not self._established:
                await self._discard()
        elif isinstance(message, wire.RelayedRenegotiate):
            if message.reason == "ice_restart":
                await self._discard()
            if not (self.polite and self._established):
                await self._offer()

    async def _offer(self) -> None:
        pc = await self._connection(offering=True)
        if pc.signalingState != "stable":
            return
        await pc.setLocalDescription()
        try:
            self._offered = await self._client.offer(self.peer, pc.localDescription.sdp)
        except SignalingError:
            await self._discard()
            raise

    async def _take_offer(self, offer: wire.RelayedOffer) -> None:
        if self.pc is not None and self.pc.signalingState == "have-local-offer":
            if not self.polite:
                return
            await self._discard()
        elif self._restarts_ice(offer.sdp):
            await self._discard()
        pc = await self._connection(offering=False)
        await self._apply(pc, "offer", offer)
        await pc.setLocalDescription()
        sdp = pc.localDescription.sdp
        await self._client.answer(self.peer, sdp, negotiation=offer.negotiation)

    async def _take_answer(self, answer: wire.RelayedAnswer) -> None:
        waiting = self.pc is not None and self.pc.signalingState == "have-local-offer"
        if waiting and answer.negotiation == self._offered:
            await self._apply(self.pc, "answer", answer)

    async def _apply(
        self, pc: Any, kind: str, description: wire.RelayedOffer | wire.RelayedAnswer
    ) -> None:
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(description.sdp, kind))
        self._remote = outline(description.sdp)
        await self._client.applied(self.peer, negotiation=description.negotiation)
        held, self._held = self._held, []
        for candidate in held:
            if self._is_current(candidate):
                await self._add(candidate)

    async def _take_candidates(self, candidates: Sequence[CandidateInit]) -> None:
        for candidate in candidates:
            if self._is_current(candidate):
                await self._add(candidate)
            elif len(self._held) < _HELD_CANDIDATES:
                self._held.append(candidate)
            else:
                self._fail(ConnectionError("too many candidates without their description"))

    def _restarts_ice(self, sdp: str) -> bool:
        applied = set(filter(None, self._remote.ufrags))
        return bool(applied) and applied.isdisjoint(outline(sdp).ufrags)

    def _is_current(self, candidate: CandidateInit) -> bool:
        """True when it belongs to the description that is applied (JSEP: no ufrag, the latest)."""
        applied = self._remote.ufrags
        return bool(applied) and (candidate.ufrag is None or candidate.ufrag in applied)

    async def _add(self, candidate: CandidateInit) -> None:
        """Hand one candidate to aiortc; end-of-candidates ends its media section's transport."""
        if candidate.candidate:
            parsed = candidate_from_sdp(candidate.candidate.removeprefix("candidate:"))
            parsed.sdpMid, parsed.sdpMLineIndex = candidate.sdpMid, candidate.sdpMLineIndex
            await self.pc.addIceCandidate(parsed)
        elif candidate.sdpMid is None:
            await self.pc.addIceCandidate(None)
        else:
            transport = _transports(self.pc, self._remote.mids).get(candidate.sdpMid)
            if transport is not None:
                await transport.addRemoteCandidate(None)

    async def _connection(self, *, offering: bool) -> Any:
        """The present RTCPeerConnection, made when there is none to go on with."""
        if self.pc is not None and self.pc.connectionState in ("failed", "closed"):
            await self._discard()
        if self.pc is None:
            settings = self._owner.settings
            servers = settings.ice_servers
            if servers is None:
                servers = (await self._client.ice_servers()).ice_servers
            policy = aiortc.RTCIceTransportPolicy
            picked = pick_ice_servers(servers, settings.transport)
            self.pc = aiortc.RTCPeerConnection(
                aiortc.RTCConfiguration(
                    iceServers=[_rtc_ice_server(server) for server in picked],
                    iceTransportPolicy=policy.RELAY if settings.relay_only else policy.ALL,
                    bundlePolicy=aiortc.RTCBundlePolicy.MAX_BUNDLE,
                )
            )
            self.pc.on("connectionstatechange", self._watch(self.pc))
            self._owner.prepare(self.pc, offering)
        return self.pc

    def _watch(self, pc: Any) -> Callable[[], None]:
        def changed() -> None:
            if pc is not self.pc:
                return
            if pc.connectionState == "connected" and not self._outcome.done():
                self._outcome.set_result(None)
            elif pc.connectionState in ("failed", "closed"):
                self._fail(ConnectionError(f"the connection is {pc.connectionState}"))

        return changed

    async def _discard(self) -> None:
        """Drop the connection; the next description gets a new one."""
        pc, self.pc, self._remote = self.pc, None, outline("")
        if self._outcome.done():
            self._outcome = asyncio.get_running_loop().create_future()
        if pc is not None:
            self.replaced += 1
            await pc.close()

    def _fail(self, reason: Exception) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(reason)
            self._outcome.exception()


def _rtc_ice_server(server: IceServer) -> Any:
    return aiortc.RTCIceServer(
        urls=server["urls"],
        username=server.get("username"),
        credential=server.get("credential"),
    )


def _transports(pc: Any, mids: Sequence[str | None]) -> dict[str, Any]:
    """Each ICE transport under the first media section that uses it (the bundle's tagged one)."""
    used = {each.mid: each.receiver.transport.transport for each in pc.getTransceivers()}
    if pc.sctp is not None:
        used[pc.sctp.mid] = pc.sctp.transport.transport
    first: dict[str, Any] = {}
    for mid in mids:
        if mid is not None and mid in used and used[mid] not in first.values():
            first[mid] = used[mid]
    return first
