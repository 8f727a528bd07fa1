"""Messages from peer to peer, through a real switchboard."""

from __future__ import annotations

from typing import Any

import pytest
from switchboard_driver import Client, Driver, candidate, sdp

OFFER = sdp(("0", "a"), ("1", "a"))
ANSWER = sdp(("0", "b"), ("1", "b"))


def pair(features: list[str] | None = None, **limits: Any) -> tuple[Driver, Client, Client]:
    """Two peers of one room; the features are the second's."""
    driver = Driver(**limits)
    a, b = driver.connect(), driver.connect(features=features)
    a.take()
    b.take()
    return driver, a, b


def test_an_exchange_is_stamped_and_numbered() -> None:
    _, a, b = pair()
    assert a.send("offer", to=b.peer, sdp=OFFER, id=1) == [
        {"type": "ok", "id": 1, "negotiation": 1}
    ]
    (offer,) = b.take()
    assert offer == {
        "type": "offer",
        "seq": 2,
        "from": a.peer,
        "identity": a.identity,
        "pc": "main",
        "negotiation": 1,
        "sdp": OFFER,
    }
    b.send("pranswer", to=a.peer, sdp=ANSWER)
    b.send("answer", to=a.peer, sdp=ANSWER, negotiation=1)
    b.send("applied", to=a.peer, negotiation=1)
    a.send("renegotiate", to=b.peer, reason="ice_restart")
    a.send("state", to=b.peer, state="connected", candidate_type="relay")
    a.send("offer", to=b.peer, sdp=OFFER)
    b.send("rollback", to=a.peer)
    assert [(m["type"], m["negotiation"], m["from"]) for m in a.inbox[1:]] == [
        ("pranswer", 1, b.peer),
        ("answer", 1, b.peer),
        ("applied", 1, b.peer),
        ("rollback", 2, b.peer),
    ]
    assert [(m["type"], m["negotiation"]) for m in b.inbox] == [
        ("renegotiate", 1),
        ("state", 1),
        ("offer", 2),
    ]
    assert b.inbox[0]["reason"] == "ice_restart"
    assert (b.inbox[1]["state"], b.inbox[1]["candidate_type"]) == ("connected", "relay")


@pytest.mark.parametrize(
    ("content", "out"),
    [
        ({"candidate": candidate(1, "a")}, [candidate(1, "a")]),
        ({"candidates": [candidate(1, "a"), candidate(2, "a")]}, [1, 2]),
        ({"candidates": []}, None),
        ({"candidate": None}, ["end"]),
        ({"candidate": {}}, ["end"]),
        ({"candidate": {"candidate": ""}}, ["end"]),
        ({"candidate": {"candidate": None, "usernameFragment": "a"}}, ["end"]),
        ({"candidates": [candidate(1, "a"), None]}, [1, "end"]),
    ],
)
def test_candidates_always_come_as_a_list(
    content: dict[str, Any], out: list[object] | None
) -> None:
    _, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER)
    b.take()
    a.send("candidate", to=b.peer, **content)

    relayed = [m for m in b.take() if m["type"] == "candidate"]
    assert len(relayed) == (out is not None)
    if out is not None:
        found = relayed[0]["candidates"]
        assert len(found) == len(out)
        for init, expected in zip(found, out, strict=True):
            if expected == "end":
                assert init == {
                    "candidate": "",
                    "sdpMid": None,
                    "sdpMLineIndex": None,
                    "usernameFragment": "a",
                }


def test_early_candidates_come_after_the_offer() -> None:
    _, a, b = pair()
    a.send("candidate", to=b.peer, candidates=[candidate(1, "a"), candidate(2), None])
    assert b.inbox == []
    a.send("offer", to=b.peer, sdp=OFFER)
    assert b.flow() == ["offer", "1", "2", "end:*"]


def test_early_candidates_come_after_the_answer() -> None:
    _, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER)
    b.send("candidate", to=a.peer, candidate=candidate(1, "b"), negotiation=1)
    b.send("answer", to=a.peer, sdp=ANSWER)
    assert a.flow() == ["answer", "1"]


