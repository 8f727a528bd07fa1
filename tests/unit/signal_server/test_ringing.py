"""Calls on a real switchboard: rooms, early messages, permissions, resume. Rules: test_calls.py."""

from __future__ import annotations

from typing import Any

import pytest
from switchboard_driver import Client, Driver, candidate, sdp

from signal_server.core.bans import MAX_BANS, Bans

SDP = sdp(("0", "u"))


def invite(caller: Client, to: str | list[str], **fields: Any) -> str:
    answer = caller.send("call_invite", to=to, id=f"i{len(caller.inbox)}", **fields)
    return str(next(m["call"] for m in answer if m["type"] == "ok"))


def three(driver: Driver) -> tuple[Client, Client, Client]:
    """A caller, and two devices of one identity; in no room."""
    clients = (
        driver.connect(None, identity="ann"),
        driver.connect(None, identity="bob"),
        driver.connect(None, identity="bob"),
    )
    for client in clients:
        client.take()
    return clients


def test_the_first_to_accept_meets_the_caller_in_the_calls_room() -> None:
    driver = Driver()
    ann, bob, tablet = three(driver)
    call = invite(ann, "bob", media={"audio": True, "video": True})
    assert [m["call"] for m in bob.take("call_invite") + tablet.take("call_invite")] == [call] * 2
    bob.send("call_ringing", call=call)
    assert [m["device"] for m in ann.take("call_ringing")] == [bob.peer]
    bob.send("call_accept", call=call)
    assert [m["reason"] for m in tablet.take("call_ended")] == ["answered_elsewhere"]
    assert tablet.code("call_accept", call=call) == "wrong_state"
    room = bob.take("room")[0]
    assert [(p["peer"], p["polite"]) for p in room["peers"]] == [(ann.peer, True)]
    assert room["room"] == call
    assert ann.code("offer", to=bob.peer, sdp=SDP) is None


def test_who_is_in_the_room_already_stays_in_it() -> None:
    driver = Driver()
    ann, bob = driver.connect("r", identity="ann"), driver.connect("r", identity="bob")
    ann.take()
    bob.take()
    call = invite(ann, "bob", room="r")
    bob.send("call_accept", call=call)
    assert bob.take("room") == ann.take("peer_left") == []


def test_what_is_sent_to_the_call_waits_for_the_device_that_answers() -> None:
    driver = Driver()
    ann, bob, tablet = three(driver)
    call = invite(ann, "bob")
    assert ann.code("candidate", to=call, candidate=candidate(1, "u")) is None
    assert ann.code("offer", to=call, sdp=SDP) is None
    assert ann.code("candidate", to=call, candidates=[candidate(2, "u"), None]) is None
    assert ann.code("answer", to=call, sdp=SDP) == "wrong_state"
    assert bob.code("offer", to=call, sdp=SDP) == "forbidden"
    bob.send("call_accept", call=call)
    assert bob.flow() == ["offer", "1", "2", "end:*"]
    assert tablet.flow() == []


def test_early_messages_that_nobody_could_get_are_refused_at_once() -> None:
    driver = Driver(candidate_bytes=100, candidates_per_message=2, sdp_bytes=200)
    ann, bob, _ = three(driver)
    call = invite(ann, "bob")
    long = {**candidate(1, "u"), "candidate": "candidate:" + "x" * 100}
    assert ann.code("candidate", to=call, candidate=long) == "payload_too_large"
    assert ann.code("candidate", to=call, candidates=[None] * 3) == "payload_too_large"
    assert ann.code("candidate", to=call, candidate={"candidate": "x"}) == "bad_request"
    assert ann.code("candidate", to=call) == "bad_request"
    assert ann.code("offer", to=call, sdp="v=0" * 100) == "payload_too_large"
    bob.send("call_accept", call=call)
    assert bob.flow() == []


def test_the_text_of_early_candidates_is_charged() -> None:
    driver = Driver(candidate_bytes=2048)
    ann, _, _ = three(driver)
    call = invite(ann, "bob")
    long = {**candidate(1, "u"), "candidate": "candidate:" + "x" * 2000}
    before = driver.board.calls.early_bytes
    assert ann.code("candidate", to=call, candidates=[long, None]) is None
    assert driver.board.calls.early_bytes - before > 2000


