"""One aiortc connection to one peer, negotiated over the signaling client.

aiortc 1.16 loses candidates that come before the remote description, uses one TURN URL, cannot
roll back and cannot restart ICE. So messages are worked off strictly one by one, the URL is picked
here, and where a browser would roll back or restart, the connection is replaced by a new one.
It does not know rooms and never touches the media.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from signal_server.client import SignalingClient
from signal_server.client_wire import GlareError, SignalingError
from signal_server.wire import messages as wire
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.sdp import outline

try:
    import aiortc
    from aiortc.sdp import candidate_from_sdp
except ImportError as missing:
    raise ImportError("aiortc peers need aiortc: pip install 'parley-rtc[probes]'") from missing

Transport = Literal["udp", "tcp", "tls"]
IceServer = Mapping[str, Any]

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
    """How to connect."""

    ice_servers: Sequence[IceServer] | None = None
    """None asks the server anew for each connection, because credentials expire."""
    transport: Transport | None = None
    """Which kind of TURN URL to use; None takes the first."""
    relay_only: bool = False


class Application(Protocol):
    """What runs over the connections; asked again for each new RTCPeerConnection."""

    def listen(self, pc: Any) -> None:
        """Register for `track`, `datachannel` and other events of a new connection."""

    def attach(self, pc: Any, offered: frozenset[str] | None) -> None:
        """Add tracks and channels: all of one's own to make an offer (`offered` is None), else
        at most tracks of the kinds that the other side has offered and nothing is sent for yet."""


class PeerLink:
    """The connection to one peer: perfect negotiation as far as aiortc goes.

    Works off messages one by one in its own task; `call` takes its turn between them.
    """

    def __init__(
        self,
        client: SignalingClient,
        peer: str,
        *,
        polite: bool,
        application: Application,
        settings: CallSettings,
    ) -> None:
        self.peer = peer
        self.polite = polite
        self.pc: Any = None
        """The present RTCPeerConnection; another object after a glare or an ICE restart."""
        self.replaced = 0
        self._client = client
        self._application = application
        self._settings = settings
        self._turn = asyncio.Lock()
        self._inbox: asyncio.Queue[wire.RelayedPair] = asyncio.Queue(_INBOX_MESSAGES)
        self._remote = outline("")
        """What the applied remote description says about ICE."""
        self._first: int | None = None
        """The negotiation that began the present connection, once it has a remote description."""
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
            if self.polite and self._is_negotiated:
                await self._client.renegotiate(self.peer)
            else:
                await self._offer()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._fail(ConnectionError("the link was closed"))
        if self.pc is not None:
            await _dispose(self.pc)

    def receive(self, message: wire.RelayedPair) -> None:
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            self._fail(ConnectionError("the peer sends faster than aiortc works"))
            self._task.cancel()

    @property
    def _is_negotiated(self) -> bool:
        """True when the present connection is, or is about to be, in use."""
        return self._first is not None and self.pc.connectionState not in ("failed", "closed")

    async def _run(self) -> None:
        while True:
            message = await self._inbox.get()
            async with self._turn:
                try:
                    await self._take(message)
                except SignalingError as no:
                    _log.info("%s refused, code %s", message.__struct_config__.tag, no.code)
                except Exception as failure:  # noqa: BLE001 aiortc's SDP parser raises anything
                    await self._discard()
                    known = isinstance(failure, ConnectionError)
                    name = type(failure).__name__
                    self._fail(failure if known else ConnectionError(f"{name} in aiortc"))

    async def _take(self, message: wire.RelayedPair) -> None:
        if isinstance(message, wire.RelayedOffer):
            await self._take_offer(message)
        elif isinstance(message, wire.RelayedAnswer):
            await self._take_answer(message)
        elif isinstance(message, wire.RelayedCandidates):
            await self._take_candidates(message.candidates)
        elif isinstance(message, wire.RelayedRollback):
            if message.negotiation == self._first:
                await self._discard()
        elif isinstance(message, wire.RelayedRenegotiate):
            if message.reason == "ice_restart":
                await self._discard()
            if not (self.polite and self._is_negotiated):
                await self._offer()

    async def _offer(self) -> None:
        pc = await self._connection(offering=True)
        if pc.signalingState != "stable":
            return
        try:
            self._offered = await self._client.offer(self.peer, await _describe(pc))
        except GlareError:
            # The other side's offer won, and brings the connection.
            await self._discard()
        except (ConnectionError, SignalingError):
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
        unsent = frozenset(each.kind for each in pc.getTransceivers() if each.sender.track is None)
        if unsent:
            self._application.attach(pc, unsent)
        sdp = await _describe(pc)
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
        if self._first is None:
            self._first = description.negotiation
        await self._client.applied(self.peer, negotiation=description.negotiation)

    async def _take_candidates(self, candidates: Sequence[CandidateInit]) -> None:
        for candidate in candidates:
            if self._is_current(candidate):
                try:
                    await self._add(candidate)
                except (AssertionError, ValueError):
                    _log.info("a candidate cannot be read")

    def _restarts_ice(self, sdp: str) -> bool:
        applied = set(filter(None, self._remote.ufrags))
        return bool(applied) and applied.isdisjoint(outline(sdp).ufrags)

    def _is_current(self, candidate: CandidateInit) -> bool:
        """True when it belongs to the applied description (JSEP: without a ufrag, to the latest).

        Others are of an ignored offer: the server lets no candidate overtake its description, and
        the inbox keeps both waiting until aiortc has set it.
        """
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
            servers = self._settings.ice_servers
            if servers is None:
                servers = (await self._client.ice_servers()).ice_servers
            if self._outcome.done():
                self._outcome = asyncio.get_running_loop().create_future()
            self.pc = _new_connection(self._settings, servers)
            self.pc.on("connectionstatechange", self._watch(self.pc))
            self._application.listen(self.pc)
            if offering:
                self._application.attach(self.pc, None)
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
        pc, self.pc, self._first, self._remote = self.pc, None, None, outline("")
        if pc is not None:
            self.replaced += 1
            await _dispose(pc)

    def _fail(self, reason: Exception) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(reason)
            self._outcome.exception()


def _new_connection(settings: CallSettings, ice_servers: Sequence[IceServer]) -> Any:
    servers = [
        aiortc.RTCIceServer(
            urls=server["urls"],
            username=server.get("username"),
            credential=server.get("credential"),
        )
        for server in pick_ice_servers(ice_servers, settings.transport)
    ]
    policy, bundle = aiortc.RTCIceTransportPolicy, aiortc.RTCBundlePolicy
    return aiortc.RTCPeerConnection(
        aiortc.RTCConfiguration(
            iceServers=servers,
            iceTransportPolicy=policy.RELAY if settings.relay_only else policy.ALL,
            bundlePolicy=bundle.MAX_BUNDLE,
        )
    )


async def _describe(pc: Any) -> str:
    """Set and return the local description, with every candidate in it (aiortc never trickles)."""
    await pc.setLocalDescription()
    sdp: str = pc.localDescription.sdp
    if "a=candidate:" not in sdp:
        # aiortc hides why: a TURN server that does not answer, or that refuses the credential.
        raise ConnectionError("no ICE candidate could be gathered")
    return sdp


async def _dispose(pc: Any) -> None:
    """Close it to the end even if the caller is cancelled: aiortc cannot resume a broken close."""
    await asyncio.wait([asyncio.ensure_future(pc.close())])


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
