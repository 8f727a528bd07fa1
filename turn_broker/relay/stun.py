"""STUN and TURN messages on the wire (RFC 8489, RFC 8656): parse, check, build.

Pure. `parse` never raises: bytes that are not a well-formed message are None, and so is every
attribute value that does not have its type's shape. What a message means is decided elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

MAGIC_COOKIE = 0x2112A442
HEADER_SIZE = 20
MAX_ATTRIBUTES = 128
INTEGRITY_SIZE = 24
FINGERPRINT_SIZE = 8
IPV4 = 1
IPV6 = 2
UDP = 17
MIN_CHANNEL = 0x4000
MAX_CHANNEL = 0x7FFF
"""RFC 8656 ends at 0x4FFF, but libwebrtc and coturn's own tools count on to RFC 5766's 0x7FFF."""

_HEADER = struct.Struct("!HHI12s")
_TYPE_LENGTH = struct.Struct("!HH")
_COOKIE_BYTES = struct.pack("!I", MAGIC_COOKIE)
_FINGERPRINT_XOR = 0x5354554E

Endpoint = tuple[str, int]
"""Host in its canonical text form, and port."""
RawAttribute = tuple[int, bytes]


class Method(IntEnum):
    """The methods this relay knows."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class Kind(IntEnum):
    """The class bits of a message type."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(IntEnum):
    """The attributes this relay understands; others below 0x8000 earn a 420."""

    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028


_UNDERSTOOD = frozenset(Attribute) - {Attribute.DONT_FRAGMENT}
"""Without the DF bit RFC 8656 section 7.2 wants DONT-FRAGMENT treated as unknown."""


@dataclass(frozen=True, slots=True)
class Message:
    """A well-formed message whose FINGERPRINT, if any, holds. Nothing else is checked yet."""

    method: int
    kind: Kind
    transaction_id: bytes
    attributes: tuple[RawAttribute, ...]
    """Up to and including MESSAGE-INTEGRITY; what follows it is not protected and ignored."""
    raw: bytes
    integrity_at: int | None
    fingerprinted: bool

    def first(self, attribute: int) -> bytes | None:
        """The value of the first attribute of that type (RFC 8489 section 14: later ones do
        not count)."""
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    def every(self, attribute: int) -> list[bytes]:
        """The values of all attributes of that type."""
        return [value for kind, value in self.attributes if kind == attribute]

    def unknown(self) -> list[int]:
        """Comprehension-required attribute types that this relay does not understand."""
        return sorted({kind for kind, _ in self.attributes if kind < 0x8000} - _UNDERSTOOD)


def parse(raw: bytes) -> Message | None:
    """The message in `raw`, or None if it is not exactly one well-formed message."""
    if len(raw) < HEADER_SIZE:
        return None
    kind_and_method, length, cookie, transaction_id = _HEADER.unpack_from(raw)
    if kind_and_method & 0xC000 or length % 4 or cookie != MAGIC_COOKIE:
        return None
    if length + HEADER_SIZE != len(raw):
        return None
    scanned = _scan(raw)
    if scanned is None:
        return None
    attributes, integrity_at, fingerprinted = scanned
    method = kind_and_method & 0xF | kind_and_method >> 1 & 0x70 | kind_and_method >> 2 & 0xF80
    kind = Kind(kind_and_method >> 4 & 1 | kind_and_method >> 7 & 2)
    return Message(
        method, kind, transaction_id, tuple(attributes), raw, integrity_at, fingerprinted
    )


def _scan(raw: bytes) -> tuple[list[RawAttribute], int | None, bool] | None:
    """All attributes in bounds, FINGERPRINT last and right; else None."""
    attributes: list[RawAttribute] = []
    integrity_at: int | None = None
    at, end, seen = HEADER_SIZE, len(raw), 0
    while at < end:
        seen += 1
        kind, length = _TYPE_LENGTH.unpack_from(raw, at)
        start = at + 4
        if seen > MAX_ATTRIBUTES or start + length > end:
            return None
        if kind == Attribute.FINGERPRINT:
            if length != 4 or start + 4 != end:
                return None
            if int.from_bytes(raw[start:end]) != _fingerprint(raw[:at]):
                return None
            return attributes, integrity_at, True
        if integrity_at is None:
            attributes.append((kind, raw[start : start + length]))
            if kind == Attribute.MESSAGE_INTEGRITY:
                if length != INTEGRITY_SIZE - 4:
                    return None
                integrity_at = at
        at = start + length + -length % 4
    return attributes, integrity_at, False


def has_integrity(message: Message, key: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY is there and was made with `key`."""
    value = message.first(Attribute.MESSAGE_INTEGRITY)
    if value is None or message.integrity_at is None:
        return False
    return hmac.compare_digest(value, _integrity(message.raw[: message.integrity_at], key))