def test_an_early_message_that_is_refused_later_is_told_so() -> None:
    driver = Driver(candidates_per_generation=1)
    ann, bob, _ = three(driver)
    call = invite(ann, "bob")
    assert ann.code("candidate", to=call, candidate=candidate(1, "u"), id="x") is None
    assert ann.code("candidate", to=call, candidate=candidate(2, "u"), id="y") is None
    ann.take()
    bob.send("call_accept", call=call)
    errors = ann.take("error")
    assert [(e["id"], e["code"], e["retryable"]) for e in errors] == [("y", "buffer_full", True)]


def test_hang_up_and_timeline() -> None:
    driver = Driver()
    ann, bob, _ = three(driver)
    call = invite(ann, "bob")
    bob.send("call_accept", call=call)
    assert ann.code("call_hangup", call=call) is None
    assert [m["reason"] for m in bob.take("call_ended")] == ["user_hangup"]
    timeline = driver.board.calls.timeline("AC1", call)
    assert timeline is not None
    assert [fact.kind for fact in driver.facts if fact.kind.startswith("call")] == [
        "call.invited",
        "call.accepted",
        "call.ended",
    ]
    assert len(driver.board.calls) == 0


def test_an_invite_waits_for_a_device_to_appear() -> None:
    driver = Driver()
    ann = driver.connect(None, identity="ann")
    call = invite(ann, "bob", lifetime_s=30)
    assert [fact.kind for fact in driver.facts] == ["call.invited", "push.requested"]
    bob = driver.connect(None, identity="bob")
    assert [m["call"] for m in bob.take("call_invite")] == [call]
    driver.pass_time(30)
    assert [m["reason"] for m in ann.take("call_ended")] == ["no_answer"]
    assert [m["reason"] for m in bob.take("call_ended")] == ["no_answer"]


@pytest.mark.parametrize(("step", "reason"), [("call_reject", "declined"), ("bye", "no_answer")])
def test_the_callee_does_not_come(step: str, reason: str) -> None:
    driver = Driver()
    ann, bob = driver.connect(None, identity="ann"), driver.connect(None, identity="bob")
    call = invite(ann, "bob", lifetime_s=20)
    bob.send(step, **({"call": call} if step == "call_reject" else {}))
    driver.pass_time(20)
    assert [m["reason"] for m in ann.take("call_ended")] == [reason]


def test_the_caller_gives_up() -> None:
    driver = Driver()
    ann, bob, _ = three(driver)
    call = invite(ann, "bob")
    ann.send("call_cancel", call=call)
    assert [m["reason"] for m in bob.take("call_ended")] == ["canceled"]


def test_a_resumed_device_is_told_its_calls() -> None:
    driver = Driver(resume_window_s=60)
    ann, bob, _ = three(driver)
    call = invite(ann, "bob")
    bob.disconnect()
    resumed = driver.resume(bob, 1).take("resumed")[0]
    assert [(c["call"], c["role"], c["state"]) for c in resumed["calls"]] == [
        (call, "callee", "invited")
    ]


def test_who_may_not_invite() -> None:
    driver = Driver()
    plain = driver.connect(None, rooms="a*")
    assert plain.code("call_invite", to="x", room="b") == "forbidden"
    assert plain.code("call_invite", to="x", data="d" * 20_000) == "payload_too_large"
    assert plain.code("call_invite", to="x", data={"k": 1}) is None
    assert plain.code("call_hangup", call="c_none") == "not_found"
    mute = driver.connect(None, may_call=False)
    assert mute.code("call_invite", to="x") == "forbidden"


def test_bans_are_bounded_and_end() -> None:
    bans = Bans()
    assert not bans.holds("a", "r", "i", 0.0)
    bans.add("a", "r", "i", 10.0, 0.0)
    bans.add("a", "r", "i", 5.0, 0.0)
    assert bans.holds("a", "r", "i", 9.0)
    assert not bans.holds("a", "r", "i", 10.0)
    for n in range(MAX_BANS + 5):
        bans.add("a", "r", f"i{n}", 100.0 + n, 20.0)
    assert not bans.holds("a", "r", "i0", 20.0)
    assert bans.holds("a", "r", f"i{MAX_BANS + 4}", 20.0)
    bans.add("a", "r", "late", 1e9, 1e8)
    assert not bans.holds("a", "r", f"i{MAX_BANS + 4}", 20.0)
