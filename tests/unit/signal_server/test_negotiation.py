"""Two ends of one negotiation: numbers, states, glare, and what each tells its buffer."""

from __future__ import annotations

import pytest

from signal_server.core.candidate_buffer import CandidateBuffer
from signal_server.core.negotiation import NEGOTIATION_LEAP, Arrival, Negotiation
from signal_server.core.tally import Tally
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import Outline, outline

STALE = ErrorCode.STALE_NEGOTIATION
WRONG = ErrorCode.WRONG_STATE


def described(*ufrags: str) -> Outline:
    return Outline(mids=tuple(str(i) for i in range(len(ufrags))), ufrags=ufrags)


class Pair:
    """Both ends, with what passes one told to the other, as `core.directed` does."""

    def __init__(self, *, gated: bool = False) -> None:
        self.tally = Tally()
        self.a, self.b = (
            Negotiation(CandidateBuffer(Limits(), self.tally, gated=gated)) for _ in "ab"
        )
        self.glare = 0

    def offer(self, mine: Negotiation, number: int | None = None, *ufrags: str) -> object:
        sent = mine.send_offer(number, described(*ufrags or ("u",)), 0.0)
        if not isinstance(sent, ErrorCode):
            self.glare += self.other(mine).receive_offer(sent) is not Arrival.ALONE
        return sent

    def answer(
        self, mine: Negotiation, number: int | None = None, *ufrags: str, final: bool = True
    ) -> object:
        sent = mine.send_answer(number, described(*ufrags or ("w",)), 0.0, final=final)
        if not isinstance(sent, ErrorCode):
            self.other(mine).receive_answer(sent, final=final)
        return sent

    def rollback(self, mine: Negotiation, number: int | None = None) -> object:
        sent = mine.send_rollback(number)
        if not isinstance(sent, ErrorCode):
            self.other(mine).receive_rollback(sent)
        return sent

    def other(self, mine: Negotiation) -> Negotiation:
        return self.b if mine is self.a else self.a

    def open(self) -> tuple[int | None, int | None]:
        """Outstanding offers of a and b; both ends must agree."""
        assert (self.a.outgoing, self.a.incoming) == (self.b.incoming, self.b.outgoing)
        return self.a.outgoing, self.b.outgoing


def test_numbers_are_given_and_echoed() -> None:
    pair = Pair()
    assert [pair.offer(pair.a), pair.answer(pair.b), pair.offer(pair.b)] == [1, 1, 2]
    assert pair.answer(pair.a, 2) == 2
    assert pair.open() == (None, None)


@pytest.mark.parametrize(
    ("number", "sent"),
    [
        (None, 11),
        (11, 11),
        (11 + 500, 511),
        (10 + NEGOTIATION_LEAP, 10 + NEGOTIATION_LEAP),
        (11 + NEGOTIATION_LEAP, STALE),
        (10, STALE),
        (9, STALE),
    ],
)
def test_own_numbers_only_grow(number: int | None, sent: object) -> None:
    pair = Pair()
    pair.offer(pair.a, 10)
    assert pair.offer(pair.b, number) == sent


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(("number", "sent"), [(None, 2), (2, 2), (1, STALE), (3, STALE)])
def test_only_the_outstanding_offer_is_answered(
    number: int | None, sent: object, final: bool
) -> None:
    pair = Pair()
    pair.offer(pair.a)
    pair.offer(pair.a)
    assert pair.answer(pair.b, number, final=final) == sent
    answered = final and sent == 2
    assert pair.open() == (None if answered else 2, None)


@pytest.mark.parametrize(("number", "sent"), [(None, WRONG), (1, STALE)])
def test_nothing_to_answer(number: int | None, sent: ErrorCode) -> None:
    assert Pair().a.send_answer(number, outline(""), 0.0, final=True) == sent


@pytest.mark.parametrize(
    ("who", "number", "sent", "left"),
    [
        ("a", None, 1, (None, 2)),
        ("a", 1, 1, (None, 2)),
        ("a", 2, 2, (1, None)),
        ("b", None, 2, (1, None)),
        ("b", 1, 1, (None, 2)),
        ("b", 3, STALE, (1, 2)),
    ],
)
def test_rollback_in_glare(
    who: str, number: int | None, sent: object, left: tuple[int | None, int | None]
) -> None:
    pair = Pair()
    pair.offer(pair.a)
    pair.offer(pair.b)
    assert pair.glare == 1
    assert pair.rollback(getattr(pair, who), number) == sent
    assert pair.open() == left


def test_rollback_of_nothing() -> None:
    pair = Pair()
    assert pair.rollback(pair.a) == WRONG
    assert pair.rollback(pair.a, 1) == WRONG


def test_a_late_rollback_changes_nothing() -> None:
    pair = Pair()
    pair.offer(pair.a)
    pair.b.receive_rollback(7)
    assert pair.open() == (1, None)


def test_rollback_of_the_others_offer() -> None:
    pair = Pair()
    pair.offer(pair.a)
    assert pair.rollback(pair.b) == 1
    assert pair.open() == (None, None)


def test_the_polite_peer_yields_by_answering() -> None:
    pair = Pair()
    pair.offer(pair.a, None, "a1")
    pair.offer(pair.b, None, "b1")
    assert pair.answer(pair.b, 1, "b2") == 1
    assert pair.open() == (None, None)
    assert pair.answer(pair.a, 2) == STALE
    verdict = pair.b.buffer.admit(CandidateInit("c", "0", None, "b1"), 0.0)
    assert verdict is ErrorCode.STALE_GENERATION


def test_a_provisional_answer_keeps_the_own_offer() -> None:
    pair = Pair()
    pair.offer(pair.a)
    pair.offer(pair.b)
    pair.answer(pair.b, 1, final=False)
    assert pair.open() == (1, 2)


@pytest.mark.parametrize("step", ["rollback", "offer"])
def test_a_provisional_answer_falls_with_its_offer(step: str) -> None:
    pair = Pair()
    for n in range(1, 100):
        pair.offer(pair.a)
        pair.answer(pair.b, None, f"b{n}", final=False)
        if step == "rollback":
            pair.rollback(pair.a)
    assert len(pair.b.buffer._strands) <= 1
    assert len(pair.a.buffer._strands) <= 1


def held_of_b(pair: Pair) -> int:
    pair.b.buffer.admit(CandidateInit("c", "0", None, "w"), 0.0)
    pair.b.buffer.release()
    return pair.b.buffer.held


def test_an_answer_proves_that_the_offer_was_applied() -> None:
    pair = Pair(gated=True)
    pair.offer(pair.a)
    pair.a.buffer.admit(CandidateInit("c", "0", None, "u"), 0.0)
    assert pair.a.buffer.release() == []
    pair.answer(pair.b, final=False)
    assert len(pair.a.buffer.release()) == 1


def test_the_next_offer_proves_that_the_answer_was_applied() -> None:
    pair = Pair(gated=True)
    pair.offer(pair.a)
    pair.answer(pair.b)
    assert held_of_b(pair) == 1
    pair.offer(pair.a)
    assert held_of_b(pair) == 0


def test_gates_do_not_pile_up() -> None:
    pair = Pair(gated=True)
    for _ in range(100):
        pair.offer(pair.a)
        pair.answer(pair.b)
    assert len(pair.b.buffer.gate) == 1
    assert not pair.a.buffer.gate
