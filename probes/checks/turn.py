"""Does one TURN URL carry packets: allocate twice, let each send to the other, and count.

The loop proves more than gathering: a relay may give an address and refuse every peer. It does not
know browsers; `server_peer` tells a relay that refuses itself from one that carries nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

from probes.checks import certificate
from probes.checks.outcome import WORDS, in_ms, spoken_ms
from probes.messages import Transport
from probes.reasons import Reason, State
from probes.verdict import CheckResult
from turn_broker.credentials import TurnCredential
from turn_broker.ice_servers import TurnUri
from turn_broker.turn.client import TurnClient
from turn_broker.turn.dialogue import Allocation, Failure, Received
from turn_broker.turn.dialogue import Reason as TurnReason

PACKETS = 50
EVERY_S = 0.02
ENOUGH = 0.95
"""Share of the packets that must come back for a pass."""
PACKET_BYTES = 100
"""As speech: a link that carries a call must not fail for the test's own packets."""
LATE_S = 2.0
"""For the last packet to come back; both ways through two relays take two round trips each."""
_ANY_PORT = 1
ServerPeer = Callable[[], Awaitable[bool]]
"""Whether data passes to the deployment's own peer through this URL."""

_REASONS: dict[TurnReason, Reason] = {
    TurnReason.DNS: Reason.DNS,
    TurnReason.REFUSED: Reason.CONNECTION_REFUSED,
    TurnReason.UNREACHABLE: Reason.UNREACHABLE,
    TurnReason.TIMEOUT: Reason.UNREACHABLE,
    TurnReason.CLOSED: Reason.UNREACHABLE,
    TurnReason.TLS_EXPIRED: Reason.TLS_CERTIFICATE,
    TurnReason.TLS_NOT_YET_VALID: Reason.TLS_CERTIFICATE,
    TurnReason.TLS_NAME: Reason.TLS_CERTIFICATE,
    TurnReason.TLS_SELF_SIGNED: Reason.TLS_CERTIFICATE,
    TurnReason.TLS_UNTRUSTED: Reason.TLS_CERTIFICATE,
    TurnReason.TLS_OTHER: Reason.TLS_CERTIFICATE,
    TurnReason.UNAUTHORIZED: Reason.CREDENTIAL_REJECTED,
    TurnReason.WRONG_CREDENTIALS: Reason.CREDENTIAL_REJECTED,
    TurnReason.BAD_INTEGRITY: Reason.CREDENTIAL_REJECTED,
    TurnReason.FORBIDDEN: Reason.PEER_DENIED,
    TurnReason.QUOTA: Reason.ALLOCATION_QUOTA,
    TurnReason.CAPACITY: Reason.ALLOCATION_QUOTA,
}
_GONE = (TurnReason.CLOSED, TurnReason.REFUSED, TurnReason.UNREACHABLE)
"""What a connection says that had been open."""


