"""A TURN client's side: what it signs, which challenges it takes up, what answers mean."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turn_broker.credentials import TurnCredential, long_term_key
from turn_broker.relay.stun import (
    Attribute,
    Endpoint,
    Kind,
    Method,
    RawAttribute,
    build,
    error_code,
    has_integrity,
    parse,
    u32,
    xor_address,
)
from turn_broker.turn.dialogue import (
    ALTERNATE_SERVER,
    REASON_OF_CODE,
    Allocation,
    Answer,
    Dialogue,
    Failure,
    Outcome,
    Reason,
    Received,
    RelayProof,
    Step,
    family_attribute,
    lifetime_attribute,
    mapped_address,
    send_indication,
    transport_attribute,
)

CREDENTIAL = TurnCredential("1:alice", "password")
KEY = long_term_key("1:alice", "lab", "password")
ID = b"123456789012"
RELAYED: Endpoint = ("198.51.100.7", 50_000)
MAPPED: Endpoint = ("203.0.113.9", 4000)
CHALLENGE = ((Attribute.REALM, b"lab"), (Attribute.NONCE, b"nonce"))


def error(code: int, *attributes: RawAttribute, key: bytes | None = None) -> bytes:
    what = (Attribute.ERROR_CODE, error_code(code, "No"))
    return build(Method.ALLOCATE, Kind.ERROR, ID, (what, *attributes), key=key)


def success(*attributes: RawAttribute, key: bytes | None = KEY) -> bytes:
    return build(Method.ALLOCATE, Kind.SUCCESS, ID, attributes, key=key)


def answer(dialogue: Dialogue, raw: bytes) -> Answer:
    read = dialogue.read(raw)
    assert isinstance(read, Answer)
    return read


def challenged() -> Dialogue:
    dialogue = Dialogue(CREDENTIAL)
    assert dialogue.accepts_challenge(answer(dialogue, error(401, *CHALLENGE)))
    return dialogue


def is_signed(dialogue: Dialogue) -> bool:
    message = parse(dialogue.request(Method.ALLOCATE, ID, [transport_attribute()]))
    assert message is not None
    return has_integrity(message, KEY)


# Challenges -------------------------------------------------------------------------------------


def test_it_signs_once_it_was_asked_to() -> None:
    assert not is_signed(Dialogue(CREDENTIAL))
    assert is_signed(challenged())


def test_a_second_401_is_final() -> None:
    dialogue = challenged()
    again = answer(dialogue, error(401, *CHALLENGE))

    assert not dialogue.accepts_challenge(again)
    failure = dialogue.failure(Step.ALLOCATE, again)
    assert failure is not None
    assert (failure.reason, failure.code, failure.realm) == (Reason.UNAUTHORIZED, 401, "lab")


def test_a_stale_nonce_is_replaced() -> None:
    dialogue = challenged()
    assert dialogue.accepts_challenge(
        answer(dialogue, error(438, (Attribute.NONCE, b"fresh"), (Attribute.REALM, b"other")))
    )

    message = parse(dialogue.request(Method.REFRESH, ID))
    assert message is not None
    assert message.first(Attribute.NONCE) == b"fresh"
    assert dialogue.realm == "lab"


@pytest.mark.parametrize(
    "raw",
    [
        error(401),
        error(401, (Attribute.REALM, b"lab")),
        error(401, (Attribute.NONCE, b"nonce")),
        error(403, *CHALLENGE),
        success(key=None),
    ],
)
def test_what_is_no_challenge(raw: bytes) -> None:
    dialogue = Dialogue(CREDENTIAL)

    assert not dialogue.accepts_challenge(answer(dialogue, raw))
    assert not is_signed(dialogue)


def test_without_a_credential_nothing_is_signed() -> None:
    dialogue = Dialogue(None)
    first = answer(dialogue, error(401, *CHALLENGE))

    assert not dialogue.accepts_challenge(first)
    failure = dialogue.failure(Step.ALLOCATE, first)
    assert failure is not None
    assert failure.realm == "lab"


# Answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), REASON_OF_CODE.items())
def test_every_code_has_its_reason(code: int, reason: Reason) -> None:
    dialogue = Dialogue(CREDENTIAL)
    failure = dialogue.failure(Step.PERMISSION, answer(dialogue, error(code)))

    assert failure == Failure(step=Step.PERMISSION, reason=reason, code=code, text="No")


def test_other_codes_and_none() -> None:
    dialogue = Dialogue(CREDENTIAL)
    bare = build(Method.ALLOCATE, Kind.ERROR, ID)
    for raw, code in ((error(499), 499), (bare, 500)):
        failure = dialogue.failure(Step.ALLOCATE, answer(dialogue, raw))
        assert failure is not None
        assert (failure.reason, failure.code) == (Reason.OTHER, code)


@pytest.mark.parametrize(
    ("value", "alternate"),
    [
        (b"\0\1\x0d\x97\xc6\x33\x64\x07", ("198.51.100.7", 3479)),
        (b"\0\2\x0d\x97" + bytes(15) + b"\1", ("::1", 3479)),
        (b"\0\1", None),
    ],
)
def test_where_a_300_sends_us(value: bytes, alternate: Endpoint | None) -> None:
    dialogue = Dialogue(CREDENTIAL)
    failure = dialogue.failure(
        Step.ALLOCATE, answer(dialogue, error(300, (ALTERNATE_SERVER, value)))
    )

    assert failure is not None
    assert failure.alternate == alternate


def test_a_success_that_is_not_signed_with_our_key_is_not_believed() -> None:
    dialogue = challenged()
    for key, reason in (
        (None, Reason.BAD_INTEGRITY),
        (b"other", Reason.BAD_INTEGRITY),
        (KEY, None),
    ):
        failure = dialogue.failure(Step.REFRESH, answer(dialogue, success(key=key)))
        assert (failure and failure.reason) == reason


def test_an_allocation() -> None:
    dialogue = challenged()
    raw = success(
        (Attribute.XOR_RELAYED_ADDRESS, xor_address(RELAYED, ID)),
        (Attribute.XOR_MAPPED_ADDRESS, xor_address(MAPPED, ID)),
        (Attribute.LIFETIME, u32(600)),
        (Attribute.SOFTWARE, b"Coturn-4.6.1\x00\n 'Gorst'"),
    )
    got = answer(dialogue, raw)

    assert dialogue.allocation(got) == Allocation(
        relayed=RELAYED, mapped=MAPPED, lifetime_s=600, realm="lab"
    )
    assert mapped_address(got) == MAPPED
    assert dialogue.software == "Coturn-4.6.1 'Gorst'"


def test_an_allocation_that_nobody_had_to_pay_for_has_no_realm() -> None:
    dialogue = Dialogue(None)
    raw = success(
        (Attribute.XOR_RELAYED_ADDRESS, xor_address(RELAYED, ID)),
        (Attribute.LIFETIME, u32(600)),
        key=None,
    )

    allocation = dialogue.allocation(answer(dialogue, raw))
    assert isinstance(allocation, Allocation)
    assert (allocation.realm, allocation.mapped) == (None, None)


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        [(Attribute.LIFETIME, u32(600))],
        [(Attribute.XOR_RELAYED_ADDRESS, xor_address(RELAYED, ID))],
        [(Attribute.XOR_RELAYED_ADDRESS, b"\0\1"), (Attribute.LIFETIME, b"\0")],
    ],
)
def test_half_an_allocation_is_none(attributes: list[RawAttribute]) -> None:
    dialogue = challenged()

    allocation = dialogue.allocation(answer(dialogue, success(*attributes)))
    assert allocation == Failure(step=Step.ALLOCATE, reason=Reason.MALFORMED)


# Payloads ---------------------------------------------------------------------------------------


def test_a_peers_payload() -> None:
    sent = parse(send_indication(RELAYED, b"hello", ID))
    assert sent is not None
    arrived = build(Method.DATA, Kind.INDICATION, ID, sent.attributes)

    assert Dialogue(None).read(arrived) == Received(RELAYED, b"hello")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not stun at all, not stun at all",
        build(Method.BINDING, Kind.REQUEST, ID),
        build(Method.DATA, Kind.INDICATION, ID, [(Attribute.DATA, b"x")]),
        build(
            Method.DATA,
            Kind.INDICATION,
            ID,
            [(Attribute.XOR_PEER_ADDRESS, xor_address(MAPPED, ID))],
        ),
        send_indication(MAPPED, b"x", ID),
    ],
)
def test_what_is_of_no_use(raw: bytes) -> None:
    assert Dialogue(CREDENTIAL).read(raw) is None


@given(st.binary(max_size=200))
def test_a_server_can_say_what_it_likes(noise: bytes) -> None:
    dialogue = Dialogue(CREDENTIAL)
    for raw in (noise, error(401, (Attribute.REALM, noise), (Attribute.NONCE, noise))):
        read = dialogue.read(raw)
        if isinstance(read, Answer):
            dialogue.accepts_challenge(read)
            dialogue.failure(Step.ALLOCATE, read)
            dialogue.allocation(read)
            dialogue.request(Method.ALLOCATE, ID)


def test_what_is_asked_for() -> None:
    assert transport_attribute(6) == (Attribute.REQUESTED_TRANSPORT, b"\6\0\0\0")
    assert family_attribute(2) == (Attribute.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")
    assert lifetime_attribute(600) == (Attribute.LIFETIME, b"\0\0\2\x58")


# Proof ------------------------------------------------------------------------------------------

SILENT = Failure(step=Step.RELAY, reason=Reason.TIMEOUT)
DENIED = Failure(step=Step.PERMISSION, reason=Reason.FORBIDDEN)
FULL = Failure(step=Step.ALLOCATE, reason=Reason.QUOTA)


@pytest.mark.parametrize(
    ("peer", "loop", "verdict", "reason"),
    [
        ("carried", None, "up", ""),
        ("carried", SILENT, "up", ""),
        (DENIED, "carried", "up", ""),
        (SILENT, "carried", "unproven", "timeout"),
        (DENIED, DENIED, "unproven", "forbidden"),
        (DENIED, SILENT, "unproven", "timeout"),
        (SILENT, DENIED, "unproven", "forbidden"),
        (SILENT, SILENT, "down", "timeout"),
        (SILENT, FULL, "down", "quota"),
        (SILENT, None, "down", "timeout"),
        (None, None, "down", ""),
    ],
)
def test_what_a_proof_says(
    peer: Outcome | None,
    loop: Outcome | None,
    verdict: Literal["up", "unproven", "down"],
    reason: str,
) -> None:
    proof = RelayProof(peer=peer, loop=loop)

    assert (proof.verdict, proof.reason) == (verdict, reason)
