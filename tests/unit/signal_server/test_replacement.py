"""A device that comes back as a new session (`hello.replaces`): one change, and nothing stale."""

from __future__ import annotations

from typing import Any

import pytest
from switchboard_driver import Client, Driver, candidate, sdp

from signal_server.wire.codes import CloseCode


@pytest.fixture
def driver() -> Driver:
    return Driver(resume_window_s=60, peers_per_room=3)


def reload(driver: Driver, old: Client, room: str | None = "r", **hello: Any) -> Client:
    replaces = {"session": old.session, "secret": "secret", **hello.pop("replaces", {})}
    return driver.connect(room, identity=hello.pop("who", old.identity), replaces=replaces, **hello)


def test_the_others_see_one_change(driver: Driver) -> None:
    a, b = driver.connect(), driver.connect()
    revision = a.take()[-1]["revision"]
    b.disconnect()
    a.take()
    new = reload(driver, b, data={"n": 1})
    (seen,) = a.take()
    assert {key: seen[key] for key in ("type", "peer", "replaced", "identity", "polite")} == {
        "type": "peer_replaced",
        "peer": new.peer,
        "replaced": b.peer,
        "identity": b.identity,
        "polite": False,
    }
    assert seen["revision"] == revision + 2, "its loss was the other change"
    assert seen["data"] == {"n": 1}
    (snapshot,) = new.take("room")
    assert snapshot["revision"] == seen["revision"]
    assert [entry["peer"] for entry in snapshot["peers"]] == [a.peer]
    assert driver.resume(b, 1).take()[0]["code"] == "resume_expired"
    assert [fact.kind for fact in driver.facts[-2:]] == ["peer.left", "peer.joined"]


def test_a_former_connection_that_lives_is_fenced(driver: Driver) -> None:
    a, b = driver.connect(), driver.connect()
    new = reload(driver, b)
    assert b.closed is not None
    assert b.closed.code is CloseCode.SUPERSEDED
    b.is_open = False
    assert [m["type"] for m in a.take()][-1] == "peer_replaced"
    assert a.code("message", to=b.peer, data=1) == "not_found"
    assert a.code("message", to=new.peer, data=1) is None


def test_candidates_of_the_former_session_reach_nobody(driver: Driver) -> None:
    a, b = driver.connect(), driver.connect()
    a.send("candidate", to=b.peer, candidate=candidate(1, "u"))
    b.send("candidate", to=a.peer, candidate=candidate(2, "w"))
    b.disconnect()
    new = reload(driver, b)
    assert driver.board.tally.candidates_held == 0
    assert driver.board.tally.candidates_dropped["peer_left"] == 2
    a.send("offer", to=new.peer, sdp=sdp(("0", "u")))
    new.send("answer", to=a.peer, sdp=sdp(("0", "w")))
    assert (new.flow(), a.flow()) == (["offer"], ["answer"])


def test_it_fits_into_a_full_room(driver: Driver) -> None:
    a, b, _ = driver.connect(), driver.connect(), driver.connect()
    assert reload(driver, b).take("error") == []
    assert driver.connect().take("error")[0]["code"] == "room_full"
    assert len(a.take("peer_replaced")) == 1


@pytest.mark.parametrize(
    "flaw", [{"replaces": {"secret": "guess"}}, {"replaces": {"session": "s9"}}, {"who": "eve"}]
)
def test_what_is_not_its_own_is_ignored(driver: Driver, flaw: Any) -> None:
    a, b = driver.connect(), driver.connect()
    a.take()
    new = reload(driver, b, **flaw)
    assert [m["type"] for m in a.take()] == ["peer_joined"]
    assert [m["type"] for m in new.take()] == ["welcome", "room"]
    assert b.closed is None


@pytest.mark.parametrize("room", ["s", None])
def test_elsewhere_the_former_one_just_leaves(driver: Driver, room: str | None) -> None:
    a, b = driver.connect(), driver.connect()
    a.take()
    reload(driver, b, room)
    assert [m["type"] for m in a.take()] == ["peer_left"]


def test_one_that_was_in_no_room_just_ends(driver: Driver) -> None:
    a, b = driver.connect(), driver.connect(None)
    a.take()
    reload(driver, b)
    assert [m["type"] for m in a.take()] == ["peer_joined"]
    assert len(driver.board.sessions.by_id) == 2


def test_its_calls_end(driver: Driver) -> None:
    a, b = driver.connect(None, identity="a"), driver.connect(None, identity="b")
    call = a.send("call_invite", to="b", id=1)[0]["call"]
    b.send("call_accept", call=call)
    a.take()
    reload(driver, b, call)
    assert a.take("call_ended")[0]["reason"] == "unreachable"
    assert len(a.take("peer_replaced")) == 1


def test_nothing_is_left_of_either(driver: Driver) -> None:
    b = driver.connect()
    new = reload(driver, b)
    new.send("bye")
    assert driver.is_empty()
