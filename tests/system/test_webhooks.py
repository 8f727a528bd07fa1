"""Webhooks against a real HTTP server that fails, is slow, redirects, goes away and comes back."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from webhook_receiver import DEADLINE_S, SECRET, Answer, Arrived, Receiver, status

from signal_server.backplane.facts import Facts
from signal_server.core.effects import Announce
from signal_server.edge.webhook_post import WebhookPost
from signal_server.edge.webhook_queue import Outcome, WebhookEndpoint, WebhookSettings, flaw_of
from signal_server.edge.webhooks import Webhooks

NEW_SECRET = "whsec_" + base64.b64encode(b"n" * 32).decode()
ACCOUNT = "AC" + "0" * 32


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()
    gc.collect()


@asynccontextmanager
async def sending(
    *endpoints: WebhookEndpoint, grace_s: float = 0.0, **changes: Any
) -> AsyncIterator[Webhooks]:
    settings = WebhookSettings(
        endpoints=list(endpoints),
        **{"timeout_s": DEADLINE_S, "retry_first_s": 0.02, "retry_longest_s": 0.1, **changes},
    )
    post = WebhookPost(settings.endpoints, timeout_s=settings.timeout_s)
    webhooks = Webhooks(settings, post)
    try:
        yield webhooks
    finally:
        await webhooks.close(grace_s)
        await post.aclose()


def to(receiver: Receiver, **changes: Any) -> WebhookEndpoint:
    return WebhookEndpoint(**{"url": receiver.url, "secrets": [SECRET], **changes})


_facts: WeakKeyDictionary[Webhooks, Facts] = WeakKeyDictionary()


def publish(webhooks: Webhooks, room: str, kind: str = "peer.joined", **data: Any) -> None:
    facts = _facts.setdefault(webhooks, Facts(16))
    announced = Announce(kind=kind, account=ACCOUNT, room=room, data=data)
    webhooks.publish(facts.place(announced, int(time.time() * 1000)))


async def settled(webhooks: Webhooks) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await webhooks.delivered()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_an_event_arrives_signed_and_numbered(receiver: Receiver) -> None:
    async with sending(to(receiver)) as webhooks:
        publish(webhooks, "blue", peer="p1", text="grüße")
        publish(webhooks, "blue")
        publish(webhooks, "red")
        publish(webhooks, "call", "push.requested")
        await settled(webhooks)
    first = next(each for each in receiver.arrived if each.event["data"])
    assert first.path == "/hooks?key=1"
    assert first.headers["webhook-id"].startswith("msg_")
    assert first.headers["content-type"] == "application/json"
    event = first.event
    assert datetime.now(UTC) - datetime.fromisoformat(event.pop("timestamp")) < timedelta(minutes=1)
    assert event == {
        "type": "peer.joined",
        "account": ACCOUNT,
        "room": "blue",
        "sequence": 1,
        "data": {"peer": "p1", "text": "grüße"},
    }
    assert {each.place for each in receiver.arrived} == {
        ("blue", 1),
        ("blue", 2),
        ("red", 1),
        ("call", 1),
    }
    assert len({each.headers["webhook-id"] for each in receiver.arrived}) == 4
    first.body = first.body.replace(b"p1", b"p2")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(first.body, first.headers)


async def test_two_secrets_sign_twice(receiver: Receiver) -> None:
    async with sending(to(receiver, secrets=[NEW_SECRET, SECRET])) as webhooks:
        publish(webhooks, "blue")
        await settled(webhooks)
    (arrived,) = receiver.arrived
    assert len(arrived.headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, NEW_SECRET):
        assert Webhook(secret).verify(arrived.body, arrived.headers)["room"] == "blue"


@pytest.mark.parametrize("code", [301, 307, 400, 404, 500, 503])
async def test_what_is_not_2xx_is_tried_again_under_the_same_id(
    receiver: Receiver, code: int
) -> None:
    receiver.script = [status(code, f"location: {receiver.url}&elsewhere=1")] * 3
    async with sending(to(receiver)) as webhooks:
        publish(webhooks, "blue")
        await settled(webhooks)
        assert webhooks.destinations[0].failed == {f"status_{code // 100}xx": 3}
        assert webhooks.destinations[0].delivered == 1
    assert len(receiver.arrived) == 4
    assert len({each.headers["webhook-id"] for each in receiver.arrived}) == 1
    assert {each.path for each in receiver.arrived} == {"/hooks?key=1"}


async def test_a_room_waits_for_its_own_events_and_for_no_others(receiver: Receiver) -> None:
    stuck = {"blue"}
    receiver.choose = lambda request: status(500) if request.place[0] in stuck else None
    async with sending(to(receiver), concurrency=2, attempts=100) as webhooks:
        for n in range(20):
            publish(webhooks, "blue", n=n)
            publish(webhooks, f"other{n % 5}", n=n)
        await until(lambda: webhooks.destinations[0].delivered == 20)
        assert {each.place for each in receiver.arrived if each.place[0] == "blue"} == {("blue", 1)}
        stuck.clear()
        await settled(webhooks)
    by_room: defaultdict[str | None, list[int]] = defaultdict(list)
    for each in receiver.arrived:
        room, sequence = each.place
        if not by_room[room] or by_room[room][-1] != sequence:
            by_room[room].append(sequence)
    assert by_room["blue"] == list(range(1, 21))
    assert all(by_room[f"other{n}"] == [1, 2, 3, 4] for n in range(5))


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_holds_the_whole_endpoint_back(receiver: Receiver, form: str) -> None:
    async def later(request: Arrived, writer: asyncio.StreamWriter) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=2)
        value = "1" if form == "seconds" else format_datetime(soon, usegmt=True)
        await status(429, f"retry-after: {value}")(request, writer)

    receiver.script = [later]
    async with sending(to(receiver)) as webhooks:
        publish(webhooks, "blue")
        await until(lambda: bool(receiver.arrived))
        await until(lambda: webhooks.destinations[0].failed.total() == 1)
        publish(webhooks, "red")
        await settled(webhooks)
    first, *rest = receiver.arrived
    assert len(rest) == 2
    assert min(each.at for each in rest) - first.at >= (0.9 if form == "seconds" else 0.5)


@pytest.mark.parametrize("value", ["soon", "-1", "0", "9" * 30, "Sun, 06 Nov 1994 08:49:37 GMT"])
async def test_a_useless_retry_after_is_a_plain_failure(receiver: Receiver, value: str) -> None:
    receiver.script = [status(503, f"retry-after: {value}")]
    async with sending(to(receiver), retry_after_longest_s=0.05) as webhooks:
        publish(webhooks, "blue")
        await settled(webhooks)
        assert webhooks.destinations[0].delivered == 1


async def test_several_retry_afters_wait_for_the_latest(receiver: Receiver) -> None:
    receiver.choose = lambda request: (
        status(429, f"retry-after: {1 if request.place[0] == 'long' else 0}")
        if len(receiver.arrived) < 3
        else None
    )
    async with sending(to(receiver)) as webhooks:
        for room in ("long", "short1", "short2"):
            publish(webhooks, room)
        await settled(webhooks)
    early, late = receiver.arrived[:3], receiver.arrived[3:]
    held_from = next(each.at for each in early if each.place[0] == "long")
    assert len(late) == 3
    assert all(each.at - held_from >= 0.9 for each in late)


async def test_410_ends_the_endpoint_until_a_replay(receiver: Receiver) -> None:
    async def hangs(_: Arrived, __: asyncio.StreamWriter) -> None:
        await until(lambda: len(receiver.arrived) >= 3)

    receiver.choose = lambda request: (
        None if len(receiver.arrived) > 1 else (status(410) if receiver.arrived else hangs)
    )
    async with sending(to(receiver)) as webhooks:
        publish(webhooks, "slow")
        await until(lambda: len(receiver.arrived) == 1)
        publish(webhooks, "blue")
        publish(webhooks, "blue")
        await until(lambda: len(webhooks.dead) == 3)
        publish(webhooks, "red")
        assert [letter["room"] for letter in webhooks.dead] == ["slow", "blue", "blue", "red"]
        assert webhooks.pending == 0
        assert webhooks.replay() == 4
        await settled(webhooks)
        assert webhooks.dead == []
    assert [each.place for each in receiver.arrived if each.place[0] == "blue"][-2:] == [
        ("blue", 1),
        ("blue", 2),
    ]
    assert webhooks.destinations[0].delivered == 4


async def hang(_: Arrived, writer: asyncio.StreamWriter) -> None:
    await writer.wait_closed()


async def drip(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"x-drip: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def cut(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def babble(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-not-http\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(hang, "timeout"), (drip, "timeout"), (cut, "unreachable"), (babble, "unreachable")],
)
async def test_silence_and_noise_are_failures(
    receiver: Receiver, answer: Answer, reason: str
) -> None:
    receiver.script = [answer]
    async with sending(to(receiver), timeout_s=3.0) as webhooks:
        publish(webhooks, "blue")
        await settled(webhooks)
        assert webhooks.destinations[0].failed == {reason: 1}
        assert webhooks.destinations[0].delivered == 1


async def test_an_endless_or_unfinished_body_does_not_matter(receiver: Receiver) -> None:
    async def endless(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    async def unfinished(_: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx")
        await writer.wait_closed()

    receiver.script = [endless, unfinished]
    async with sending(to(receiver), timeout_s=3.0) as webhooks:
        for _n in range(3):
            publish(webhooks, "blue")
        await settled(webhooks)
        assert webhooks.destinations[0].delivered == 3
        assert not webhooks.destinations[0].failed
    assert [each.place[1] for each in receiver.arrived] == [1, 2, 3]
    assert not any("cookie" in each.headers for each in receiver.arrived)


async def test_a_server_that_was_away_gets_everything_in_order(receiver: Receiver) -> None:
    await receiver.stop()
    async with sending(to(receiver), attempts=100) as webhooks:
        for n in range(30):
            publish(webhooks, f"room{n % 3}")
        await until(lambda: webhooks.destinations[0].failed["unreachable"] >= 6)
        await receiver.start()
        await settled(webhooks)
        assert webhooks.dead == []
    for room in ("room0", "room1", "room2"):
        sequences = [each.place[1] for each in receiver.arrived if each.place[0] == room]
        assert sequences == list(range(1, 11))


async def test_connections_are_used_again(receiver: Receiver) -> None:
    async with sending(to(receiver), concurrency=2) as webhooks:
        for n in range(50):
            publish(webhooks, f"room{n % 4}")
        await settled(webhooks)
    assert len(receiver.arrived) == 50
    assert receiver.connections <= 3


async def test_given_up_letters_can_be_replayed_before_later_ones(receiver: Receiver) -> None:
    fails = True
    receiver.choose = lambda _: status(500) if fails else None
    async with sending(to(receiver), attempts=2) as webhooks:
        for _n in range(4):
            publish(webhooks, "blue")
        await settled(webhooks)
        assert [letter["sequence"] for letter in webhooks.dead] == [1, 2, 3, 4]
        assert webhooks.dead[0]["attempts"] == 2
        assert webhooks.dead[0]["reason"] == "status_5xx"
        assert webhooks.given_up == {"status_5xx": 4}
        second = webhooks.dead[1]["id"]
        fails = False
        receiver.arrived.clear()
        publish(webhooks, "blue")
        publish(webhooks, "blue")
        assert webhooks.replay(second) == 2
        await settled(webhooks)
        assert [each.place[1] for each in receiver.arrived] == [5, 3, 4, 6]
        assert webhooks.replay("msg_unheard_of") == 2
        await settled(webhooks)
        assert [each.place[1] for each in receiver.arrived][-2:] == [1, 2]
        assert webhooks.dead == []


async def test_an_old_letter_gets_one_attempt(receiver: Receiver) -> None:
    receiver.choose = lambda _: status(500)
    async with sending(to(receiver), give_up_s=0.5, attempts=100) as webhooks:
        for _n in range(50):
            publish(webhooks, "blue")
        await settled(webhooks)
        attempts = [letter["attempts"] for letter in webhooks.dead]
    assert len(attempts) == 50
    assert attempts[0] > 1
    assert attempts[-1] == 1


async def test_queue_and_dead_letters_are_bounded(receiver: Receiver) -> None:
    receiver.choose = lambda _: hang
    size: dict[str, Any] = {"queue_events": 10, "dead_events": 5}
    async with sending(to(receiver), **size) as webhooks:
        for n in range(100):
            publish(webhooks, f"room{n}")
        assert webhooks.pending == 10
        assert [letter["room"] for letter in webhooks.dead] == [f"room{n}" for n in range(95, 100)]
        assert webhooks.given_up == {"queue_full": 90}
    assert webhooks.pending == 0
    async with sending(to(receiver), queue_bytes=1024, dead_bytes=1024) as webhooks:
        for _n in range(100):
            publish(webhooks, "blue", text="x" * 200)
        assert 1 <= webhooks.pending <= 5
        assert 1 <= len(webhooks.dead) <= 5
        assert webhooks.destinations[0].pending_bytes <= 1024


async def test_each_endpoint_gets_what_it_asked_for_and_fails_alone(receiver: Receiver) -> None:
    other = Receiver(choose=lambda _: hang)
    await other.start()
    joined = to(receiver, events=["peer.joined", "room.closed"])
    async with sending(joined, to(other)) as webhooks:
        publish(webhooks, "blue", "room.created")
        publish(webhooks, "blue", "peer.joined")
        publish(webhooks, "blue", "room.closed")
        publish(webhooks, "blue", "room.created")
        publish(webhooks, "blue", "peer.joined")
        await until(lambda: len(other.arrived) == 1)
        # What has arrived is counted until its answer is read.
        await until(lambda: len(receiver.arrived) == 3 and webhooks.pending == 5)
    await other.stop()
    assert [each.place[1] for each in receiver.arrived] == [2, 3, 2]


async def test_sequences_of_many_rooms_are_bounded(receiver: Receiver) -> None:
    async with sending(to(receiver), grace_s=DEADLINE_S) as webhooks:
        for n in range(20):
            publish(webhooks, f"room{n}")
        publish(webhooks, "room19")
        publish(webhooks, "room0")
    places = [each.place for each in receiver.arrived]
    assert ("room19", 2) in places
    assert places.count(("room0", 1)) == 2


async def test_closing_delivers_for_the_grace_time_and_says_what_is_lost(
    receiver: Receiver,
) -> None:
    settings = WebhookSettings(endpoints=[to(receiver)])
    post = WebhookPost(settings.endpoints, timeout_s=30)
    webhooks = Webhooks(settings, post)
    for n in range(20):
        publish(webhooks, f"room{n}")
    assert await webhooks.close(DEADLINE_S) == 0
    assert len(receiver.arrived) == 20
    publish(webhooks, "late")
    assert webhooks.pending == 0
    receiver.choose = lambda _: hang
    webhooks = Webhooks(settings, post)
    publish(webhooks, "blue")
    publish(webhooks, "blue")
    await until(lambda: len(receiver.arrived) == 21)
    assert await webhooks.close(0.05) == 2
    await post.aclose()


@pytest.mark.parametrize("answer", [status(500), status(503, "retry-after: 9")])
async def test_closing_does_not_wait_for_what_waits(receiver: Receiver, answer: Answer) -> None:
    receiver.choose = lambda _: answer
    settings = WebhookSettings(endpoints=[to(receiver)], retry_first_s=30)
    post = WebhookPost(settings.endpoints, timeout_s=30)
    webhooks = Webhooks(settings, post)
    publish(webhooks, "blue")
    publish(webhooks, "red")
    await until(lambda: webhooks.destinations[0].failed.total() == 2)
    assert await webhooks.close(0.0) == 2
    await post.aclose()


async def test_the_longest_retry_after_wins_over_a_later_shorter_one(receiver: Receiver) -> None:
    release = asyncio.Event()

    async def late(request: Arrived, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await status(429, "retry-after: 0")(request, writer)

    receiver.choose = lambda request: (
        (late if request.place[0] == "late" else status(429, "retry-after: 1"))
        if len(receiver.arrived) < 2
        else None
    )
    async with sending(to(receiver)) as webhooks:
        publish(webhooks, "late")
        publish(webhooks, "blue")
        await until(lambda: webhooks.destinations[0].failed.total() == 1)
        held_from = next(each.at for each in receiver.arrived if each.place[0] == "blue")
        release.set()
        await settled(webhooks)
    assert len(receiver.arrived) == 4
    assert all(each.at - held_from >= 0.9 for each in receiver.arrived[2:])


@pytest.mark.parametrize("seed", range(3))
async def test_order_within_each_room_survives_a_bad_server(receiver: Receiver, seed: int) -> None:
    dice = random.Random(seed)
    delivered: defaultdict[str | None, list[int]] = defaultdict(list)

    async def accept(request: Arrived, writer: asyncio.StreamWriter) -> None:
        delivered[request.place[0]].append(request.place[1])
        await status(200)(request, writer)

    bad = [status(500), status(302), status(429, "retry-after: 0"), cut, babble]
    receiver.choose = lambda _: dice.choice(bad) if dice.random() < 0.3 else accept
    async with sending(to(receiver), attempts=100, retry_longest_s=0.02) as webhooks:
        for n in range(300):
            publish(webhooks, f"room{n % 15}")
        await settled(webhooks)
        assert webhooks.dead == []
        assert webhooks.destinations[0].delivered == 300
    assert delivered == {f"room{n}": list(range(1, 21)) for n in range(15)}


async def test_a_stopped_attempt_that_ends_later_changes_nothing() -> None:
    started, stubborn, replayed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    attempts: list[asyncio.Task[Any] | None] = []

    async def post(_: WebhookEndpoint, __: str, ___: bytes) -> Outcome:
        attempts.append(asyncio.current_task())
        if len(attempts) == 1:
            started.set()
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                await stubborn.wait()
        elif len(attempts) == 2:
            return Outcome(status=410, reason="status_4xx")
        else:
            await replayed.wait()
        return Outcome(status=200, reason="status_2xx")

    endpoint = WebhookEndpoint(url="http://127.0.0.1/", secrets=[SECRET])
    webhooks = Webhooks(WebhookSettings(endpoints=[endpoint]), post)
    publish(webhooks, "blue")
    await started.wait()
    publish(webhooks, "red")
    await until(lambda: len(webhooks.dead) == 2)
    assert webhooks.replay() == 2
    await until(lambda: len(attempts) == 4)
    stubborn.set()
    assert attempts[0] is not None
    await attempts[0]
    await asyncio.sleep(0)
    assert (webhooks.pending, webhooks.destinations[0].delivered) == (2, 0)
    replayed.set()
    await settled(webhooks)
    assert await webhooks.close(0.0) == 0
    assert webhooks.destinations[0].delivered == 2


async def test_a_broken_post_is_a_failed_attempt(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    async def post(_: WebhookEndpoint, __: str, ___: bytes) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return Outcome(status=200, reason="status_2xx")

    endpoint = WebhookEndpoint(url="http://127.0.0.1/", secrets=[SECRET])
    webhooks = Webhooks(WebhookSettings(endpoints=[endpoint], retry_first_s=0.01), post)
    publish(webhooks, "blue")
    await settled(webhooks)
    assert webhooks.destinations[0].failed == {"internal": 1}
    assert webhooks.destinations[0].delivered == 1
    assert "a bug" in caplog.text


async def test_nothing_secret_is_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.script = [status(500), status(410)]
    with caplog.at_level(logging.INFO):
        async with sending(to(receiver)) as webhooks:
            publish(webhooks, "blue-room", "peer.joined", identity="alice")
            await until(lambda: bool(webhooks.dead))
    assert "410" in caplog.text
    for secret in ("/hooks", "key=1", "whsec", SECRET[6:], "blue-room", "alice"):
        assert secret not in caplog.text
    assert SECRET not in repr(to(receiver))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, None),
        ({"secrets": [base64.b64encode(b"k" * 24).decode().rstrip("=")]}, None),
        ({"url": "ftp://example.org/"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://[::1"}, "url"),
        ({"url": "https://example.org:99999/"}, "url"),
        ({"url": "https://user:word@example.org/"}, "url"),
        ({"secrets": ["whsec_c2hvcnQ="]}, "secrets"),
        ({"secrets": [SECRET, "whsec_not base64 at all, but long enough"]}, "secrets"),
        ({"secrets": ["whsec_ü"]}, "secrets"),
    ],
)
def test_flaws_of_an_endpoint(changes: dict[str, Any], key: str | None) -> None:
    endpoint = WebhookEndpoint(**{"url": "https://example.org/", "secrets": [SECRET], **changes})
    flaw = flaw_of(endpoint)
    assert (flaw is None) if key is None else (flaw is not None and flaw.startswith(f"{key}: "))


def test_an_endpoint_needs_a_secret() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps({"url": "https://x/", "secrets": []}), type=WebhookEndpoint)
