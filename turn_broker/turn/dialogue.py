"""A TURN client's side of the conversation (RFC 8656): what to send, what an answer means.

Pure: transaction ids are handed in. A failure is a value with a reason. It does not know sockets,
timers or retransmission; `turn_client` adds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from turn_broker.credentials import TurnCredential, long_term_key
from turn_broker.relay.stun import (
    UDP,
    Attribute,
    Endpoint,
    Kind,
    Message,
    Method,
    RawAttribute,
    build,
    has_integrity,
    parse,
    read_error_code,
    read_u32,
    read_xor_address,
    u32,
    xor_address,
)

ALTERNATE_SERVER = 0x8023
TCP = 6
MAX_TEXT_CHARS = 200
"""Of what a server says about itself."""


class Step(StrEnum):
    """Where a conversation stood."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    BINDING = "binding"
    ALLOCATE = "allocate"
    PERMISSION = "permission"
    RELAY = "relay"
    REFRESH = "refresh"


class Reason(StrEnum):
    """Why a step failed."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    NOT_STUN = "not_stun"
    NOT_TLS = "not_tls"
    TLS_VERSION = "tls_version"
    TLS_EXPIRED = "tls_expired"
    TLS_NOT_YET_VALID = "tls_not_yet_valid"
    TLS_NAME = "tls_name"
    TLS_SELF_SIGNED = "tls_self_signed"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS_OTHER = "tls_other"
    BAD_INTEGRITY = "bad_integrity"
    """The server does not know the credential's key either: its answer is not signed with it."""
    MALFORMED = "malformed"
    """A success without what a success must carry."""
    TRY_ALTERNATE = "try_alternate"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNKNOWN_ATTRIBUTE = "unknown_attribute"
    ALLOCATION_MISMATCH = "allocation_mismatch"
    STALE_NONCE = "stale_nonce"
    FAMILY = "family"
    WRONG_CREDENTIALS = "wrong_credentials"
    TRANSPORT = "transport"
    PEER_FAMILY = "peer_family"
    QUOTA = "quota"
    CAPACITY = "capacity"
    OTHER = "other"
    """Another error code of the server's."""


REASON_OF_CODE = {
    300: Reason.TRY_ALTERNATE,
    400: Reason.BAD_REQUEST,
    401: Reason.UNAUTHORIZED,
    403: Reason.FORBIDDEN,
    420: Reason.UNKNOWN_ATTRIBUTE,
    437: Reason.ALLOCATION_MISMATCH,
    438: Reason.STALE_NONCE,
    440: Reason.FAMILY,
    441: Reason.WRONG_CREDENTIALS,
    442: Reason.TRANSPORT,
    443: Reason.PEER_FAMILY,
    486: Reason.QUOTA,
    508: Reason.CAPACITY,
}


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step that did not succeed."""

    step: Step
    reason: Reason
    code: int | None = None
    """The server's error code."""
    realm: str | None = None
    """The realm that the server named."""
    alternate: Endpoint | None = None
    """Where a 300 sends the client."""
    text: str = ""
    """What the system or the server said, for people."""


class Allocation(Struct, frozen=True, kw_only=True):
    """A relayed address that is ours for `lifetime_s`."""

    relayed: Endpoint
    mapped: Endpoint | None
    """Our address as the server sees it."""
    lifetime_s: int
    realm: str | None
    """None: the server wanted no credential."""


class Received(Struct, frozen=True):
    """A payload that a peer sent to the relayed address."""

    peer: Endpoint
    payload: bytes


class Answer(Struct, frozen=True):
    """The response to a request."""

    message: Message
    is_signed: bool
    """Its MESSAGE-INTEGRITY was made with our key."""

    @property
    def code(self) -> int:
        """0 for a success; 500 for an error response without a code."""
        if self.message.kind is Kind.SUCCESS:
            return 0
        return read_error_code(self.message.first(Attribute.ERROR_CODE)) or 500


Outcome = Literal["carried"] | Failure


_DENIED = (Reason.FORBIDDEN, Reason.PEER_FAMILY)


class RelayProof(Struct, frozen=True, kw_only=True):
    """What each way of trying brought; None: not tried."""

    peer: Outcome | None
    """Through a socket of ours."""
    loop: Outcome | None = None
    """Between two allocations of the node."""

    @property
    def is_silent(self) -> bool:
        """Our socket was permitted as a peer, yet nothing came through."""
        return isinstance(self.peer, Failure) and self.peer.reason not in _DENIED

    @property
    def verdict(self) -> Literal["up", "unproven", "down"]:
        """unproven: what could be tried from here was denied, or works inside the node only."""
        if self.peer == "carried":
            return "up"
        if self.loop == "carried":
            return "unproven" if self.is_silent else "up"
        denied = (
            isinstance(way, Failure) and way.reason in _DENIED for way in (self.peer, self.loop)
        )
        return "unproven" if any(denied) else "down"

    @property
    def reason(self) -> str:
        """Why it is not up; else empty."""
        told = self.peer if self.loop == "carried" else self.loop or self.peer
        return "" if self.verdict == "up" or not isinstance(told, Failure) else told.reason.value


