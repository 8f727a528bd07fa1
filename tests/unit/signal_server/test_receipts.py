"""Feature `receipts`: what a sender is told of each message that has an id."""

from __future__ import annotations

from typing import Any

import pytest
from switchboard_driver import Client, Driver, Json, candidate, sdp

from signal_server.core.receipts import Fact
from signal_server.wire.receipts import Stage

RECEIPTS = ["receipts"]


def told(client: Client) -> list[tuple[Any, ...]]:
    """(ref, stage) or (ref, stage, reason) of every receipt so far."""
    receipts = client.take("receipt")
    return [
        tuple(value for name in ("ref", "stage", "reason") if (value := m.get(name)) is not None)
        for m in receipts
    ]


def acknowledge(client: Client) -> None:
    """Everything up to the highest number in the inbox."""
    assert client.code("ack", seq=max(m["seq"] for m in client.inbox if "seq" in m)) is None


@pytest.fixture
def driver() -> Driver:
    return Driver(resume_window_s=60, outbox_messages=8, receipts_per_session=4)


def pair(driver: Driver, *features: str) -> tuple[Client, Client]:
    a = driver.connect(features=RECEIPTS)
    return a, driver.connect(features=list(features))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("offer", {"sdp": sdp(("0", "u"))}),
        ("message", {"data": 1}),
        ("renegotiate", {}),
        ("state", {"state": "failed"}),
    ],
)
def test_relayed_then_received(driver: Driver, kind: str, fields: Json) -> None:
    a, b = pair(driver)
    a.send(kind, to=b.peer, id="m", **fields)
    assert told(a) == [("m", "relayed")]
    acknowledge(b)
    acknowledge(b)
    assert told(a) == [("m", "received")]


def test_only_for_requests_with_an_id_in_sessions_with_the_feature(driver: Driver) -> None:
    a, b = pair(driver)
    a.send("message", to=b.peer, data=1)
    b.send("message", to=a.peer, data=1, id=1)
    a.send("message", data="everybody", id=2)
    acknowledge(b)
    acknowledge(a)
    assert told(a) + told(b) == []
    assert driver.board.sessions.by_connection[b.connection].followed is None


def test_a_refused_request_has_an_error_and_no_receipt(driver: Driver) -> None:
    a, b = pair(driver)
    assert a.code("answer", to=b.peer, sdp="v=0", id=1) == "wrong_state"
    assert a.code("candidate", to=b.peer, candidate={"candidate": "x"}, id=2) == "bad_request"
    assert told(a) == []


def test_a_repeated_id_is_not_followed_twice(driver: Driver) -> None:
    a, b = pair(driver)
    for _ in range(2):
        a.send("message", to=b.peer, data=1, id=1)
    acknowledge(b)
    assert told(a) == [(1, "relayed"), (1, "received")]


def test_an_acknowledgement_may_ride_on_a_message_or_a_resume(driver: Driver) -> None:
    a, b = pair(driver)
    a.send("message", to=b.peer, data=1, id=1)
    b.send("ping", ack=b.inbox[-1]["seq"])
    assert told(a) == [(1, "relayed"), (1, "received")]
    a.send("message", to=b.peer, data=2, id=2)
    seq = b.inbox[-1]["seq"]
    b.disconnect()
    driver.resume(b, seq)
    assert told(a) == [(2, "relayed"), (2, "received")]


