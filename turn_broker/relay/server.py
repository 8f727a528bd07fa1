"""The embedded TURN relay on sockets: UDP and TCP clients, UDP towards peers.

Feeds the state machine and carries out its effects; decides nothing. UDP sockets are read in
batches straight from the loop, so a packet costs no task and a full kernel buffer loses packets
instead of filling memory. For development: a production deployment runs coturn.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from turn_broker.relay.allocation import Allocation
from turn_broker.relay.allocations import TurnServer
from turn_broker.relay.authentication import Flow, Now, RelayIdentity
from turn_broker.relay.counters import Counters
from turn_broker.relay.effects import CloseRelay, Effects, OpenRelay, ToClient, ToPeer
from turn_broker.relay.ports import bind_listeners, bind_relay
from turn_broker.relay.settings import RelaySettings
from turn_broker.relay.streams import ClientStream
from turn_broker.relay.stun import IPV4, IPV6

__all__ = ["Relay", "RelaySettings", "RelayStats", "Watcher"]

_log = logging.getLogger("parley.turn_broker")
_BATCH = 64
_DATAGRAM = 65_535


@dataclass(frozen=True, slots=True)
class RelayStats:
    """A look at the relay."""

    allocations: int
    connections: int
    unsent: int
    """Packets that a full kernel or client buffer did not take."""
    counters: Counters


class Watcher(Protocol):
    """Hears of allocations as they come and go."""

    def relay_opened(self, allocation: Allocation) -> None:
        """It can be used from now on."""

    def relay_closed(self, closed: CloseRelay) -> None:
        """It is gone."""


class Relay:
    """A running relay. Create with `await Relay.start(...)`, end with `await relay.close()`."""

    def __init__(
        self,
        settings: RelaySettings,
        listeners: tuple[socket.socket, socket.socket],
        now_unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._udp, self._tcp = listeners
        self._now_unix = now_unix
        self._monotonic = monotonic
        self.port: int = self._udp.getsockname()[1]
        addresses = {IPV4: settings.relay_address, IPV6: settings.relay_address_v6}
        self._addresses = {family: host for family, host in addresses.items() if host}
        identity = RelayIdentity(
            settings.realm,
            settings.secrets,
            nonce_key=secrets.token_bytes(32),
            families=frozenset(self._addresses),
        )
        own = settings.policy.own_ports | {self.port}
        self._turn = TurnServer(identity, replace(settings.policy, own_ports=own), settings.limits)
        self._relays: dict[int, socket.socket] = {}
        self._streams: dict[Flow, ClientStream] = {}
        self._no_streams = asyncio.Event()
        self._no_streams.set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._watcher: Watcher | None = None
        self._closing = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def start(
        cls,
        settings: RelaySettings,
        *,
        now_unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> Relay:
        """Listens; OSError when it cannot."""
        udp, tcp = bind_listeners(settings.host, settings.port)
        try:
            relay = cls(settings, (udp, tcp), now_unix, monotonic)
            relay._server = await relay._loop.create_server(lambda: ClientStream(relay), sock=tcp)
        except BaseException:
            udp.close()
            tcp.close()
            raise
        relay._loop.add_reader(udp, relay._clients_readable)
        relay._timer = relay._loop.call_later(settings.tick, relay._tick)
        _log.info("relay listening", extra={"port": relay.port})
        return relay

    @property
    def udp_port(self) -> int:
        """The UDP listener's port."""
        return self.port

    @property
    def tcp_port(self) -> int:
        """The TCP listener's port, the same number."""
        return self.port

    @property
    def stats(self) -> RelayStats:
        """Figures of this moment."""
        counters = replace(self._turn.counters)
        return RelayStats(len(self._turn), len(self._streams), self._unsent, counters)

    def watch(self, watcher: Watcher | None) -> None:
        """From now on `watcher` hears of allocations that come and go, instead of the former."""
        self._watcher = watcher

    def sessions(self) -> tuple[Allocation, ...]:
        """Allocations that are open now, oldest first; not to be changed."""
        return self._turn.sessions()

    def cut(self, number: int) -> bool:
        """Ends an allocation; False when there is none of that number any more."""
        cuts = self._turn.cut(number)
        self._carry_out(cuts)
        return bool(cuts)

    def drain(self, on: bool) -> None:
        """Refuses new allocations with 508, or takes them again."""
        self._turn.is_draining = on

    def replace_secrets(self, secrets: tuple[str, ...]) -> None:
        """Puts other secrets in force; allocations made with a missing one cannot be refreshed."""
        self._turn.replace_secrets(secrets)

    async def close(self) -> None:
        """Ends every allocation, connection and socket."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._udp.fileno() >= 0:
            self._loop.remove_reader(self._udp)
            self._udp.close()
        if self._server is not None:
            self._server.close()
        for stream in list(self._streams.values()):
            stream.cut()
        await self._no_streams.wait()
        for number in list(self._relays):
            self._close_relay(number)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def now(self) -> Now:
        """Both clocks."""
        return Now(self._monotonic(), self._now_unix())

    def holds(self, flow: Flow) -> bool:
        """Whether the client has an allocation."""
        return self._turn.holds(flow)

    def frame_received(self, flow: Flow, frame: bytes, now: Now) -> None:
        """A frame from a TCP client."""
        self._carry_out(self._turn.received(flow, frame, now))

    def stream_opened(self, stream: ClientStream) -> bool:
        """Takes in a connection, unless there are too many."""
        full = len(self._streams) >= self.settings.max_connections
        if full or self._closing or stream.flow in self._streams:
            return False
        self._streams[stream.flow] = stream
        self._no_streams.clear()
        return True

    def stream_closed(self, stream: ClientStream) -> None:
        """Forgets a connection and ends its allocation."""
        if self._streams.get(stream.flow) is not stream:
            return
        del self._streams[stream.flow]
        self._carry_out(self._turn.flow_closed(stream.flow))
        if not self._streams:
            self._no_streams.set()

    def _clients_readable(self) -> None:
        now = self.now()
        for _ in range(_BATCH):
            try:
                raw, address = self._udp.recvfrom(_DATAGRAM)
            except OSError:
                return
            flow = Flow("udp", address[0], address[1])
            self._carry_out(self._turn.received(flow, raw, now))

    def _peer_readable(self, number: int, relayed: socket.socket) -> None:
        now = self.now()
        for _ in range(_BATCH):
            try:
                payload, address = relayed.recvfrom(_DATAGRAM)
            except OSError:
                return
            self._carry_out(self._turn.peer_received(number, address[:2], payload, now))

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            if type(effect) is ToPeer:
                self._send_udp(self._relays[effect.allocation], effect.payload, effect.peer)
            elif type(effect) is ToClient:
                self._send_to_client(effect)
            elif type(effect) is CloseRelay:
                self._close_relay(effect.allocation)
                if self._watcher is not None:
                    self._watcher.relay_closed(effect)
            elif type(effect) is OpenRelay:
                self._open_relay(effect)

    def _send_to_client(self, effect: ToClient) -> None:
        flow = effect.flow
        if flow.transport == "udp":
            self._send_udp(self._udp, effect.payload, (flow.host, flow.port))
            return
        stream = self._streams.get(flow)
        if stream is None or not stream.send(effect.payload):
            self._unsent += 1

    def _send_udp(self, sock: socket.socket, payload: bytes, address: tuple[str, int]) -> None:
        try:
            sock.sendto(payload, address)
        except OSError:
            self._unsent += 1

    def _open_relay(self, effect: OpenRelay) -> None:
        settings = self.settings
        ports = range(settings.min_port, settings.max_port + 1) if settings.max_port else None
        relayed = bind_relay(self._addresses[effect.family], ports, even=effect.even_port)
        if relayed is None:
            self._carry_out(self._turn.relay_failed(effect.allocation))
            return
        self._relays[effect.allocation] = relayed
        self._loop.add_reader(relayed, self._peer_readable, effect.allocation, relayed)
        endpoint = relayed.getsockname()[:2]
        self._carry_out(self._turn.relay_opened(effect.allocation, endpoint))
        if self._watcher is not None:
            self._watcher.relay_opened(self._turn.session(effect.allocation))

    def _close_relay(self, number: int) -> None:
        relayed = self._relays.pop(number)
        self._loop.remove_reader(relayed)
        relayed.close()

    def _tick(self) -> None:
        now = self.now()
        self._carry_out(self._turn.expire(now))
        for stream in list(self._streams.values()):
            if stream.overdue(now.monotonic):
                stream.cut()
        self._timer = self._loop.call_later(self.settings.tick, self._tick)