class Dialogue:
    """One client's state: the realm and the nonce that the server gave, and its name."""

    def __init__(self, credential: TurnCredential | None) -> None:
        """Without a credential nothing is ever signed."""
        self._credential = credential
        self._nonce: bytes | None = None
        self._key: bytes | None = None
        self.realm: str | None = None
        """As the server named it."""
        self.software = ""
        """The server's SOFTWARE, if it ever said it."""

    def request(
        self, method: Method, transaction_id: bytes, attributes: Iterable[RawAttribute] = ()
    ) -> bytes:
        """A request, signed once the server has asked for it."""
        if self._credential is None or self._nonce is None or self.realm is None:
            return build(method, Kind.REQUEST, transaction_id, attributes)
        signed = (
            *attributes,
            (Attribute.USERNAME, self._credential.username.encode()),
            (Attribute.REALM, self.realm.encode()),
            (Attribute.NONCE, self._nonce),
        )
        return build(method, Kind.REQUEST, transaction_id, signed, key=self._key)

    def read(self, raw: bytes) -> Answer | Received | None:
        """What arrived: an answer to somebody's request, a peer's payload, or nothing of use."""
        message = parse(raw)
        if message is None:
            return None
        if message.kind is Kind.INDICATION:
            return _received(message)
        if message.kind is Kind.REQUEST:
            return None
        self.software = _text(message.first(Attribute.SOFTWARE)) or self.software
        return Answer(message, self._key is not None and has_integrity(message, self._key))

    def accepts_challenge(self, answer: Answer) -> bool:
        """Whether the request is worth repeating: the answer brought a nonce that is new to us."""
        if answer.code not in (401, 438) or self._credential is None:
            return False
        realm, nonce = (answer.message.first(a) for a in (Attribute.REALM, Attribute.NONCE))
        if answer.code == 401:
            self.realm = _text(realm) or self.realm
        was_signed = self._nonce is not None
        if nonce is None or self.realm is None or (was_signed and answer.code == 401):
            return False
        self._nonce = nonce
        credential = self._credential
        self._key = long_term_key(credential.username, self.realm, credential.password)
        return True

    def failure(self, step: Step, answer: Answer) -> Failure | None:
        """Why the answer is not a success that can be believed; None when it is one."""
        code = answer.code
        if code == 0:
            if self._key is not None and not answer.is_signed:
                return Failure(step=step, reason=Reason.BAD_INTEGRITY, realm=self.realm)
            return None
        message = answer.message
        value = message.first(ALTERNATE_SERVER)
        phrase = message.first(Attribute.ERROR_CODE) or b""
        return Failure(
            step=step,
            reason=REASON_OF_CODE.get(code, Reason.OTHER),
            code=code,
            realm=_text(message.first(Attribute.REALM)) or self.realm,
            alternate=None if value is None else _read_plain_address(value),
            text=_text(phrase[4:]),
        )

    def allocation(self, answer: Answer) -> Allocation | Failure:
        """What a successful Allocate brought."""
        relayed = _address(answer.message, Attribute.XOR_RELAYED_ADDRESS)
        lifetime = read_u32(answer.message.first(Attribute.LIFETIME) or b"")
        if relayed is None or lifetime is None:
            return Failure(step=Step.ALLOCATE, reason=Reason.MALFORMED)
        return Allocation(
            relayed=relayed,
            mapped=_address(answer.message, Attribute.XOR_MAPPED_ADDRESS),
            lifetime_s=lifetime,
            realm=self.realm if self._key is not None else None,
        )


def transport_attribute(protocol: int = UDP) -> RawAttribute:
    """REQUESTED-TRANSPORT; TCP is RFC 6062."""
    return Attribute.REQUESTED_TRANSPORT, bytes((protocol, 0, 0, 0))


def family_attribute(family: int) -> RawAttribute:
    """REQUESTED-ADDRESS-FAMILY."""
    return Attribute.REQUESTED_ADDRESS_FAMILY, bytes((family, 0, 0, 0))


def peer_attribute(peer: Endpoint, transaction_id: bytes) -> RawAttribute:
    """XOR-PEER-ADDRESS."""
    return Attribute.XOR_PEER_ADDRESS, xor_address(peer, transaction_id)


def lifetime_attribute(seconds: int) -> RawAttribute:
    """LIFETIME."""
    return Attribute.LIFETIME, u32(seconds)


def send_indication(peer: Endpoint, payload: bytes, transaction_id: bytes) -> bytes:
    """A Send indication: `payload` to `peer` through the relay."""
    attributes = (peer_attribute(peer, transaction_id), (Attribute.DATA, payload))
    return build(Method.SEND, Kind.INDICATION, transaction_id, attributes)


def mapped_address(answer: Answer) -> Endpoint | None:
    """Our address as a Binding answer tells it."""
    return _address(answer.message, Attribute.XOR_MAPPED_ADDRESS)


def _received(message: Message) -> Received | None:
    peer = _address(message, Attribute.XOR_PEER_ADDRESS)
    payload = message.first(Attribute.DATA)
    if message.method != Method.DATA or peer is None or payload is None:
        return None
    return Received(peer, payload)


def _address(message: Message, attribute: Attribute) -> Endpoint | None:
    value = message.first(attribute)
    return None if value is None else read_xor_address(value, message.transaction_id)


def _read_plain_address(value: bytes) -> Endpoint | None:
    """MAPPED-ADDRESS' form, which ALTERNATE-SERVER has: XOR with nothing."""
    blank = xor_address(("0.0.0.0" if len(value) == 8 else "::", 0), bytes(12))  # noqa: S104
    if len(value) not in (8, 20):
        return None
    mask = blank[2:]
    return read_xor_address(
        value[:2] + bytes(a ^ b for a, b in zip(value[2:], mask, strict=True)), bytes(12)
    )


def _text(value: bytes | None) -> str:
    """What a server said: bounded, and printable."""
    text = (value or b"").decode("utf-8", "replace")[:MAX_TEXT_CHARS]
    return "".join(char for char in text if char.isprintable())
