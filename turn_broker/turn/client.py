"""A small TURN client over UDP, TCP and TLS, for probes and the doctor: not for media.

Every step has a deadline and returns what it brought or a `Failure`; nothing is raised for what a
server or a network does. One step at a time. The socket is gone when the client is left.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri
from turn_broker.relay.framing import stream_frame
from turn_broker.relay.stun import UDP, Endpoint, Method, RawAttribute, read_u32
from turn_broker.relay.stun import Attribute as StunAttribute
from turn_broker.turn.dialogue import (
    Allocation,
    Answer,
    Dialogue,
    Failure,
    Reason,
    Received,
    Step,
    family_attribute,
    lifetime_attribute,
    mapped_address,
    peer_attribute,
    send_indication,
    transport_attribute,
)
from turn_broker.turn.wire import Wire, open_wire

STEP_TIMEOUT_S = 3.0
FIRST_RETRANSMISSION_S = 0.25
MAX_ATTEMPTS = 3
"""Of one request: unsigned, signed, and once more with a fresh nonce."""
MAX_PORTS = 3
"""Of ours that an Allocate is tried from."""
MAX_KEPT = 64
"""Payloads that arrived while a request was on its way."""
_CLOSE_TIMEOUT_S = 0.5
_Attributes = Callable[[bytes], Iterable[RawAttribute]]
"""Given the transaction id, which masks addresses."""


class TurnClient:
    """One connection to one TURN URL, and at most one allocation.

    ```python
    async with TurnClient(uri, credential) as turn:
        allocation = await turn.allocate()
        if isinstance(allocation, Failure):
            return allocation.reason
        refused = await turn.permit(peer)
    ```
    """

    def __init__(
        self,
        uri: TurnUri,
        credential: TurnCredential | None = None,
        *,
        timeout_s: float = STEP_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        address: str | None = None,
    ) -> None:
        """`timeout_s` bounds every step. `tls` replaces the system's trust.

        `address` is where to connect instead of the URL's host, which the certificate is still
        checked against.
        """
        self.uri = uri
        self._timeout_s = timeout_s
        self._tls = tls
        self._address = address
        self._dialogue = Dialogue(credential)
        self._wire: Wire | None = None
        self._kept: deque[Received] = deque(maxlen=MAX_KEPT)
        self.allocation: Allocation | None = None
        self.exchanged = (0, 0)
        """Bytes of the last request and of its answer, as STUN messages."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def software(self) -> str:
        """What the server calls itself; empty if it did not say."""
        return self._dialogue.software

    @property
    def realm(self) -> str | None:
        """The realm that the server named."""
        return self._dialogue.realm

    @property
    def server(self) -> Endpoint | None:
        """The address that is connected."""
        return None if self._wire is None else self._wire.remote

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, for its version and certificate."""
        return None if self._wire is None else self._wire.tls

    async def open(self) -> Failure | None:
        """Resolve and connect; every other step does it when it has not been done."""
        if self._wire is not None:
            return None
        opened = await open_wire(self.uri, self._timeout_s, self._tls, self._address)
        if isinstance(opened, Failure):
            return opened
        self._wire = opened
        return None

    async def bind(self) -> Endpoint | Failure:
        """Our address as the server sees it (STUN Binding)."""
        answer = await self._ask(Step.BINDING, Method.BINDING, lambda _: ())
        if isinstance(answer, Failure):
            return answer
        mapped = mapped_address(answer)
        return mapped or Failure(step=Step.BINDING, reason=Reason.MALFORMED)

    async def allocate(
        self, *, protocol: int = UDP, family: int | None = None, lifetime_s: int | None = None
    ) -> Allocation | Failure:
        """A relayed address. `protocol` 6 asks for a TCP one (RFC 6062)."""
        attributes = [transport_attribute(protocol)]
        if family is not None:
            attributes.append(family_attribute(family))
        if lifetime_s is not None:
            attributes.append(lifetime_attribute(lifetime_s))
        answer = await self._allocate(attributes, MAX_PORTS)
        if isinstance(answer, Failure):
            return answer
        allocation = self._dialogue.allocation(answer)
        if isinstance(allocation, Allocation):
            self.allocation = allocation
        return allocation

    async def _allocate(self, attributes: list[RawAttribute], ports: int) -> Answer | Failure:
        answer = await self._ask(Step.ALLOCATE, Method.ALLOCATE, lambda _: attributes)
        is_taken = (
            isinstance(answer, Failure)
            and answer.reason is Reason.ALLOCATION_MISMATCH
            and self.allocation is None
        )
        if not is_taken or ports == 1:
            return answer
        # The server remembers a former client at our port; RFC 8656 section 7.4: take another.
        await self._disconnect()
        return await self._allocate(attributes, ports - 1)

    async def permit(self, *peers: Endpoint) -> Failure | None:
        """Let peers at these hosts send to us, and us to them."""
        answer = await self._ask(
            Step.PERMISSION,
            Method.CREATE_PERMISSION,
            lambda transaction_id: [peer_attribute(peer, transaction_id) for peer in peers],
        )
        return answer if isinstance(answer, Failure) else None

    async def refresh(self, lifetime_s: int = 600) -> int | Failure:
        """The lifetime the server grants from now; 0 ends the allocation."""
        answer = await self._ask(
            Step.REFRESH, Method.REFRESH, lambda _: [lifetime_attribute(lifetime_s)]
        )
        if isinstance(answer, Failure):
            return answer
        if lifetime_s == 0:
            self.allocation = None
        lifetime = read_u32(answer.message.first(StunAttribute.LIFETIME) or b"")
        if lifetime is None:
            return Failure(step=Step.REFRESH, reason=Reason.MALFORMED)
        return lifetime

    def send(self, peer: Endpoint, payload: bytes) -> None:
        """A payload to a permitted peer; like any datagram it may be lost."""
        if self._wire is not None:
            self._wire.send(self._framed(send_indication(peer, payload, secrets.token_bytes(12))))

    async def receive(self, timeout_s: float | None = None) -> Received | Failure:
        """The next payload of a peer."""
        if self._kept:
            return self._kept.popleft()
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                while True:
                    read = await self._next(Step.RELAY)
                    if not isinstance(read, Answer):
                        return read
        except TimeoutError:
            return Failure(step=Step.RELAY, reason=Reason.TIMEOUT)

    async def close(self) -> None:
        """End the allocation, as far as the server still listens, and the connection."""
        try:
            if self._wire is not None and self.allocation is not None:
                self._timeout_s = _CLOSE_TIMEOUT_S
                await self.refresh(0)
        finally:
            self.allocation = None
            await self._disconnect()

    async def _disconnect(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _ask(self, step: Step, method: Method, attributes: _Attributes) -> Answer | Failure:
        """A request's success, after the server's challenges."""
        failed = await self.open()
        if failed is not None:
            return failed
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._attempt(step, method, attributes, MAX_ATTEMPTS)
        except TimeoutError:
            return Failure(step=step, reason=Reason.TIMEOUT)

    async def _attempt(
        self, step: Step, method: Method, attributes: _Attributes, attempts: int
    ) -> Answer | Failure:
        transaction_id = secrets.token_bytes(12)
        raw = self._dialogue.request(method, transaction_id, attributes(transaction_id))
        answer = await self._exchange(step, raw, transaction_id)
        if isinstance(answer, Failure):
            return answer
        self.exchanged = (len(raw), len(answer.message.raw))
        if attempts > 1 and self._dialogue.accepts_challenge(answer):
            return await self._attempt(step, method, attributes, attempts - 1)
        return self._dialogue.failure(step, answer) or answer

    async def _exchange(self, step: Step, raw: bytes, transaction_id: bytes) -> Answer | Failure:
        """The answer to one request, repeated over UDP until it comes."""
        assert self._wire is not None
        pause_s = FIRST_RETRANSMISSION_S
        while True:
            self._wire.send(self._framed(raw))
            try:
                async with asyncio.timeout(None if self._wire.is_stream else pause_s):
                    return await self._answer(step, transaction_id)
            except TimeoutError:
                pause_s *= 2

    async def _answer(self, step: Step, transaction_id: bytes) -> Answer | Failure:
        while True:
            read = await self._next(step)
            if isinstance(read, Failure):
                return read
            if isinstance(read, Received):
                self._kept.append(read)
            elif read.message.transaction_id == transaction_id:
                return read

    async def _next(self, step: Step) -> Answer | Received | Failure:
        """The next thing of use from the server."""
        assert self._wire is not None
        while True:
            raw = await self._wire.receive()
            if isinstance(raw, Reason):
                return Failure(step=step, reason=raw)
            read = self._dialogue.read(raw)
            if read is not None:
                return read

    def _framed(self, raw: bytes) -> bytes:
        return stream_frame(raw) if self._wire is not None and self._wire.is_stream else raw
