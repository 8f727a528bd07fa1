"""Sessions, rooms, requests and ICE servers of one node."""

from __future__ import annotations

import pytest
from switchboard_driver import Client, Driver, sdp

from signal_server.core.effects import GrantIce
from signal_server.core.inputs import Closed, Draining, IceGrant, IceGranted
from signal_server.core.lifecycle import ICE_RETRY_S
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import CloseCode, ErrorCode

SERVERS = [{"urls": ["turn:x"], "username": "u", "credential": "c"}]


def roster(client: Client) -> list[tuple[str, bool]]:
    """Peers and own politeness of the snapshot taken last."""
    snapshot = client.take("room")[-1]
    return [(entry["peer"], entry["polite"]) for entry in snapshot["peers"]]


class TestHello:
    def test_welcome_is_first(self) -> None:
        a = Driver().connect("r", id="h", ice=IceGrant(SERVERS, 600, 1600))

        welcome, room, ok = a.take()
        assert welcome["type"] == "welcome"
        assert "seq" not in welcome
        assert (welcome["session"], welcome["peer"], welcome["identity"]) == ("s1", "p1", "i1")
        assert (welcome["node"], welcome["region"]) == ("n1", "eu")
        assert welcome["resume"] == {"secret": "secret", "window_s": 0}
        assert (welcome["ice_servers"], welcome["ice_expires_at"]) == (SERVERS, 1600)
        assert welcome["limits"]["message_bytes"] == 131072
        assert (room["type"], room["seq"], room["room"], room["peers"]) == ("room", 1, "r", [])
        assert ok == {"type": "ok", "id": "h", "room": "r"}

    def test_without_room(self) -> None:
        driver = Driver()
        a = driver.connect(None, id=1)
        assert [m["type"] for m in a.take()] == ["welcome", "ok"]
        assert not driver.board.rooms

    def test_into_a_forbidden_room(self) -> None:
        driver = Driver()
        a = driver.connect("r", rooms="other")
        assert [m["type"] for m in a.inbox] == ["welcome", "error"]
        assert a.code("join", room="other") is None

    def test_a_second_one_is_refused(self) -> None:
        assert Driver().connect().code("hello") == "wrong_state"