class TurnCheck:
    """One URL; passed = at least 95 % of 50 packets in one second came through both relays."""

    def __init__(
        self,
        uri: TurnUri,
        credential: TurnCredential,
        *,
        region: str | None = None,
        is_expired: bool = False,
        tls: ssl.SSLContext | None = None,
        server_peer: ServerPeer | None = None,
        alone: asyncio.Lock | None = None,
    ) -> None:
        """`region` is told where there are several.

        `is_expired` by the server's clock: a 401 then has that reason.

        Checks with the same `alone` send their packets one after another: together they would
        fill a thin link, and each would blame it.
        """
        self.uri = uri
        self._region = region
        self._credential = credential
        self._is_expired = is_expired
        self._tls = tls
        self._server_peer = server_peer
        self._alone = alone or asyncio.Lock()
        self._figures: dict[str, float] = {}
        """Known whatever comes of the packets."""

    @property
    def transport(self) -> Transport:
        kind = self.uri.kind
        return kind if kind in ("tcp", "tls") else "udp"

    def waiting(self) -> CheckResult:
        return self._result(State.WAITING)

    async def check(self) -> CheckResult:
        """Never raises for what a server or network does."""
        began = time.monotonic()
        async with self._client() as here, self._client() as there:
            for client in (here, there):
                allocation = await client.allocate()
                self._figures |= certificate.expiry(client.tls)
                if isinstance(allocation, Failure):
                    return self._failed(allocation)
            connect_ms = in_ms(time.monotonic() - began)
            failure = await _permit_each_other(here, there)
            if failure is None:
                async with self._alone:
                    trips, gone = await _packets(here, there)
                if gone is not None:
                    return self._gone(len(trips))
                if trips:
                    return self._carried(trips, connect_ms)
        return await self._not_carried(failure)

    def _client(self) -> TurnClient:
        return TurnClient(self.uri, self._credential, tls=self._tls)

    def _carried(self, trips: list[float], connect_ms: float) -> CheckResult:
        loss = 1 - len(trips) / PACKETS
        median_ms = in_ms(sorted(trips)[len(trips) // 2])
        figures = {
            "connect_ms": connect_ms,
            "round_trip_ms": median_ms,
            "loss_ratio": round(loss, 3),
        }
        text = f"{len(trips)} of {PACKETS} packets came through, in {spoken_ms(median_ms)}"
        if 1 - loss >= ENOUGH:
            return self._result(State.PASSED, detail=text, figures=figures)
        return self._result(State.WARNING, Reason.PACKET_LOSS, text, figures)

    def _failed(self, failure: Failure) -> CheckResult:
        reason = _REASONS.get(failure.reason, Reason.UNREACHABLE)
        if reason is Reason.CREDENTIAL_REJECTED and self._is_expired:
            reason = Reason.CREDENTIAL_EXPIRED
        code = f" ({failure.code})" if failure.code else ""
        text = f"{WORDS.get(reason, reason.value)}{code}"
        if reason is Reason.TLS_CERTIFICATE:
            text = f"the certificate is not accepted: {failure.reason.value.removeprefix('tls_')}"
        return self._result(State.FAILED, reason, text)

    def _gone(self, arrived: int) -> CheckResult:
        text = f"the relay went away after {arrived} of {PACKETS} packets"
        return self._result(State.FAILED, Reason.SERVER_GONE, text)

    async def _not_carried(self, failure: Failure | None) -> CheckResult:
        """`failure` of a permission; None: packets were sent and none came."""
        if failure is not None and failure.reason in _GONE:
            return self._gone(0)
        if self._server_peer is not None and await self._server_peer():
            return self._result(State.WARNING, Reason.HAIRPIN)
        denied = failure is not None and failure.reason is TurnReason.FORBIDDEN
        return self._result(State.FAILED, Reason.PEER_DENIED if denied else Reason.RELAY_SILENT)

    def _result(
        self,
        state: State,
        reason: Reason = Reason.NONE,
        detail: str = "",
        figures: dict[str, float] | None = None,
    ) -> CheckResult:
        host = f"[{self.uri.host}]" if ":" in self.uri.host else self.uri.host
        return CheckResult(
            name="turn",
            state=state,
            reason=reason,
            transport=self.transport,
            region=self._region,
            target=f"{host}:{self.uri.port}",
            detail=detail or WORDS.get(reason, ""),
            figures={**(figures or {}), **self._figures},
        )


async def _permit_each_other(here: TurnClient, there: TurnClient) -> Failure | None:
    for client, other in ((here, there), (there, here)):
        allocation = other.allocation
        assert isinstance(allocation, Allocation)
        refused = await client.permit((allocation.relayed[0], _ANY_PORT))
        if refused is not None:
            return refused
    return None


async def _packets(here: TurnClient, there: TurnClient) -> tuple[list[float], Failure | None]:
    """Seconds that each packet took there and back, a lost one is missing; and what ended it."""
    assert here.allocation is not None
    assert there.allocation is not None
    sent_at: dict[bytes, float] = {}
    trips: list[float] = []
    end = time.monotonic() + PACKETS * EVERY_S + LATE_S
    target = there.allocation.relayed

    async def send() -> None:
        nonlocal end
        for number in range(PACKETS):
            packet = b"%08d" % number + bytes(PACKET_BYTES - 8)
            sent_at[packet[:8]] = time.monotonic()
            here.send(target, packet)
            # A busy machine sends late: that is no loss.
            end = time.monotonic() + (PACKETS - number) * EVERY_S + LATE_S
            await asyncio.sleep(EVERY_S)

    async def echo() -> None:
        while isinstance(heard := await there.receive(end - time.monotonic()), Received):
            there.send(heard.peer, heard.payload)

    async def collect() -> Failure | None:
        while len(trips) < PACKETS:
            heard = await here.receive(end - time.monotonic())
            if isinstance(heard, Failure):
                return None if heard.reason is TurnReason.TIMEOUT else heard
            if heard.payload[:8] in sent_at:
                trips.append(time.monotonic() - sent_at.pop(heard.payload[:8]))
        return None

    others = {asyncio.ensure_future(echo()), asyncio.ensure_future(send())}
    try:
        return trips, await collect()
    finally:
        for task in others:
            task.cancel()
        await asyncio.wait(others)
