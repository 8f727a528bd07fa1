"""Does an allocation carry packets? One relayed packet each way, past what a permission promises.

First with a UDP socket of our own as the peer. Where the node denies our address, or nothing comes
through our network, a second allocation of the same node is the peer: that needs the node to reach
its own relayed addresses (hairpin), which many deny too.
"""

from __future__ import annotations

import asyncio
import secrets
import socket

from turn_broker.relay.stun import Endpoint, family_of
from turn_broker.turn.client import TurnClient
from turn_broker.turn.dialogue import (
    Allocation,
    Failure,
    Outcome,
    Reason,
    Received,
    RelayProof,
    Step,
)

RESEND_S = 0.2
PROBE_BYTES = 16
_ANY_PORT = 1
"""A permission is by host (RFC 8656 section 9)."""


async def prove_relay(
    turn: TurnClient, other: TurnClient, *, timeout_s: float, always_loop: bool = False
) -> RelayProof:
    """Send through the allocation of `turn`; `other` allocates when the loop is needed.

    Takes at most a few times `timeout_s`. Raises ValueError when `turn` has no allocation.
    """
    allocation = turn.allocation
    if allocation is None:
        raise ValueError("there is no allocation to prove")
    peer = await _through_socket(turn, allocation, timeout_s)
    if peer == "carried" and not always_loop:
        return RelayProof(peer=peer)
    return RelayProof(peer=peer, loop=await _through_loop(turn, allocation, other, timeout_s))


class _Peer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue(16)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.got.full():
            self.got.put_nowait(data)


async def _through_socket(turn: TurnClient, allocation: Allocation, timeout_s: float) -> Outcome:
    # Where we sit behind a NAT the node sees the same host for this socket as for the client's.
    hosts = {allocation.mapped[0]} if allocation.mapped is not None else set()
    if (local := _local_host(allocation.relayed)) is not None:
        hosts.add(local)
    refused: Failure | None = Failure(step=Step.RELAY, reason=Reason.UNREACHABLE)
    permitted = False
    for host in sorted(hosts):
        if family_of(host) == family_of(allocation.relayed[0]):
            refused = await turn.permit((host, _ANY_PORT))
            permitted |= refused is None
    if not permitted:
        return refused or Failure(step=Step.PERMISSION, reason=Reason.FORBIDDEN)
    try:
        transport, peer = await asyncio.get_running_loop().create_datagram_endpoint(
            _Peer, remote_addr=allocation.relayed
        )
    except OSError as flaw:
        return Failure(step=Step.RELAY, reason=Reason.UNREACHABLE, text=flaw.strerror or "")
    try:
        return await _there_and_back(turn, transport, peer, timeout_s)
    finally:
        transport.abort()


async def _there_and_back(
    turn: TurnClient, transport: asyncio.DatagramTransport, peer: _Peer, timeout_s: float
) -> Outcome:
    there, back = secrets.token_bytes(PROBE_BYTES), secrets.token_bytes(PROBE_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                transport.sendto(there)
                heard = await _hear(turn, there)
                if isinstance(heard, Received):
                    break
                if heard is not None:
                    return heard
            while True:
                turn.send(heard.peer, back)
                try:
                    async with asyncio.timeout(RESEND_S):
                        while await peer.got.get() != back:
                            pass
                except TimeoutError:
                    continue
                return "carried"
    except TimeoutError:
        return Failure(step=Step.RELAY, reason=Reason.TIMEOUT)


async def _through_loop(
    turn: TurnClient, allocation: Allocation, other: TurnClient, timeout_s: float
) -> Outcome:
    far = await other.allocate()
    if isinstance(far, Failure):
        return far
    for client, host in ((turn, far.relayed[0]), (other, allocation.relayed[0])):
        refused = await client.permit((host, _ANY_PORT))
        if refused is not None:
            return refused
    there = await _one_way(turn, far.relayed, other, timeout_s)
    return there or await _one_way(other, allocation.relayed, turn, timeout_s) or "carried"


async def _one_way(
    sender: TurnClient, target: Endpoint, listener: TurnClient, timeout_s: float
) -> Failure | None:
    payload = secrets.token_bytes(PROBE_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                sender.send(target, payload)
                heard = await _hear(listener, payload)
                if isinstance(heard, Received):
                    return None
                if heard is not None:
                    return heard
    except TimeoutError:
        return Failure(step=Step.RELAY, reason=Reason.TIMEOUT)


async def _hear(turn: TurnClient, payload: bytes) -> Received | Failure | None:
    """That payload; None when it is time to send it again."""
    while True:
        heard = await turn.receive(RESEND_S)
        if isinstance(heard, Failure):
            return None if heard.reason is Reason.TIMEOUT else heard
        if heard.payload == payload:
            return heard


def _local_host(target: Endpoint) -> str | None:
    """Our address on the way to `target`; nothing is sent."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(target)
        except OSError:
            return None
        return str(probe.getsockname()[0])
