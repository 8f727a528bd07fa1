"""A node alone: what needs who is connected elsewhere is refused, the rest goes on."""

from __future__ import annotations

import pytest
from switchboard_driver import Client, Driver, Json, candidate, sdp

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
