"""Sessions that survive their connection, end in time, and are never two."""

from __future__ import annotations

import pytest
from msgspec import Raw
from switchboard_driver import Client, Driver

from signal_server.core import inputs
from signal_server.wire.codes import CloseCode
from signal_server.wire.messages import Leave

WINDOW_S = 60.0


@pytest.fixture
def driver() -> Driver:
    return Driver(resume_window_s=WINDOW_S, outbox_messages=5)


def pair(driver: Driver) -> tuple[Client, Client]:
    a, b = driver.connect(), driver.connect()
    a.take()
    b.take()
    return a, b


class TestResume:
    def test_what_was_missed_comes_with_its_numbers(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        for n in range(3):
            a.send("message", to=b.peer, data=n)
        back = driver.resume(b, 1)
        resumed, *missed = back.take()
        assert (resumed["type"], resumed["from_seq"], resumed["replayed"]) == ("resumed", 2, 3)
        assert [(m["seq"], m["data"]) for m in missed] == [(2, 0), (3, 1), (4, 2)]

    def test_the_room_as_it_is_now(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        a.send("leave")
        c = driver.connect()
        resumed = driver.resume(b, 1).take("resumed")[0]
        (room,) = resumed["rooms"]
        assert resumed["calls"] == []
        assert [peer["peer"] for peer in room["peers"]] == [c.peer]
        assert room["revision"] == driver.board.rooms["AC1", "r"].revision - 1

    def test_others_see_the_loss_and_the_return(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        assert [m["connected"] for m in a.take("peer_updated")] == [False]
        assert driver.connect().take("room")[0]["peers"][1]["connected"] is False
        driver.resume(b, 1)
        assert [m["connected"] for m in a.take("peer_updated")] == [True]

    def test_the_window_ends(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        driver.pass_time(WINDOW_S - 1)
        assert a.take("peer_left") == []
        driver.pass_time(1)
        assert [m["reason"] for m in a.take("peer_left")] == ["connection_lost"]
        assert driver.resume(b, 1).take()[0]["code"] == "resume_expired"

    def test_a_resumed_session_waits_no_more(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        driver.resume(b, 1)
        driver.pass_time(10 * WINDOW_S)
        assert a.take("peer_left") == []

    def test_a_clean_close_ends_it(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect("left")
        assert [m["reason"] for m in a.take("peer_left")] == ["left"]
        assert driver.resume(b, 1).take()[0]["code"] == "resume_expired"

    @pytest.mark.parametrize("secret", ["", "wrong", "secret2"])
    def test_the_secret_counts(self, driver: Driver, secret: str) -> None:
        _, b = pair(driver)
        b.disconnect()
        assert driver.resume(b, 1, secret=secret).take()[0]["code"] == "resume_expired"
        assert driver.resume(b, 1).take()[0]["type"] == "resumed"

    def test_a_secret_works_until_the_next_one_has_arrived(self, driver: Driver) -> None:
        """The answer to a resume may be lost as the connection before was."""
        _, b = pair(driver)
        driver.resume(b, 1, new_secret="never arrives").disconnect()
        again = driver.resume(b, 1, new_secret="second")
        assert again.take("resumed") != []
        again.send("ping")
        again.disconnect()
        assert driver.resume(b, 1).take()[0]["code"] == "resume_expired"
        assert driver.resume(b, 1, secret="second").take()[0]["type"] == "resumed"

    @pytest.mark.parametrize("is_noticed", [True, False])
    def test_a_resume_is_repeated_until_its_answer_arrives(
        self, driver: Driver, is_noticed: bool
    ) -> None:
        """Under one request id; the server may not have noticed that the answer was lost."""
        a, b = pair(driver)
        b.send("message", to=a.peer, data="before", id="m")
        for number in range(3):
            a.send("message", to=b.peer, data=number)
        b.disconnect()
        for attempt in range(3):
            back = driver.resume(b, 1, new_secret=f"lost {attempt}", request="resume")
            resumed, *missed, ok = back.take()
            assert (resumed["type"], ok) == ("resumed", {"type": "ok", "id": "resume"})
            assert [m["seq"] for m in missed if "data" in m] == [2, 3, 4]
            if is_noticed:
                back.disconnect()
        back = driver.resume(b, 1, new_secret="arrives", request="resume")
        back.take()
        assert back.send("message", to=a.peer, data="before", id="m") == [{"type": "ok", "id": "m"}]
        assert [m["data"] for m in a.take("message")] == ["before"]
        assert a.take("peer_left") == []
        assert driver.resume(b, 1, request="resume").take()[0]["code"] == "resume_expired"
        assert driver.resume(b, 1, secret="arrives").take()[0]["type"] == "resumed"

    def test_an_old_resume_that_comes_late_takes_nothing_away(self, driver: Driver) -> None:
        """It waited in a proxy while the client resumed elsewhere and had nothing to say."""
        a, b = pair(driver)
        b.disconnect()
        back = driver.resume(b, 1, new_secret="heard")
        late = driver.resume(b, 1, new_secret="never heard")
        assert back.closed is not None
        assert back.closed.code is CloseCode.GO_AWAY
        again = driver.resume(b, 1, secret="heard", new_secret="third")
        assert late.closed is not None
        again.send("ping")
        assert a.take("peer_left") == []
        for secret in ("secret", "heard", "never heard"):
            assert driver.resume(b, 1, secret=secret).take()[0]["code"] == "resume_expired"
        taken = driver.resume(b, 1, secret="third")
        assert again.closed is not None
        assert again.closed.code is CloseCode.SUPERSEDED
        assert taken.take("resumed") != []

    def test_only_so_many_secrets_stay_good(self, driver: Driver) -> None:
        _, b = pair(driver)
        for number in range(6):
            driver.resume(b, 1, new_secret=f"lost {number}")
        assert driver.resume(b, 1, secret="lost 1").take()[0]["code"] == "resume_expired"
        for secret in ("secret", "lost 5"):
            assert driver.resume(b, 1, secret=secret).take()[0]["type"] == "resumed"

    def test_another_identitys_token(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        b.permit = a.permit
        assert driver.resume(b, 1).take()[0]["code"] == "resume_expired"

    def test_the_former_connection_is_fenced(self, driver: Driver) -> None:
        a, b = pair(driver)
        back = driver.resume(b, 1)
        assert b.closed is not None
        assert b.closed.code is CloseCode.SUPERSEDED
        b.disconnect()
        assert a.take("peer_updated") == []
        b.is_open = True
        driver.feed(inputs.Received(b.connection, Leave()))
        assert b.take() == []
        a.send("message", to=b.peer, data=1)
        assert len(back.take("message")) == 1

    def test_a_gap_is_said_and_ends_the_session(self, driver: Driver) -> None:
        a, b = pair(driver)
        b.disconnect()
        for n in range(9):
            a.send("message", to=b.peer, data=n)
        assert driver.resume(b, 1).take()[0]["code"] == "resume_gap"
        assert len(a.take("peer_left")) == 1

    def test_requests_are_not_executed_twice(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("message", to=b.peer, data=1, id="m1")
        a.disconnect()
        back = driver.resume(a, 1)
        back.take()
        assert back.send("message", to=b.peer, data=1, id="m1") == [{"type": "ok", "id": "m1"}]
        assert len(b.take("message")) == 1

    def test_negotiations_go_on(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("offer", to=b.peer, sdp="v=0")
        b.disconnect()
        back = driver.resume(b, 2)
        assert back.code("answer", to=a.peer, sdp="v=0", negotiation=1) is None
        assert len(a.take("answer")) == 1


class TestAcknowledgement:
    def test_trims_the_log(self, driver: Driver) -> None:
        a, b = pair(driver)
        for n in range(4):
            a.send("message", to=b.peer, data=n)
        assert b.code("ack", seq=4) is None
        b.send("ping", ack=5)
        outbox = driver.board.sessions.by_id[b.session].outbox
        assert (outbox.trimmed, outbox.held_bytes) == (5, 0)

    def test_of_what_was_never_sent(self, driver: Driver) -> None:
        a, _ = pair(driver)
        assert a.code("ack", seq=99) == "bad_request"

    def test_reading_for_transports_without_push(self, driver: Driver) -> None:
        a, b = pair(driver)
        a.send("message", to=b.peer, data=1)
        found = driver.board.unread(b.connection, 1)
        assert found is not None
        assert len(found) == 1
        b.send("ack", seq=1)
        assert driver.board.unread(b.connection, 1) == found
        assert driver.board.unread(b.connection, 0) is None
        assert driver.board.unread(b.connection, 9) is None
        assert driver.board.unread(999, 0) is None


class TestTokens:
    def test_expiry_is_announced_and_closes_the_connection(self) -> None:
        driver = Driver(resume_window_s=WINDOW_S)
        a = driver.connect(token_life_s=200.0)
        driver.pass_time(139)
        assert a.take("token_expiring") == []
        driver.pass_time(1)
        assert [m["expires_in_s"] for m in a.take("token_expiring")] == [60]
        driver.pass_time(60)
        assert a.closed is not None
        assert a.closed.code is CloseCode.TOKEN_EXPIRED
        a.disconnect()
        assert driver.resume(a, 2).take()[0]["type"] == "resumed"

    def test_a_fresh_token_lengthens_it(self) -> None:
        driver = Driver(resume_window_s=WINDOW_S)
        a = driver.connect(token_life_s=200.0)
        driver.pass_time(150)
        refreshed = inputs.Refreshed(
            connection=a.connection, permit=a.permit, token_life_s=500, request=3
        )
        driver.feed(refreshed)
        assert a.take("ok")[-1] == {"type": "ok", "id": 3}
        driver.pass_time(400)
        assert a.closed is None

    def test_of_another_identity(self) -> None:
        driver = Driver()
        a, b = driver.connect(), driver.connect()
        driver.feed(
            inputs.Refreshed(connection=a.connection, permit=b.permit, token_life_s=9, request=3)
        )
        assert a.take("error")[0]["code"] == "forbidden"
        driver.feed(inputs.Refreshed(connection=99, permit=b.permit, token_life_s=9))


class TestOperators:
    def test_a_kick_with_a_ban_beats_a_valid_token(self, driver: Driver) -> None:
        a, b = pair(driver)
        driver.feed(inputs.Removed(account="AC1", room="r", peer=b.peer, ban_s=100))
        assert b.closed is not None
        assert b.closed.code is CloseCode.KICKED
        assert [m["reason"] for m in a.take("peer_left")] == ["kicked"]
        again = driver.connect(identity=b.identity)
        assert again.take("error")[0]["code"] == "forbidden"
        driver.pass_time(100)
        assert again.code("join", room="r") is None

    def test_a_room_is_closed(self, driver: Driver) -> None:
        a, b = pair(driver)
        driver.feed(inputs.Removed(account="AC1", room="r"))
        closed = [client.closed.code for client in (a, b) if client.closed]
        assert closed == [CloseCode.ROOM_CLOSED] * 2
        assert driver.board.rooms == {}
        driver.feed(inputs.Removed(account="AC1", room="r"))

    def test_a_word_to_a_room(self, driver: Driver) -> None:
        a, b = pair(driver)
        driver.feed(inputs.Said(account="AC1", room="r", data=Raw(b'"hello"')))
        driver.feed(inputs.Said(account="AC1", room="none", data=Raw(b"1")))
        for client in (a, b):
            assert [(m["from"], m["data"]) for m in client.take("message")] == [("server", "hello")]

    def test_what_is_announced(self, driver: Driver) -> None:
        _, b = pair(driver)
        b.disconnect("left")
        kinds = [fact.kind for fact in driver.facts]
        assert kinds == ["room.created", "peer.joined", "peer.joined", "peer.left"]


def test_a_session_that_lost_its_connection_leaves_nothing_behind(driver: Driver) -> None:
    a, b = pair(driver)
    a.send("offer", to=b.peer, sdp="v=0")
    a.disconnect()
    b.disconnect()
    driver.pass_time(WINDOW_S)
    assert driver.is_empty()
    assert driver.board.rates.tracked()["session"] == 0