def _integrity(before: bytes, key: bytes) -> bytes:
    length = len(before) - HEADER_SIZE + INTEGRITY_SIZE
    return hmac.digest(key, before[:2] + length.to_bytes(2) + before[4:], "sha1")


def _fingerprint(before: bytes) -> int:
    return zlib.crc32(before) ^ _FINGERPRINT_XOR


def build(
    method: int,
    kind: Kind,
    transaction_id: bytes,
    attributes: Iterable[RawAttribute] = (),
    *,
    key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """One message; signed when a key is given."""
    body = b"".join(
        _TYPE_LENGTH.pack(name, len(value)) + value + bytes(-len(value) % 4)
        for name, value in attributes
    )
    size = len(body) + (INTEGRITY_SIZE if key is not None else 0)
    packed_type = (
        method & 0xF
        | (method & 0x70) << 1
        | (method & 0xF80) << 2
        | (kind & 1) << 4
        | (kind & 2) << 7
    )
    message = _HEADER.pack(packed_type, size, MAGIC_COOKIE, transaction_id) + body
    if key is not None:
        message += _TYPE_LENGTH.pack(Attribute.MESSAGE_INTEGRITY, 20) + _integrity(message, key)
    if fingerprint:
        message = message[:2] + (size + FINGERPRINT_SIZE).to_bytes(2) + message[4:]
        message += _TYPE_LENGTH.pack(Attribute.FINGERPRINT, 4) + _fingerprint(message).to_bytes(4)
    return message


def error_code(code: int, reason: str) -> bytes:
    """The value of ERROR-CODE."""
    return bytes((0, 0, code // 100, code % 100)) + reason.encode()


def read_error_code(value: bytes | None) -> int | None:
    """The number in an ERROR-CODE."""
    if value is None or len(value) < 4:
        return None
    return (value[2] & 7) * 100 + value[3]


def unknown_attributes(types: Iterable[int]) -> bytes:
    """The value of UNKNOWN-ATTRIBUTES."""
    return b"".join(kind.to_bytes(2) for kind in types)


def u32(value: int) -> bytes:
    """The value of LIFETIME."""
    return value.to_bytes(4)


def read_u32(value: bytes) -> int | None:
    """The number in a LIFETIME."""
    return int.from_bytes(value) if len(value) == 4 else None


def channel_number(channel: int) -> bytes:
    """The value of CHANNEL-NUMBER."""
    return channel.to_bytes(2) + b"\0\0"


def read_channel_number(value: bytes | None) -> int | None:
    """The channel in a CHANNEL-NUMBER, if channels may have that number."""
    if value is None or len(value) != 4:
        return None
    channel = int.from_bytes(value[:2])
    return channel if MIN_CHANNEL <= channel <= MAX_CHANNEL else None


def read_leading_byte(value: bytes) -> int | None:
    """REQUESTED-TRANSPORT and REQUESTED-ADDRESS-FAMILY: one byte, three reserved."""
    return value[0] if len(value) == 4 else None


def family_of(host: str) -> int:
    """IPV4 or IPV6, from canonical text."""
    return IPV6 if ":" in host else IPV4


def xor_address(endpoint: Endpoint, transaction_id: bytes) -> bytes:
    """The value of an XOR-...-ADDRESS (RFC 8489 section 14.2)."""
    host, port = endpoint
    family = family_of(host)
    packed = ipaddress.ip_address(host).packed
    return (
        bytes((0, family)) + (port ^ MAGIC_COOKIE >> 16).to_bytes(2) + _mask(packed, transaction_id)
    )


def read_xor_address(value: bytes, transaction_id: bytes) -> Endpoint | None:
    """The inverse of `xor_address`."""
    family = value[1] if len(value) > 1 else 0
    if (family, len(value)) not in ((IPV4, 8), (IPV6, 20)):
        return None
    packed = _mask(value[4:], transaction_id)
    port = int.from_bytes(value[2:4]) ^ MAGIC_COOKIE >> 16
    if family == IPV4:
        return "%d.%d.%d.%d" % tuple(packed), port  # noqa: UP031 - four times as fast as str()
    return str(ipaddress.IPv6Address(packed)), port


def _mask(packed: bytes, transaction_id: bytes) -> bytes:
    size = len(packed)
    pad = (_COOKIE_BYTES + transaction_id)[:size]
    return (int.from_bytes(packed) ^ int.from_bytes(pad)).to_bytes(size)
