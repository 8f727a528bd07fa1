"""A TURN client's messages, for tests that speak to a relay byte by byte."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from turn_broker.credentials import TurnCredential, long_term_key
from turn_broker.relay.stun import (
    Attribute,
    Endpoint,
    Kind,
    Message,
    Method,
    RawAttribute,
    build,
    channel_number,
    parse,
    read_error_code,
    u32,
    xor_address,
)

UDP_TRANSPORT = (Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")
EVEN_PORT = (Attribute.EVEN_PORT, b"\0")
EVEN_PORT_AND_NEXT = (Attribute.EVEN_PORT, b"\x80")
_counter = itertools.count(1)


@dataclass
class Caller:
    """Builds the requests of one client; give it the nonce that a challenge brought."""

    credential: TurnCredential
    realm: str
    nonce: bytes = b""

    @property
    def key(self) -> bytes:
        return long_term_key(self.credential.username, self.realm, self.credential.password)

    def next_id(self) -> bytes:
        return b"test" + next(_counter).to_bytes(8)

    def request(
        self, method: Method, *attributes: RawAttribute, transaction_id: bytes | None = None
    ) -> bytes:
        """Signed once there is a nonce."""
        transaction_id = transaction_id or self.next_id()
        if not self.nonce:
            return build(method, Kind.REQUEST, transaction_id, attributes)
        signed = (
            *attributes,
            (Attribute.USERNAME, self.credential.username.encode()),
            (Attribute.REALM, self.realm.encode()),
            (Attribute.NONCE, self.nonce),
        )
        return build(method, Kind.REQUEST, transaction_id, signed, key=self.key)

    def allocate(self, *attributes: RawAttribute, transaction_id: bytes | None = None) -> bytes:
        return self.request(
            Method.ALLOCATE, UDP_TRANSPORT, *attributes, transaction_id=transaction_id
        )

    def refresh(self, lifetime: int | None = None) -> bytes:
        attributes = () if lifetime is None else ((Attribute.LIFETIME, u32(lifetime)),)
        return self.request(Method.REFRESH, *attributes)

    def permit(self, *peers: Endpoint) -> bytes:
        transaction_id = self.next_id()
        attributes = [
            (Attribute.XOR_PEER_ADDRESS, xor_address(peer, transaction_id)) for peer in peers
        ]
        return self.request(Method.CREATE_PERMISSION, *attributes, transaction_id=transaction_id)

    def bind(self, channel: int, peer: Endpoint) -> bytes:
        transaction_id = self.next_id()
        return self.request(
            Method.CHANNEL_BIND,
            (Attribute.CHANNEL_NUMBER, channel_number(channel)),
            (Attribute.XOR_PEER_ADDRESS, xor_address(peer, transaction_id)),
            transaction_id=transaction_id,
        )

    def send(self, peer: Endpoint, payload: bytes, *more: RawAttribute) -> bytes:
        transaction_id = self.next_id()
        return build(
            Method.SEND,
            Kind.INDICATION,
            transaction_id,
            (
                (Attribute.XOR_PEER_ADDRESS, xor_address(peer, transaction_id)),
                (Attribute.DATA, payload),
                *more,
            ),
        )


def channel_data(channel: int, payload: bytes) -> bytes:
    """A ChannelData message, unpadded."""
    return channel.to_bytes(2) + len(payload).to_bytes(2) + payload


def parsed(raw: bytes) -> Message:
    """A message that must be well-formed."""
    message = parse(raw)
    assert message is not None, raw.hex()
    return message


def code_of(raw: bytes) -> int:
    """0 for a success response, else the error code."""
    message = parsed(raw)
    if message.kind is Kind.SUCCESS:
        return 0
    assert message.kind is Kind.ERROR
    code = read_error_code(message.first(Attribute.ERROR_CODE))
    assert code is not None
    return code