class TestRooms:
    def test_joining_shows_the_room_and_tells_the_others(self) -> None:
        driver = Driver()
        a = driver.connect(data={"a": 1})
        a.take()
        b = driver.connect(data=[2])
        c = driver.connect(None)
        c.send("join", room="r")

        assert roster(b) == [("p1", True)]
        snapshot = c.take("room")[0]
        assert snapshot["peers"] == [
            {"peer": "p1", "identity": "i1", "polite": True, "name": "I1", "data": {"a": 1}},
            {"peer": "p2", "identity": "i2", "polite": True, "name": "I2", "data": [2]},
        ]
        assert snapshot["revision"] == 3
        assert [(m["peer"], m["revision"], m["polite"], m.get("data")) for m in a.take()] == [
            ("p2", 2, False, [2]),
            ("p3", 3, False, None),
        ]

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("leave", "left"),
            ("named leave", "left"),
            ("bye", "left"),
            ("join", "moved"),
            ("lost", "connection_lost"),
        ],
    )
    def test_departures(self, how: str, reason: str) -> None:
        driver = Driver()
        a, b = driver.connect(), driver.connect()
        a.take()
        if how == "lost":
            b.disconnect()
        elif how == "join":
            b.send("join", room="other")
        elif how == "named leave":
            b.send("leave", room="r", id=1)
        else:
            b.send(how)
        assert a.take() == [
            {
                "type": "peer_left",
                "seq": 3,
                "peer": "p2",
                "identity": "i2",
                "revision": 3,
                "reason": reason,
            }
        ]

    def test_joining_again_changes_nothing_but_data(self) -> None:
        driver = Driver()
        a, b = driver.connect(data=1), driver.connect()
        a.send("offer", to=b.peer, sdp=sdp(("0", "u")))
        a.take()
        b.take()
        a.send("join", room="r")
        assert roster(a) == [("p2", False)]
        assert b.inbox == []
        a.send("join", room="r", data=2, id=3)
        assert [m["type"] for m in a.take()] == ["room", "ok"]
        assert [(m["type"], m["revision"], m["data"]) for m in b.take()] == [("peer_updated", 3, 2)]
        assert b.code("answer", to=a.peer, sdp="x") is None

    def test_update(self) -> None:
        driver = Driver(data_bytes=10)
        a, b = driver.connect(), driver.connect()
        b.take()
        assert a.send("update", data={"x": 1}, id=1) == [{"type": "ok", "id": 1}]
        assert [(m["peer"], m["data"], m["revision"]) for m in b.take()] == [("p1", {"x": 1}, 3)]
        assert a.code("update", data="0123456789") == "payload_too_large"
        assert a.code("join", room="r", data="0123456789") == "payload_too_large"
        assert driver.connect(None).code("update", data=1) == "wrong_state"

    def test_politeness_follows_the_order_of_joining(self) -> None:
        driver = Driver()
        a, b = driver.connect(), driver.connect()
        a.send("leave")
        a.send("join", room="r")
        assert roster(a) == [("p2", True)]
        assert b.take("peer_joined")[-1]["polite"] is False

    def test_a_room_made_anew_has_another_epoch(self) -> None:
        driver = Driver()
        a = driver.connect()
        first = a.take("room")[0]
        a.send("leave")
        assert not driver.board.rooms
        a.send("join", room="r")
        second = a.take("room")[0]
        assert second["epoch"] > first["epoch"]
        assert second["revision"] == 1

    @pytest.mark.parametrize(("room", "code"), [("team-1", None), ("other", "forbidden")])
    def test_tokens_open_rooms(self, room: str, code: str | None) -> None:
        driver = Driver()
        a = driver.connect("team-0", rooms="team-*")
        assert a.code("join", room=room) == code
        assert (driver.board.sessions.by_connection[1].room is not None) is True

    def test_limits(self) -> None:
        driver = Driver(peers_per_room=2, rooms_per_node=2)
        a, _, c = driver.connect(), driver.connect(), driver.connect(None)
        assert c.code("join", room="r") == "room_full"
        assert a.code("join", room="r") is None
        assert c.code("join", room="s") is None
        d = driver.connect(None)
        assert d.code("join", room="t") == "limit_exceeded"
        assert d.code("join", room="s") is None

    @pytest.mark.parametrize("room", [None, "r", "other"])
    def test_leaving_a_room_one_is_not_in(self, room: str | None) -> None:
        a = Driver().connect(None)
        assert a.code("leave", room=room) == "wrong_state"

    def test_leaving_by_the_wrong_name(self) -> None:
        assert Driver().connect("r").code("leave", room="s") == "wrong_state"


class TestAddressing:
    def test_accounts_never_meet(self) -> None:
        driver = Driver()
        a, b = driver.connect(account="AC1"), driver.connect(account="AC2")
        assert roster(a) == roster(b) == []
        assert len(driver.board.rooms) == 2
        assert a.code("offer", to=b.peer, sdp="x") == "not_found"
        assert a.code("message", to=b.peer, data=1) == "not_found"
        a.send("message", data=1)
        assert b.take("message") == []

    def test_rooms_never_meet(self) -> None:
        driver = Driver()
        a, b = driver.connect("r"), driver.connect("s")
        assert a.code("offer", to=b.peer, sdp="x") == "not_found"
        a.send("message", data=1)
        assert b.take("message") == []

    @pytest.mark.parametrize("kind", ["offer", "message"])
    @pytest.mark.parametrize(
        ("room", "to", "code"),
        [
            ("r", "nobody", "not_found"),
            ("r", "p1", "bad_request"),
            (None, "p1", "wrong_state"),
        ],
    )
    def test_nobody_there(self, kind: str, room: str | None, to: str, code: str) -> None:
        assert Driver().connect(room).code(kind, to=to, sdp="x", data=1) == code

    def test_messages(self) -> None:
        driver = Driver()
        a, b, c = driver.connect(), driver.connect(), driver.connect()
        a.send("message", to=b.peer, data={"k": [1]})
        a.send("message", data=None)
        assert [(m["from"], m["data"]) for m in b.take("message")] == [
            (a.peer, {"k": [1]}),
            (a.peer, None),
        ]
        assert [m["identity"] for m in c.take("message")] == [a.identity]
        assert a.take("message") == []
        assert driver.connect(None).code("message", data=1) == "wrong_state"


