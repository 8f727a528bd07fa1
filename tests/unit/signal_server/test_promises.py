"""The promises of the protocol, one test for each line, on the core of one node.

Models and simulations try them at length; this says in short what they are. That sessions outlive
their node is promised for several nodes and tested with them.
"""

from __future__ import annotations

import pytest
from switchboard_driver import Client, Driver, Json, candidate, sdp

from signal_server.core import inputs
from signal_server.wire.codes import CloseCode


@pytest.fixture
def driver() -> Driver:
    return Driver(resume_window_s=60)


def data(messages: list[Json]) -> list[object]:
    return [m["data"] for m in messages if m["type"] == "message"]


def trio(driver: Driver) -> tuple[Client, Client, Client]:
    a, b, c = driver.connect(), driver.connect(), driver.connect()
    for client in (a, b, c):
        client.take()
    return a, b, c


def test_order_is_kept_between_one_sender_and_one_receiver(driver: Driver) -> None:
    a, b, c = trio(driver)
    for n in range(20):
        (a if n % 2 else c).send("message", to=b.peer, data=n)
        if n == 10:
            b.disconnect()
    b = driver.resume(b, b.inbox[-1]["seq"])
    got = [(m["from"], m["data"]) for m in b.take("message")]
    for sender in (a, c):
        own = [n for who, n in got if who == sender.peer]
        assert own == sorted(own)


def test_nothing_is_lost_or_comes_twice_inside_the_window(driver: Driver) -> None:
    a, b, _ = trio(driver)
    for n in range(10):
        a.send("message", to=b.peer, data=n, id=n)
    read = b.take()[:4]
    b.disconnect()
    for n in range(8, 14):
        a.send("message", to=b.peer, data=n, id=n)
    driver.pass_time(59)
    again = driver.resume(b, read[-1]["seq"])
    assert data(read) + data(again.take()) == list(range(14))


@pytest.mark.parametrize("flaw", ["too late", "log too short"])
def test_or_else_an_explicit_error_says_so(flaw: str) -> None:
    driver = Driver(resume_window_s=60, outbox_messages=4)
    a, b, _ = trio(driver)
    b.disconnect()
    for n in range(9 if flaw == "log too short" else 1):
        a.send("message", to=b.peer, data=n)
    driver.pass_time(61 if flaw == "too late" else 1)
    (error,) = driver.resume(b, 1).take()
    assert error["code"] == ("resume_expired" if flaw == "too late" else "resume_gap")


def test_peer_left_comes_only_after_the_window_or_a_leave(driver: Driver) -> None:
    a, b, c = trio(driver)
    b.disconnect()
    driver.pass_time(59.9)
    assert [m["type"] for m in a.take()] == ["peer_updated"]
    driver.pass_time(0.2)
    assert [(m["type"], m["peer"]) for m in a.take()] == [("peer_left", b.peer)]
    c.send("leave")
    assert [(m["type"], m["peer"]) for m in a.take()] == [("peer_left", c.peer)]


def test_superseded_fences_the_older_connection(driver: Driver) -> None:
    a, b, _ = trio(driver)
    new = driver.resume(b, 1)
    assert b.closed is not None
    assert b.closed.code is CloseCode.SUPERSEDED
    assert b.send("message", to=a.peer, data="ghost") == []
    new.send("message", to=a.peer, data="alive")
    assert data(a.take()) == ["alive"]


def test_a_drain_loses_nothing(driver: Driver) -> None:
    a, b, _ = trio(driver)
    a.send("candidate", to=b.peer, candidate=candidate(1, "u"))
    driver.feed(inputs.Draining(reason="deploy", spread_ms=1000, deadline_ms=2000))
    assert [m["reason"] for m in b.take()] == ["deploy"]
    b.disconnect()
    assert a.code("offer", to=b.peer, sdp=sdp(("0", "u")), id=1) is None
    again = driver.resume(b, 3)
    assert again.flow() == ["offer", "1"]


def test_no_candidate_reaches_a_peer_before_its_description(driver: Driver) -> None:
    a, b, _ = trio(driver)
    a.send("candidate", to=b.peer, candidates=[candidate(1, "u"), None])
    assert b.flow() == []
    a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
    assert b.flow() == ["offer", "1", "end:*"]


def test_none_of_a_replaced_generation_arrives_after_the_new_answer(driver: Driver) -> None:
    a, b, _ = trio(driver)
    for ufrags in (("u", "w"), ("v", "x")):
        a.send("offer", to=b.peer, sdp=sdp(("0", ufrags[0])))
        b.send("answer", to=a.peer, sdp=sdp(("0", ufrags[1])))
    assert a.code("candidate", to=b.peer, candidate=candidate(1, "u")) == "stale_generation"
    assert b.code("candidate", to=a.peer, candidate=candidate(1, "w")) == "stale_generation"
    assert b.flow() == ["offer", "offer"]


def test_what_a_client_says_of_itself_is_ignored(driver: Driver) -> None:
    a, b, _ = trio(driver)
    a.send("message", to=b.peer, data=1, from_="eve", identity="eve")
    (message,) = b.take()
    assert (message["from"], message["identity"]) == (a.peer, a.identity)


def test_ice_servers_are_pushed_as_they_were_asked_for(driver: Driver) -> None:
    a = driver.connect()
    a.send("ice_servers", ttl=100, region="eu", id=1)
    grant = inputs.IceGrant([{"urls": ["turn:t"]}], 100, 1)
    driver.feed(inputs.IceGranted(session=a.session, request=1, grant=grant))
    driver.pass_time(81)
    asked, pushed = driver.grants
    assert (asked.ttl, asked.region, asked.request) == (100, "eu", 1)
    assert (pushed.ttl, pushed.region, pushed.request) == (100, "eu", None)
    driver.feed(inputs.IceGranted(session=a.session, request=None, grant=None))
    driver.pass_time(11)
    assert (driver.grants[-1].ttl, driver.grants[-1].region) == (None, None), "any is better"
