"""A connection from here through one relay to the deployment's own peer.

It speaks aiortc here and the probe API there. It does not judge what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import httpx
import msgspec
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.rtcconfiguration import RTCBundlePolicy, RTCIceTransportPolicy

from probes import aiortc_media
from probes.checks.api import Api
from probes.messages import PeerAnswer, PeerMode
from probes.reasons import Reason, State
from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri

CONNECT_S = 15.0
"""Until packets pass."""
HANDSHAKE_S = 20.0
"""From then on, until data does: on a lossy link DTLS and SCTP send again after seconds."""
ECHOES = 5
_ECHO_S = 2.0
_PASSING = ("connected", "completed")
"""ICE states."""


class NoFarPeer(Exception):  # noqa: N818 - what came of a check, not a mistake
    """The deployment's peer cannot be had or reached; the text says which."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    @property
    def state(self) -> State:
        """A peer that is not to be had now says nothing of the network."""
        return State.SKIPPED if self.reason is Reason.RATE_LIMITED else State.FAILED


def relayed_connection(uri: TurnUri, credential: TurnCredential) -> RTCPeerConnection:
    """Nothing but this relay is used, and one address of it."""
    server = RTCIceServer(str(uri), credential.username, credential.password)
    return RTCPeerConnection(
        RTCConfiguration(
            iceServers=[server],
            bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
            iceTransportPolicy=RTCIceTransportPolicy.RELAY,
        )
    )


@contextlib.asynccontextmanager
async def connected(
    api: Api, pc: RTCPeerConnection, mode: PeerMode, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[PeerAnswer, RTCDataChannel]]:
    """Connects `pc` with a server peer and a data channel; raises NoFarPeer. Ends both.

    `tls` is whom to trust instead of the system's authorities.
    """
    channel = pc.createDataChannel("probe", ordered=False, maxRetransmits=0)
    if tls is not None:
        _trust(pc, tls)
    opened = asyncio.Event()
    channel.on("open", opened.set)
    answer: PeerAnswer | None = None
    try:
        async with asyncio.timeout(CONNECT_S) as deadline:
            pc.on("iceconnectionstatechange", lambda: _allow_handshake(pc, deadline))
            await pc.setLocalDescription(await pc.createOffer())
            answer = await _answer(api, pc.localDescription.sdp, mode)
            await pc.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
            await pc.addIceCandidate(None)
            await opened.wait()
        yield answer, channel
    except TimeoutError as late:
        if pc.iceConnectionState in _PASSING:
            text = f"packets pass, and no connection came of them within {HANDSHAKE_S:g} s"
            raise NoFarPeer(Reason.TIMEOUT, text) from late
        text = f"no packet of the deployment's peer within {CONNECT_S:g} s"
        raise NoFarPeer(Reason.RELAY_SILENT, text) from late
    finally:
        await aiortc_media.close(pc)
        if answer is not None:
            with contextlib.suppress(httpx.HTTPError):
                await api.call("DELETE", f"/v1/probes/peers/{answer.id}")


async def carries_data(
    api: Api, uri: TurnUri, credential: TurnCredential, tls: ssl.SSLContext | None
) -> bool:
    """Whether some messages come back from the deployment's peer through this relay."""
    pc = relayed_connection(uri, credential)
    try:
        async with connected(api, pc, "data", tls) as (_, channel):
            back: asyncio.Queue[str] = asyncio.Queue()
            channel.on("message", back.put_nowait)
            for number in range(ECHOES):
                channel.send(str(number))
            async with asyncio.timeout(_ECHO_S):
                for _ in range(ECHOES - 1):
                    await back.get()
            return True
    except (NoFarPeer, TimeoutError, httpx.HTTPError):
        return False


def _allow_handshake(pc: RTCPeerConnection, deadline: asyncio.Timeout) -> None:
    if pc.iceConnectionState in _PASSING and not deadline.expired():
        with contextlib.suppress(RuntimeError):  # the connection stands already
            deadline.reschedule(asyncio.get_running_loop().time() + HANDSHAKE_S)


def _trust(pc: RTCPeerConnection, tls: ssl.SSLContext) -> None:
    """aiortc has no way to say this: its ICE connection has, before it gathers."""
    pc.sctp.transport.transport.iceGatherer._connection.turn_ssl = tls  # noqa: SLF001


async def _answer(api: Api, sdp: str, mode: PeerMode) -> PeerAnswer:
    try:
        response = await api.call("POST", "/v1/probes/peers", {"sdp": sdp, "mode": mode})
    except httpx.HTTPError as flaw:
        raise NoFarPeer(Reason.SERVER_GONE, "the deployment stopped answering") from flaw
    if response.status_code in (429, 503):
        raise NoFarPeer(Reason.RATE_LIMITED, "the deployment has no peer to spare now")
    try:
        return msgspec.json.decode(response.content, type=PeerAnswer)
    except msgspec.DecodeError as flaw:
        text = f"the deployment's peer answers {response.status_code}"
        raise NoFarPeer(Reason.HTTP_STATUS, text) from flaw
