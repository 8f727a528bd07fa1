"""A node alone: what needs who is elsewhere is refused; what it tells goes with other secrets."""

from __future__ import annotations

import pytest
from switchboard_driver import Client, Driver, Json, candidate, sdp

from signal_server.client_session import ClientSession
from signal_server.core import inputs
from signal_server.wire.messages import NewSecret, Welcome, WelcomeResume

ELSEWHERE = 2


@pytest.fixture
def driver() -> Driver:
    driver = Driver(resume_window_s=30)
    for room in ("mixed", "mixed", "local", "local"):
        driver.connect(room)
    driver.board.cut_off(lambda connection: connection == ELSEWHERE)
    return driver


def _clients(driver: Driver) -> list[Client]:
    return list(driver.clients.values())


def test_nothing_goes_to_who_is_elsewhere(driver: Driver) -> None:
    near, far, *_ = _clients(driver)
    before = len(far.inbox)
    said: tuple[Json, ...] = (
        {"kind": "message", "to": far.peer, "data": 1},
        {"kind": "message", "data": 1},
        {"kind": "offer", "to": far.peer, "sdp": sdp(("0", "u"))},
        {"kind": "candidate", "to": far.peer, "candidates": [candidate(1, "u")]},
    )
    for number, fields in enumerate(said):
        (error,) = near.send(id=number, **fields)
        assert (error["code"], error["retryable"]) == ("peer_unreachable", True)
    assert len(far.inbox) == before


def test_a_room_with_somebody_elsewhere_takes_nobody_in(driver: Driver) -> None:
    *_, local = _clients(driver)
    assert local.code("join", room="mixed", id=1) == "unavailable"
    assert local.code("join", room="new", id=2) is None


def test_who_is_here_goes_on(driver: Driver) -> None:
    _, _, one, other = _clients(driver)
    assert one.code("message", to=other.peer, data=1, id=1) is None
    assert one.code("message", data=2, id=2) is None
    assert [m["data"] for m in other.take("message")] == [1, 2]


def test_who_is_away_for_a_moment_is_not_elsewhere(driver: Driver) -> None:
    _, _, one, other = _clients(driver)
    seq = max(m.get("seq", 0) for m in other.inbox)
    other.disconnect()
    assert one.code("message", to=other.peer, data=1, id=1) is None
    back = driver.resume(other, seq)
    assert [m["data"] for m in back.take("message")] == [1]


def test_all_can_be_reached_again(driver: Driver) -> None:
    near, far, *_ = _clients(driver)
    driver.board.cut_off(None)
    assert near.code("message", to=far.peer, data=1, id=1) is None
    assert near.code("message", data=2, id=2) is None
    assert [m["data"] for m in far.take("message")] == [1, 2]


def test_who_is_told_more_has_another_secret(driver: Driver) -> None:
    _, _, one, other = _clients(driver)
    driver.feed(inputs.Rekeyed(one.connection, "mine"))
    (told,) = one.take("new_secret")
    assert told["resume"] == {"secret": "mine", "window_s": 30}
    assert "seq" not in told
    seq = max(m.get("seq", 0) for m in one.inbox)
    one.disconnect()
    assert [m["type"] for m in driver.resume(one, seq, secret="mine").take("resumed")]
    # The other one has its own, and a connection that is gone gets none.
    other.disconnect()
    driver.feed(inputs.Rekeyed(other.connection, "nobody's"))
    assert driver.resume(other, 1).take("resumed")


def test_who_did_not_hear_of_it_comes_back_with_the_former_secret(driver: Driver) -> None:
    *_, one = _clients(driver)
    seq = max(m.get("seq", 0) for m in one.inbox)
    driver.feed(inputs.Rekeyed(one.connection, "mine"))
    one.disconnect()
    back = driver.resume(one, seq, new_secret="third")
    assert back.take("resumed")
    assert back.code("ping") is None
    back.disconnect()
    (refused,) = driver.resume(back, seq, secret="mine").take("error")
    assert refused["code"] == "resume_expired"


def test_the_python_client_takes_it() -> None:
    welcome = Welcome(
        session="s",
        peer="p",
        identity="i",
        resume=WelcomeResume("first", 30),
        node="n",
        region="r",
        ping_interval_s=1,
        limits={},
    )
    session = ClientSession(welcome)
    session.rekeyed(NewSecret(resume=WelcomeResume("second", 30)))
    assert session.resume().secret == "second"