class TestApplied:
    def test_an_offer_by_its_answer(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=1)
        acknowledge(b)
        b.send("answer", to=a.peer, sdp=sdp(("0", "w")))
        assert told(a) == [(1, "relayed"), (1, "received"), (1, "applied")]

    def test_it_implies_received(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=1)
        b.send("answer", to=a.peer, sdp=sdp(("0", "w")))
        acknowledge(b)
        assert told(a) == [(1, "relayed"), (1, "applied")]

    @pytest.mark.parametrize("proof", ["applied", "offer", "connected"])
    def test_an_answer_by_what_proves_it(self, driver: Driver, proof: str) -> None:
        b, a = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        b.send("answer", to=a.peer, sdp=sdp(("0", "w")), id=1)
        assert told(b) == [(1, "relayed")]
        match proof:
            case "applied":
                a.send("applied", to=b.peer, negotiation=1)
            case "offer":
                a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
            case "connected":
                a.send("state", to=b.peer, state="connected")
        assert told(b) == [(1, "applied")]

    def test_a_gate_that_times_out_proves_nothing(self, driver: Driver) -> None:
        a, b = pair(driver, "gated")
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=1)
        a.send("candidate", to=b.peer, candidate=candidate(1, "u"), id=2)
        driver.pass_time(11)
        assert told(a) == [(1, "relayed"), (2, "relayed")]

    def test_never_after_the_last_word(self, driver: Driver) -> None:
        """Of many the oldest is no longer followed, and is not remembered anywhere."""
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id="offer")
        for number in range(4):
            a.send("message", to=b.peer, data=1, id=number)
        assert ("offer", "expired", "limits") in told(a)
        b.send("answer", to=a.peer, sdp=sdp(("0", "w")))
        assert told(a) == []

    def test_provisional_answers_without_end_are_followed_in_bounds(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.send("offer", to=a.peer, sdp=sdp(("0", "u")))
        for number in range(50):
            a.send("pranswer", to=b.peer, sdp=sdp(("0", "w")), id=number)
        session = driver.board.sessions.by_id[a.session]
        assert len(session.ends[b.peer, "main"].followed or ()) <= 4

    @pytest.mark.parametrize("how", ["own", "other", "replaced"])
    def test_never_when_it_was_void(self, driver: Driver, how: str) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=1)
        match how:
            case "own":
                a.send("rollback", to=b.peer)
            case "other":
                b.send("rollback", to=a.peer)
        a.send("offer", to=b.peer, sdp=sdp(("0", "v")))
        b.send("answer", to=a.peer, sdp=sdp(("0", "w")))
        acknowledge(b)
        assert told(a) == [(1, "relayed"), (1, "received")]
        session = driver.board.sessions.by_connection[a.connection]
        assert session.followed == {}

    def test_one_that_was_received_and_is_void_is_forgotten(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=1)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        acknowledge(b)
        assert told(a) == [(1, "relayed"), (1, "received")]
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id=2)
        acknowledge(b)
        a.send("rollback", to=b.peer)
        assert told(a) == [(2, "relayed"), (2, "received")]
        session = driver.board.sessions.by_connection[a.connection]
        assert session.followed == {}