@pytest.mark.parametrize(
    "evidence",
    [
        ("applied", {"negotiation": 1}),
        ("answer", {"sdp": ANSWER}),
        ("pranswer", {"sdp": ANSWER}),
        ("candidate", {"candidate": candidate(9, "b"), "negotiation": 1}),
        ("state", {"state": "connected"}),
    ],
    ids=lambda evidence: evidence[0],
)
def test_a_gated_receiver_gets_candidates_on_evidence(evidence: tuple[str, Any]) -> None:
    driver, a, b = pair(["gated"])
    a.send("offer", to=b.peer, sdp=OFFER)
    a.send("candidate", to=b.peer, candidates=[candidate(1, "a"), None])
    assert b.flow() == ["offer"]
    assert driver.board.next_deadline() == driver.now + 10.0
    b.send("state", to=a.peer, state="connecting")
    b.send("candidate", to=a.peer, candidate=candidate(8, "b"))
    assert b.flow() == []
    kind, fields = evidence
    b.send(kind, to=a.peer, **fields)
    assert b.flow() == ["1", "end:*"]
    driver.pass_time(100)
    assert driver.board.tally.gate_timeouts == 0


def test_a_gated_offerer_gets_candidates_on_evidence() -> None:
    _, a, b = pair(["gated"])
    b.send("offer", to=a.peer, sdp=OFFER)
    a.send("answer", to=b.peer, sdp=ANSWER)
    a.send("candidate", to=b.peer, candidate=candidate(1, "b"))
    assert b.flow() == ["answer"]
    b.send("offer", to=a.peer, sdp=OFFER)
    assert b.flow() == ["1"]


def test_a_gate_opens_by_itself() -> None:
    driver, a, b = pair(["gated"])
    a.send("candidate", to=b.peer, candidate=candidate(1, "a"))
    a.send("offer", to=b.peer, sdp=OFFER)
    driver.pass_time(9.9)
    assert b.flow() == ["offer"]
    driver.pass_time(0.2)
    assert b.flow() == ["1"]
    assert driver.board.tally.gate_timeouts == 1
    assert driver.board._end_agenda.next() is None


def test_early_candidates_expire() -> None:
    driver, a, b = pair()
    a.send("candidate", to=b.peer, candidate=candidate(1, "a"))
    driver.pass_time(45)
    a.send("offer", to=b.peer, sdp=OFFER)
    assert b.flow() == ["offer"]
    assert driver.board.tally.candidates_dropped == {"expired": 1}
    assert driver.board.tally.held_bytes == 0


def test_glare_passes_through_and_is_counted() -> None:
    driver, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER)
    b.send("offer", to=a.peer, sdp=ANSWER)
    assert (a.flow(), b.flow()) == (["offer"], ["offer"])
    assert driver.board.tally.glare == 1
    b.send("answer", to=a.peer, sdp=ANSWER, negotiation=1)
    assert a.flow() == ["answer"]


def test_rollback_of_the_others_offer_drops_its_candidates() -> None:
    driver, a, b = pair(["gated"])
    a.send("offer", to=b.peer, sdp=OFFER)
    a.send("candidate", to=b.peer, candidate=candidate(1, "a"))
    b.send("rollback", to=a.peer)
    assert driver.board.tally.candidates_dropped == {"stale_generation": 1}
    assert driver.board._end_agenda.next() is None


def test_each_peer_connection_of_a_pair_is_its_own() -> None:
    _, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER, pc="screen")
    a.send("candidate", to=b.peer, candidate=candidate(1, "a"))
    a.send("candidate", to=b.peer, candidate=candidate(2, "a"), pc="screen")
    assert b.flow() == ["offer", "2"]
    assert a.code("answer", to=b.peer, sdp=ANSWER) == "wrong_state"


