"""A room member made of aiortc: it answers everybody and calls whom it is told to.

Gives every peer of the room its own `PeerLink` and hands each message to the right one. It does
not know descriptions, candidates or media.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Self

from signal_server.aiortc_link import Application, CallSettings, PeerLink
from signal_server.client import ClientEvent, SignalingClient
from signal_server.client_session import SessionLost
from signal_server.client_wire import SignalingError
from signal_server.wire import messages as wire

_log = logging.getLogger("parley.client")


class AiortcPeer:
    """`async with AiortcPeer(client, application) as peer: link = await peer.call(peer_id)`.

    It consumes the client's events; those it has no use for go to `other`, incoming calls among
    them. Connections outlive a resumed session and end with a lost one.
    """

    def __init__(
        self,
        client: SignalingClient,
        application: Application,
        settings: CallSettings | None = None,
        *,
        other: Callable[[ClientEvent], None] | None = None,
    ) -> None:
        self.client = client
        self.application = application
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
            link = self.links[peer] = PeerLink(
                self.client,
                peer,
                polite=entry.polite,
                application=self.application,
                settings=self.settings,
            )
        return link

    async def _run(self) -> None:
        try:
            async for message in self.client:
                await self._take(message)
        except SignalingError as final:
            _log.warning("signaling ended, code %s", final.code)
        await self._close_links()

    async def _take(self, message: ClientEvent) -> None:
        if isinstance(message, wire.RelayedPair) and message.pc == wire.DEFAULT_PC:
            if message.sender in self.client.roster.peers:
                self.link(message.sender).receive(message)
            return
        if isinstance(message, SessionLost):
            # Peers will know this side under a new id; what was agreed under the old one is void.
            await self._close_links()
        elif isinstance(message, wire.PeerLeft):
            await self._close_link(message.peer)
        elif isinstance(message, wire.PeerReplaced):
            await self._close_link(message.replaced)
        if self._other is not None:
            self._other(message)

    async def _close_link(self, peer: str) -> None:
        link = self.links.pop(peer, None)
        if link is not None:
            await link.close()

    async def _close_links(self) -> None:
        for link in list(self.links.values()):
            await link.close()
        self.links.clear()