class TestCandidates:
    def test_relayed_with_the_last_that_was_held(self, driver: Driver) -> None:
        a, b = pair(driver)
        batch = [candidate(1, "u"), candidate(2, "v"), candidate(3, "u")]
        a.send("candidate", to=b.peer, candidates=batch, id=1)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        assert told(a) == []
        a.send("offer", to=b.peer, sdp=sdp(("0", "u"), ("1", "v")))
        a.send("offer", to=b.peer, sdp=sdp(("0", "v")))
        acknowledge(b)
        assert told(a) == [(1, "relayed"), (1, "received")]

    def test_expired_without_their_description(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("candidate", to=b.peer, candidate=candidate(1, "u"), id=1)
        driver.pass_time(46)
        assert told(a) == [(1, "expired", "early_ttl")]

    def test_dropped_with_their_generation(self, driver: Driver) -> None:
        a, b = pair(driver, "gated")
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        a.send("candidate", to=b.peer, candidates=[candidate(1, "u"), candidate(2, "u")], id=1)
        a.send("rollback", to=b.peer)
        assert told(a) == [(1, "dropped", "stale_generation")]

    def test_dropped_when_all_were_said_before(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        for request in (1, 2):
            a.send("candidate", to=b.peer, candidate=candidate(1, "u"), id=request)
        assert told(a) == [(1, "relayed"), (2, "dropped", "duplicate")]

    @pytest.mark.parametrize("also", [True, False])
    def test_one_that_turns_out_to_be_repeated(self, driver: Driver, also: bool) -> None:
        """It had no ufrag, and its twin had."""
        a, b = pair(driver)
        twin = {**candidate(1), "candidate": "candidate:1 1 udp 1 1.1.1.1 1 typ host"}
        a.send("candidate", to=b.peer, candidate={**twin, "usernameFragment": "u"})
        more = [candidate(2)] if also else []
        a.send("candidate", to=b.peer, candidates=[twin, *more], id=1)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        assert told(a) == [(1, "relayed") if also else (1, "dropped", "duplicate")]

    def test_dropped_when_the_policy_leaves_none(self, driver: Driver) -> None:
        a, b = pair(driver)
        board = driver.board
        session = board.sessions.by_connection[a.connection]
        session.policy = board._lifecycle.policies[True]
        a.send("candidate", to=b.peer, candidate=candidate(1, "u"), id=1)
        assert told(a) == [(1, "dropped", "address_policy")]


class TestEnds:
    @pytest.mark.parametrize("who", ["sender", "receiver"])
    @pytest.mark.parametrize("how", ["leave", "bye", "join"])
    def test_somebody_leaves(self, driver: Driver, who: str, how: str) -> None:
        a, b = pair(driver)
        a.send("message", to=b.peer, data=1, id="received")
        acknowledge(b)
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")), id="relayed")
        a.send("candidate", to=b.peer, candidate=candidate(1, "v"), id="held")
        told(a)
        {"sender": a, "receiver": b}[who].send(how, **({"room": "s"} if how == "join" else {}))
        assert told(a) == [("relayed", "dropped", "peer_left"), ("held", "dropped", "peer_left")]

    def test_the_window_ends(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        a.send("message", to=b.peer, data=1, id=1)
        driver.pass_time(61)
        assert told(a) == [(1, "relayed"), (1, "expired", "resume_window")]

    def test_nobody_is_told_of_a_pair_that_goes_on(self, driver: Driver) -> None:
        a, b = pair(driver)
        c = driver.connect(features=RECEIPTS)
        a.send("message", to=b.peer, data=1, id=1)
        c.send("bye")
        assert told(a) == [(1, "relayed")]
        b.disconnect()
        a.disconnect()
        driver.pass_time(61)
        assert driver.is_empty()


class TestBounds:
    def test_the_oldest_of_many_is_no_longer_followed(self, driver: Driver) -> None:
        a, b = pair(driver)
        for request in range(6):
            a.send("message", to=b.peer, data=1, id=request)
        assert told(a)[-2:] == [(1, "expired", "limits"), (5, "relayed")]
        assert len(driver.board.sessions.by_connection[a.connection].followed or {}) == 4

    def test_what_the_log_has_lost_is_given_up(self, driver: Driver) -> None:
        a, b = pair(driver)
        others = [driver.connect(features=RECEIPTS) for _ in range(4)]
        for client in (a, *others):
            for request in (1, 2, 3):
                client.send("message", to=b.peer, data=1, id=request)
        receiver = driver.board.sessions.by_connection[b.connection]
        assert len(receiver.awaited or ()) <= 8
        assert (1, "expired", "limits") in told(a)

    def test_facts_about_nobody_and_nothing_are_ignored(self, driver: Driver) -> None:
        a, b = pair(driver)
        receipts = driver.board._receipts
        for sender in ("nobody", a.peer, b.peer):
            receipts.hear(Fact(sender, 1, Stage.RECEIVED))
        assert told(a) + told(b) == []


def test_early_messages_of_a_call_are_followed_from_its_answer(driver: Driver) -> None:
    a, b = driver.connect(None, features=RECEIPTS), driver.connect(None, identity="bo")
    call = a.send("call_invite", to="bo", id=0)[0]["call"]
    a.send("offer", to=call, sdp=sdp(("0", "u")), id=1)
    assert told(a) == []
    b.send("call_accept", call=call)
    assert told(a) == [(1, "relayed")]