LONG = "x" * 101


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("offer", {"sdp": LONG}, "payload_too_large"),
        ("answer", {"sdp": LONG}, "payload_too_large"),
        ("pranswer", {"sdp": LONG}, "payload_too_large"),
        ("offer", {"sdp": "x", "negotiation": 2_000_000}, "stale_negotiation"),
        ("answer", {"sdp": "x"}, "wrong_state"),
        ("answer", {"sdp": "x", "negotiation": 1}, "stale_negotiation"),
        ("pranswer", {"sdp": "x"}, "wrong_state"),
        ("rollback", {}, "wrong_state"),
        ("applied", {"negotiation": 1}, "stale_negotiation"),
        ("candidate", {}, "bad_request"),
        ("candidate", {"candidate": {"candidate": "c"}}, "bad_request"),
        ("candidate", {"candidate": {"candidate": LONG, "sdpMid": "0"}}, "payload_too_large"),
        ("candidate", {"candidates": [None] * 4}, "payload_too_large"),
        ("candidate", {"candidates": [candidate(n, "a") for n in (1, 2, 3)]}, "buffer_full"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], code: str) -> None:
    driver, a, b = pair(
        sdp_bytes=100, candidate_bytes=100, candidates_per_message=3, candidates_per_generation=2
    )
    assert a.code(kind, to=b.peer, **fields) == code
    assert b.inbox == []
    assert driver.board.tally.refused == {code: 1}


def test_refused_candidates_name_the_reason() -> None:
    _, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER)
    assert a.code("candidate", to=b.peer, candidate=None) is None
    assert a.code("candidate", to=b.peer, candidate=candidate(1, "a")) == "candidate_after_end"
    b.send("answer", to=a.peer, sdp=ANSWER)
    a.send("offer", to=b.peer, sdp=sdp(("0", "c")))
    b.send("answer", to=a.peer, sdp=sdp(("0", "d")))
    assert a.code("candidate", to=b.peer, candidate=candidate(1, "a")) == "stale_generation"
    assert b.code("candidate", to=a.peer, candidate=candidate(1, "b")) == "stale_generation"


def test_what_is_good_in_a_message_passes_although_the_rest_is_refused() -> None:
    _, a, b = pair()
    a.send("offer", to=b.peer, sdp=OFFER)
    a.send("candidate", to=b.peer, candidate={"candidate": "", "sdpMid": "0"})
    batch = [candidate(1, "a"), candidate(2, "a", "1")]
    assert a.code("candidate", to=b.peer, candidates=batch) == "candidate_after_end"
    assert b.flow() == ["offer", "end:0", "2"]


def test_a_pair_has_only_so_many_peer_connections() -> None:
    _, a, b = pair(peer_connections_per_pair=2)
    c = a.driver.connect()
    for pc in ("x", "y"):
        assert a.code("offer", to=b.peer, sdp=OFFER, pc=pc) is None
    assert a.code("offer", to=b.peer, sdp=OFFER, pc="z") == "limit_exceeded"
    assert b.code("offer", to=a.peer, sdp=OFFER, pc="z") == "limit_exceeded"
    assert b.code("offer", to=a.peer, sdp=OFFER, pc="x") is None
    assert a.code("offer", to=c.peer, sdp=OFFER, pc="z") is None


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("how", ["leave", "bye", "move", "disconnect"])
def test_a_departure_ends_every_negotiation(who: int, how: str) -> None:
    driver, a, b = pair(["gated"])
    for pc in ("x", "y"):
        a.send("offer", to=b.peer, sdp=OFFER, pc=pc)
        a.send("candidate", to=b.peer, candidates=[candidate(1, "a"), candidate(2, "q")], pc=pc)
        b.send("candidate", to=a.peer, candidate=candidate(1, "b"), pc=pc)
    assert driver.board.tally.candidates_held == 6
    leaver = (a, b)[who]
    if how == "disconnect":
        leaver.disconnect()
    elif how == "move":
        leaver.send("join", room="elsewhere")
    else:
        leaver.send(how)
    assert driver.board.tally.candidates_dropped == {"peer_left": 6}
    assert (driver.board.tally.candidates_held, driver.board.tally.held_bytes) == (0, 0)
    assert all(not session.ends for session in driver.board.sessions.by_id.values())
    assert driver.board._end_agenda.next() is None
    driver.pass_time(1000)
