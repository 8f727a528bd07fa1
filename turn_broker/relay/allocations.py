"""The relay's state machine: a TURN server (RFC 8656) without sockets, clocks or randomness.

Takes what arrived and what time it is, returns effects. Unauthenticated bytes cost at most one
small answer and no memory; everything a client can make grow has a bound in `RelayLimits`. An
allocation never outlives the credential that made it, and each request on it is checked against
the secrets and the expiry of that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from turn_broker.relay.allocation import (
    INSUFFICIENT_CAPACITY,
    PERMISSION_LIFETIME,
    Allocation,
    RelayLimits,
)
from turn_broker.relay.authentication import (
    BAD_REQUEST,
    Authenticator,
    Flow,
    Nonces,
    Now,
    Refusal,
    RelayIdentity,
    Verified,
)
from turn_broker.relay.counters import Counters
from turn_broker.relay.effects import CloseRelay, Effects, OpenRelay, ToClient
from turn_broker.relay.peer_policy import PeerPolicy
from turn_broker.relay.rate import SourceLimiter
from turn_broker.relay.requests import (
    FAMILY_MISMATCH,
    FORBIDDEN,
    MISMATCH,
    QUOTA_REACHED,
    UNKNOWN_ATTRIBUTE,
    WRONG_CREDENTIALS,
    allocate_terms,
    fits_family,
    requested_lifetime,
    requested_peers,
)
from turn_broker.relay.stun import (
    Attribute,
    Endpoint,
    Kind,
    Message,
    Method,
    RawAttribute,
    build,
    error_code,
    parse,
    read_channel_number,
    read_xor_address,
    u32,
    unknown_attributes,
    xor_address,
)

_KNOWN_METHODS = frozenset(
    {Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND}
)


class TurnServer:
    """All allocations of one relay. Exactly one caller at a time."""

    def __init__(self, identity: RelayIdentity, policy: PeerPolicy, limits: RelayLimits) -> None:
        nonces = Nonces(identity.nonce_key, limits.nonce_lifetime)
        self._auth = Authenticator(identity.realm, identity.secrets, nonces)
        self._families = identity.families
        self._policy = policy
        self._limits = limits
        self._live: Counter[str] = Counter()
        """Allocations that each identity has open, whatever its credentials."""
        self.is_draining = False
        """Refuses new allocations; running ones go on."""
        self._sources = SourceLimiter(limits.unauthenticated_per_second, limits.max_sources)
        self._by_flow: dict[Flow, Allocation] = {}
        self._by_number: dict[int, Allocation] = {}
        self._next_number = 1
        self._indication_prefix = identity.nonce_key[:4]
        self._indications = 0
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._by_number)

    def holds(self, flow: Flow) -> bool:
        """Whether the client has an allocation."""
        return flow in self._by_flow

    def replace_secrets(self, secrets: Sequence[str]) -> None:
        """From now on only passwords made with one of these are good."""
        self._auth.secrets = tuple(secrets)

    def received(self, flow: Flow, raw: bytes, now: Now) -> Effects:
        """A datagram or stream frame from a client."""
        leading = raw[0] & 0xC0 if raw else 0xC0
        if leading == 0x40:
            allocation = self._by_flow.get(flow)
            effect = allocation and allocation.channel_data(raw, now.monotonic)
            return (effect,) if effect else ()
        message = None if leading else parse(raw)
        if message is None:
            self.counters.malformed += 1
            return ()
        if message.kind is Kind.REQUEST:
            return self._request(flow, message, now)
        if message.kind is Kind.INDICATION and message.method == Method.SEND:
            return self._send(flow, message, now)
        return ()

    def peer_received(self, number: int, peer: Endpoint, payload: bytes, now: Now) -> Effects:
        """A datagram at an allocation's relayed address."""
        allocation = self._by_number.get(number)
        if allocation is None:
            return ()
        self._indications = (self._indications + 1) & (2**64 - 1)
        transaction_id = self._indication_prefix + self._indications.to_bytes(8)
        effect = allocation.inbound(peer, payload, transaction_id, now.monotonic)
        return (effect,) if effect else ()

    def relay_opened(self, number: int, relayed: Endpoint) -> Effects:
        """The relayed address of an `OpenRelay` is there: the Allocate succeeds."""
        allocation = self._by_number.get(number)
        if allocation is None:
            return ()
        transaction_id = allocation.transaction_id
        mapped = (allocation.flow.host, allocation.flow.port)
        attributes = (
            (Attribute.XOR_RELAYED_ADDRESS, xor_address(relayed, transaction_id)),
            (Attribute.XOR_MAPPED_ADDRESS, xor_address(mapped, transaction_id)),
            (Attribute.LIFETIME, u32(allocation.lifetime)),
        )
        allocation.reply = build(
            Method.ALLOCATE, Kind.SUCCESS, transaction_id, attributes, key=allocation.owner.key
        )
        self.counters.opened += 1
        return (ToClient(allocation.flow, allocation.reply),)

    def relay_failed(self, number: int) -> Effects:
        """No relayed address could be opened: the Allocate is refused with 508."""
        allocation = self._by_number.get(number)
        if allocation is None:
            return ()
        self._forget(allocation)
        self.counters.refused += 1
        full = INSUFFICIENT_CAPACITY
        attributes = ((Attribute.ERROR_CODE, error_code(full.code, full.reason)),)
        answer = build(
            Method.ALLOCATE,
            Kind.ERROR,
            allocation.transaction_id,
            attributes,
            key=allocation.owner.key,
        )
        return (ToClient(allocation.flow, answer),)

    def flow_closed(self, flow: Flow) -> Effects:
        """The client's TCP connection is gone, and its allocation with it."""
        allocation = self._by_flow.get(flow)
        return (self._close(allocation),) if allocation else ()

    def expire(self, now: Now) -> Effects:
        """Frees what has run out; call about once a second."""
        ended = []
        for allocation in self._by_number.values():
            if now.monotonic >= allocation.ends_at or allocation.owner.seconds_left(now) <= 0:
                ended.append(allocation)
            else:
                allocation.drop_ended(now.monotonic)
        return tuple(self._close(allocation) for allocation in ended)

    def cut(self, number: int) -> Effects:
        """Ends an allocation; nothing where there is none of that number any more."""
        allocation = self._by_number.get(number)
        return (self._close(allocation),) if allocation else ()

    def session(self, number: int) -> Allocation:
        """An allocation that is open; KeyError for any other number."""
        return self._by_number[number]

    def sessions(self) -> tuple[Allocation, ...]:
        """Allocations whose relayed address is open, oldest first."""
        return tuple(each for each in self._by_number.values() if each.reply)

    def _request(self, flow: Flow, message: Message, now: Now) -> Effects:
        if message.method == Method.BINDING:
            return self._binding(flow, message, now)
        if message.method not in _KNOWN_METHODS:
            return ()
        who = self._auth.verify(message, flow, now)
        if isinstance(who, Refusal):
            return self._refuse_stranger(flow, message, who, now)
        unknown = message.unknown()
        if unknown:
            listed = (Attribute.UNKNOWN_ATTRIBUTES, unknown_attributes(unknown))
            return self._refuse(flow, message, UNKNOWN_ATTRIBUTE, (listed,), who.key)
        outcome = self._outcome(flow, message, who, now)
        if isinstance(outcome, Refusal):
            return self._refuse(flow, message, outcome, (), who.key)
        return outcome

    def _outcome(self, flow: Flow, message: Message, who: Verified, now: Now) -> Effects | Refusal:
        allocation = self._by_flow.get(flow)
        if message.method == Method.ALLOCATE:
            return self._allocate(flow, message, who, now)
        if allocation is None or not allocation.reply or now.monotonic >= allocation.ends_at:
            return MISMATCH
        if allocation.owner.username != who.username:
            return WRONG_CREDENTIALS
        allocation.owner = who
        if message.method == Method.REFRESH:
            return self._refresh(allocation, message, now)
        if message.method == Method.CREATE_PERMISSION:
            return self._create_permission(allocation, message, now)
        return self._channel_bind(allocation, message, now)

    def _allocate(self, flow: Flow, message: Message, who: Verified, now: Now) -> Effects | Refusal:
        held = self._by_flow.get(flow)
        ended: Effects = ()
        if held is not None:
            if now.monotonic >= held.ends_at:
                ended = (self._close(held),)
            elif held.transaction_id == message.transaction_id:
                return (ToClient(flow, held.reply),) if held.reply else ()
            else:
                return MISMATCH
        opened = self._open(flow, message, who, now)
        if isinstance(opened, Refusal):
            return (*ended, *self._refuse(flow, message, opened, (), who.key))
        return (*ended, opened)

    def _open(self, flow: Flow, message: Message, who: Verified, now: Now) -> OpenRelay | Refusal:
        terms = allocate_terms(message, self._families)
        if isinstance(terms, Refusal):
            return terms
        lifetime = requested_lifetime(message, self._limits)
        if not lifetime:
            return BAD_REQUEST
        if self._live[who.identity] >= self._limits.allocations_per_identity:
            return QUOTA_REACHED
        if self.is_draining or len(self._by_number) >= self._limits.max_allocations:
            return INSUFFICIENT_CAPACITY
        number = self._next_number
        self._next_number += 1
        allocation = Allocation(
            number=number,
            flow=flow,
            owner=who,
            family=terms.family,
            limits=self._limits,
            policy=self._policy,
            transaction_id=message.transaction_id,
            opened_at=now.monotonic,
        )
        allocation.extend(lifetime, now)
        self._by_flow[flow] = self._by_number[number] = allocation
        self._live[who.identity] += 1
        return OpenRelay(number, terms.family, terms.even_port)

    def _refresh(self, allocation: Allocation, message: Message, now: Now) -> Effects | Refusal:
        if not fits_family(message, allocation.family):
            return FAMILY_MISMATCH
        lifetime = requested_lifetime(message, self._limits)
        if lifetime is None:
            return BAD_REQUEST
        closed: Effects = ()
        if lifetime:
            allocation.extend(lifetime, now)
            lifetime = allocation.lifetime
        else:
            closed = (self._close(allocation),)
        answer = ((Attribute.LIFETIME, u32(lifetime)),)
        return (*closed, *self._succeed(allocation.flow, message, answer, allocation.owner.key))

    def _create_permission(
        self, allocation: Allocation, message: Message, now: Now
    ) -> Effects | Refusal:
        peers = requested_peers(message, allocation.family, self._policy)
        if isinstance(peers, Refusal):
            return peers
        hosts = {host for host, _ in peers}
        if not allocation.permit(hosts, PERMISSION_LIFETIME, now.monotonic):
            return INSUFFICIENT_CAPACITY
        return self._succeed(allocation.flow, message, (), allocation.owner.key)

    def _channel_bind(
        self, allocation: Allocation, message: Message, now: Now
    ) -> Effects | Refusal:
        number = read_channel_number(message.first(Attribute.CHANNEL_NUMBER))
        peers = requested_peers(message, allocation.family, self._policy)
        if number is None:
            return BAD_REQUEST
        if isinstance(peers, Refusal):
            return peers
        if not self._policy.permits_port(peers[0][1]):
            return FORBIDDEN
        refusal = allocation.bind(number, peers[0], now.monotonic)
        if refusal is not None:
            return refusal
        return self._succeed(allocation.flow, message, (), allocation.owner.key)

    def _send(self, flow: Flow, message: Message, now: Now) -> Effects:
        allocation = self._by_flow.get(flow)
        address = message.first(Attribute.XOR_PEER_ADDRESS)
        payload = message.first(Attribute.DATA)
        if allocation is None or address is None or payload is None or message.unknown():
            return ()
        peer = read_xor_address(address, message.transaction_id)
        effect = allocation.send(peer, payload, now.monotonic) if peer else None
        return (effect,) if effect else ()

    def _binding(self, flow: Flow, message: Message, now: Now) -> Effects:
        if not self._may_answer_stranger(flow, now):
            return ()
        unknown = message.unknown()
        if unknown:
            listed = (Attribute.UNKNOWN_ATTRIBUTES, unknown_attributes(unknown[:8]))
            return self._refuse(flow, message, UNKNOWN_ATTRIBUTE, (listed,), None)
        mapped = xor_address((flow.host, flow.port), message.transaction_id)
        return self._succeed(flow, message, ((Attribute.XOR_MAPPED_ADDRESS, mapped),), None)

    def _refuse_stranger(self, flow: Flow, message: Message, refusal: Refusal, now: Now) -> Effects:
        if not self._may_answer_stranger(flow, now):
            return ()
        extra: tuple[RawAttribute, ...] = ()
        if refusal.challenge:
            self.counters.challenged += 1
            extra = (
                (Attribute.REALM, self._auth.realm.encode()),
                (Attribute.NONCE, self._auth.nonces.issue(flow, now)),
            )
        return self._refuse(flow, message, refusal, extra, None)

    def _may_answer_stranger(self, flow: Flow, now: Now) -> bool:
        if flow.transport != "udp" or self._sources.allows(flow.host, now.monotonic):
            return True
        self.counters.rate_limited += 1
        return False

    def _refuse(
        self,
        flow: Flow,
        message: Message,
        refusal: Refusal,
        extra: tuple[RawAttribute, ...],
        key: bytes | None,
    ) -> Effects:
        self.counters.refused += not refusal.challenge
        attributes = (
            (Attribute.ERROR_CODE, error_code(refusal.code, refusal.reason)),
            *extra,
        )
        return (ToClient(flow, _answer(message, Kind.ERROR, attributes, key)),)

    def _succeed(
        self, flow: Flow, message: Message, attributes: tuple[RawAttribute, ...], key: bytes | None
    ) -> Effects:
        return (ToClient(flow, _answer(message, Kind.SUCCESS, attributes, key)),)

    def _close(self, allocation: Allocation) -> CloseRelay:
        self._forget(allocation)
        self.counters.closed += 1
        return CloseRelay(
            allocation.number, allocation.flow, allocation.sent_bytes, allocation.received_bytes
        )

    def _forget(self, allocation: Allocation) -> None:
        identity = allocation.owner.identity
        self._live[identity] -= 1
        if not self._live[identity]:
            del self._live[identity]
        del self._by_number[allocation.number]
        del self._by_flow[allocation.flow]


def _answer(
    message: Message, kind: Kind, attributes: tuple[RawAttribute, ...], key: bytes | None
) -> bytes:
    return build(
        message.method,
        kind,
        message.transaction_id,
        attributes,
        key=key,
        fingerprint=message.fingerprinted,
    )