class TestRequests:
    @pytest.mark.parametrize("request_id", [1, "1", 0])
    def test_a_repeated_id_is_answered_and_not_done_again(self, request_id: int | str) -> None:
        driver = Driver()
        a, b = driver.connect(), driver.connect()
        b.take()
        first = a.send("offer", to=b.peer, sdp="x", id=request_id)
        assert a.send("offer", to=b.peer, sdp="x", id=request_id) == first
        assert first == [{"type": "ok", "id": request_id, "negotiation": 1}]
        assert len(b.take("offer")) == 1

    def test_a_refused_one_stays_refused_and_is_tried_again_under_a_new_id(self) -> None:
        """A repetition that succeeded later would overtake what was asked after it."""
        a = Driver().connect(None)
        refused = a.send("message", data=1, id=1)
        a.send("join", room="r")
        assert a.send("message", data=1, id=1) == refused
        assert a.send("message", data=1, id=2) == [{"type": "ok", "id": 2}]

    def test_only_so_many_are_remembered(self) -> None:
        driver = Driver(remembered_requests=3)
        a = driver.connect()
        for n in range(10):
            a.send("ping", id=n)
        assert list(driver.board.sessions.by_connection[1].replies) == [7, 8, 9]

    def test_without_id_only_errors_come_back(self) -> None:
        driver = Driver()
        a, b = driver.connect(), driver.connect()
        assert a.send("offer", to=b.peer, sdp="x") == []
        (error,) = a.send("answer", to=b.peer, sdp="x")
        assert error["type"] == "error"
        assert "id" not in error

    def test_errors_say_whether_to_retry(self) -> None:
        driver = Driver(peers_per_room=1)
        driver.connect()
        b = driver.connect(None)
        (full,) = b.send("join", room="r", id=1)
        assert (full["code"], full["retryable"], full["id"]) == ("room_full", True, 1)

    def test_ping(self) -> None:
        a = Driver().connect()
        assert a.send("ping", t=1.5) == [{"type": "pong", "t": 1.5}]
        assert a.send("ping", id=1) == [{"type": "pong"}, {"type": "ok", "id": 1}]

    def test_bye(self) -> None:
        driver = Driver()
        a = driver.connect()
        assert a.send("bye", id=1) == [{"type": "ok", "id": 1}]
        assert a.closed is not None
        assert a.closed.code is CloseCode.NORMAL
        a.disconnect("left")
        assert driver.is_empty()

    def test_a_connection_that_was_never_let_in(self) -> None:
        driver = Driver()
        driver.feed(Closed(99, "left"))
        assert driver.is_empty()


class TestIceServers:
    def grant(self, driver: Driver, ttl: int | None = 100) -> GrantIce:
        """Answer the latest request as the broker does."""
        wanted = driver.grants.pop()
        grant = None if ttl is None else IceGrant(SERVERS, ttl, 2000)
        driver.feed(IceGranted(session=wanted.session, request=wanted.request, grant=grant))
        return wanted

    def test_what_the_broker_refuses_for_good_is_not_to_be_tried_again(self) -> None:
        driver = Driver()
        a = driver.connect()
        a.take()
        a.send("ice_servers", ttl=10**9, id=5)
        wanted = driver.grants.pop()
        no = Refusal(ErrorCode.BAD_REQUEST, "ttl must be 60 to 86400 seconds")
        driver.feed(IceGranted(session=wanted.session, request=5, grant=no))
        (error,) = a.take()
        assert (error["id"], error["code"], error["retryable"]) == (5, "bad_request", False)
        assert error["message"] == no.message

    def test_on_request(self) -> None:
        driver = Driver()
        a = driver.connect()
        a.take()
        a.send("ice_servers", ttl=100, region="eu", id=5)
        wanted = self.grant(driver)
        assert (wanted.account, wanted.identity, wanted.ttl) == ("AC1", "i1", 100)
        assert (wanted.region, wanted.request) == ("eu", 5)
        pushed, ok = a.take()
        assert pushed["ice_servers"] == SERVERS
        assert (pushed["ttl"], pushed["expires_at"], pushed["seq"]) == (100, 2000, 2)
        assert ok == {"type": "ok", "id": 5}

    def test_refreshed_at_four_fifths_of_their_life(self) -> None:
        driver = Driver()
        a = driver.connect(ice=IceGrant(SERVERS, 100, 1100))
        driver.pass_time(79.9)
        assert driver.grants == []
        driver.pass_time(0.2)
        self.grant(driver, ttl=50)
        assert len(a.take("ice_servers")) == 1
        driver.pass_time(39.9)
        assert driver.grants == []
        driver.pass_time(0.2)
        self.grant(driver)

    def test_a_refresh_that_failed_is_tried_again(self) -> None:
        driver = Driver()
        a = driver.connect(ice=IceGrant(SERVERS, 100, 1100))
        driver.pass_time(80)
        self.grant(driver, ttl=None)
        assert [m["code"] for m in a.take("error")] == ["unavailable"]
        driver.pass_time(ICE_RETRY_S)
        self.grant(driver)
        assert len(a.take("ice_servers")) == 1

    def test_a_request_that_failed_leaves_the_refresh_alone(self) -> None:
        driver = Driver()
        a = driver.connect(ice=IceGrant(SERVERS, 100, 1100))
        a.send("ice_servers", id=1)
        self.grant(driver, ttl=None)
        assert a.take("error")[0]["id"] == 1
        assert driver.board.sessions.agenda.next() == driver.now + 80

    def test_forbidden(self) -> None:
        driver = Driver()
        assert driver.connect(may_turn=False).code("ice_servers") == "forbidden"
        assert driver.grants == []

    def test_no_refresh_for_the_dead(self) -> None:
        driver = Driver()
        a = driver.connect(ice=IceGrant(SERVERS, 100, 1100))
        a.send("ice_servers")
        a.disconnect()
        self.grant(driver)
        driver.pass_time(1000)
        assert driver.grants == []
        assert driver.is_empty()


def test_draining_tells_everybody() -> None:
    driver = Driver()
    a, b = driver.connect(), driver.connect(None)
    driver.feed(Draining(reason="restart", spread_ms=100, deadline_ms=900, url="wss://b/v1/signal"))
    for client, seq, share in ((a, 2, 50), (b, 1, 100)):
        assert client.take("go_away") == [
            {
                "type": "go_away",
                "seq": seq,
                "reason": "restart",
                "reconnect_after_ms": share,
                "deadline_ms": 900,
                "url": "wss://b/v1/signal",
            }
        ]


def test_the_numbers_of_a_session_have_no_holes() -> None:
    driver = Driver()
    a, b = driver.connect(), driver.connect()
    for _ in range(5):
        b.send("message", to=a.peer, data=1)
        b.send("leave")
        b.send("join", room="r")
    numbered = [m["seq"] for m in a.take() if "seq" in m]
    assert numbered == list(range(1, len(numbered) + 1))


def test_the_next_deadline_is_the_earliest_of_all() -> None:
    driver = Driver()
    a = driver.connect(ice=IceGrant(SERVERS, 100, 1100))
    b = driver.connect()
    assert driver.board.sessions.agenda.next() == driver.now + 80
    a.send("candidate", to=b.peer, candidate={"candidate": "c", "sdpMid": "0"})
    assert driver.board.next_deadline() == driver.now + 45
    assert driver.board.tally.joins == 2
