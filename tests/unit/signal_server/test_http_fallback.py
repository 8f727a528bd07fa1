"""The HTTP fallback call by call: what a waiting request does when something happens meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from signal_server.core.outbox import Outbox
from signal_server.edge import event_stream, fallback
from signal_server.edge.fallback import Fallback
from signal_server.edge.http_connection import REPLIES, HttpConnection, Reader
from signal_server.wire.codes import CloseCode
from signal_server.wire.limits import Limits

Json = dict[str, Any]
SECRET = "s3cret"
LIMITS = Limits(ping_interval_s=0.05, ping_timeout_s=0.05)
PATIENT = Limits(ping_interval_s=5.0, ping_timeout_s=5.0)
DEADLINE_S = 20.0


class Endpoint:
    """A dispatcher of one session per connection; `ping` is answered, `fail` raises."""

    def __init__(self) -> None:
        self.connections: dict[int, HttpConnection] = {}
        self.logs: dict[int, Outbox] = {}
        self.heard: list[str] = []
        self.closed_with: list[tuple[int, int]] = []
        self.acknowledged = 0
        self.is_slow = False
        """With the answer to a hello."""
        self.refusal: Json | None = None
        """The answer to a hello."""

    def opened(self, connection: HttpConnection) -> None:
        assert connection.id < 0
        self.connections[connection.id] = connection

    def received(self, connection: HttpConnection, text: str) -> None:
        kind = json.loads(text)["type"]
        if kind == "ack":
            seq = json.loads(text)["seq"]
            if self.refusal is not None:
                self.say(connection, self.refusal)
            elif self.logs[connection.id].ack(seq):
                self.acknowledged = seq
            else:
                self.say(connection, {"type": "error", "code": "bad_request"})
            return
        self.heard.append(text)
        if self.is_slow:
            return
        if self.refusal is not None:
            self.say(connection, self.refusal)
        elif kind == "hello":
            self.logs[connection.id] = Outbox(100, 10_000)
            session = json.loads(text).get("session", "s1")
            resume = {"secret": SECRET, "window_s": 60}
            self.say(connection, {"type": "welcome", "session": session, "resume": resume})
        elif kind == "ping":
            self.say(connection, {"type": "pong"})
        elif kind == "bye":
            connection.close(CloseCode.NORMAL, "bye")
        elif kind == "fail":
            raise RuntimeError("a bug")

    async def settled(self, connection: HttpConnection) -> None:
        """At once."""

    def closed(self, connection: HttpConnection, code: int) -> None:
        self.closed_with.append((connection.id, code))
        self.connections.pop(connection.id)
        self.logs.pop(connection.id, None)

    def unread(self, connection: int, after: int) -> list[bytes] | None:
        log = self.logs.get(connection)
        return None if log is None else log.since(after)

    def say(self, connection: HttpConnection, message: Json) -> None:
        connection.send(json.dumps(message).encode())

    def number(self, payload: str = "", connection: int = -1) -> None:
        log = self.logs[connection]
        text = (payload or f'{{"seq":{log.seq + 1}}}').encode()
        log.append(text)
        self.connections[connection].send(text, log.seq)


class Call:
    """One HTTP request to the application, and what it has answered so far."""

    def __init__(self, app: Starlette, method: str, path: str, body: bytes, secret: str) -> None:
        path, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {secret}".encode())] if secret else []
        headers.append((b"content-length", str(len(body)).encode()))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("192.0.2.7", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        self._incoming: asyncio.Queue[Json] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        await self.may_write.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")

    def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def done(self) -> Any:
        """The JSON of the answer."""
        async with asyncio.timeout(DEADLINE_S):
            await self.task
        return json.loads(self.body) if self.body else None

    async def shows(self, text: bytes) -> None:
        await until(lambda: text in self.body)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(10):
        await asyncio.sleep(0)


class World:
    """The application, its endpoint and one session."""

    def __init__(self, limits: Limits, max_sessions: int = 10) -> None:
        self.endpoint = Endpoint()
        self.fallback = Fallback(self.endpoint, limits, max_sessions)
        self.app = Starlette(routes=list(self.fallback.routes()))

    def call(self, method: str, path: str, body: Any = None, secret: str = SECRET) -> Call:
        content = b"" if body is None else json.dumps(body).encode()
        return Call(self.app, method, "/v1/sessions" + path, content, secret)

    async def hello(self, session: str = "s1") -> Call:
        call = self.call("POST", "", {"type": "hello", "session": session}, "token")
        await call.done()
        return call

    async def poll(self, after: int = 0, wait: float = 20) -> Call:
        call = self.call("GET", f"/s1/messages?after={after}&wait={wait}")
        await settle()
        return call

    async def stream(self, after: int = 0) -> Call:
        call = self.call("GET", f"/s1/events?after={after}")
        await call.shows(b"retry: 1000\n\n")
        return call

    async def over(self) -> None:
        """Nothing is left behind."""
        self.fallback.close_all(CloseCode.GO_AWAY)
        async with asyncio.timeout(DEADLINE_S):
            await self.fallback.wait_empty()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not self.endpoint.connections
        assert self.fallback.sessions == 0
        ids = [number for number, _ in self.endpoint.closed_with]
        assert len(ids) == len(set(ids)), "closed exactly once"


@pytest.fixture
async def world() -> World:
    made = World(PATIENT)
    welcome = await made.hello()
    assert welcome.status == 201
    assert made.endpoint.connections[-1].remote == "192.0.2.7"
    assert made.endpoint.connections[-1].token == "token"
    return made


async def test_a_poll_returns_what_comes_while_it_waits(world: World) -> None:
    call = await world.poll()
    assert not call.task.done()
    world.endpoint.number()
    world.endpoint.number()
    assert await call.done() == {"messages": [{"seq": 1}, {"seq": 2}], "next": 2}
    assert world.endpoint.acknowledged == 0
    again = await world.poll(0)
    assert (await again.done())["next"] == 2, "a lost answer can be asked for again"
    await (await world.poll(2, wait=0)).done()
    assert world.endpoint.acknowledged == 2
    gone = await world.poll(1)
    assert (await gone.done())["code"] == "resume_gap"
    await world.over()


@pytest.mark.parametrize("kind", ["poll", "stream"])
async def test_a_get_too_many_is_refused_and_takes_nothing(world: World, kind: str) -> None:
    connection = world.endpoint.connections[-1]
    world.endpoint.say(connection, {"n": 1})
    world.endpoint.refusal = {"type": "error", "code": "rate_limited", "retry_after_ms": 1500}
    path = "/s1/events" if kind == "stream" else "/s1/messages"
    refused = world.call("GET", path)
    assert (await refused.done())["code"] == "rate_limited"
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    world.endpoint.refusal = None
    assert (await (await world.poll()).done())["messages"] == [{"n": 1}]
    await world.over()


async def test_a_poll_gives_up_when_its_time_is(world: World) -> None:
    call = await world.poll(wait=0.01)
    assert await call.done() == {"messages": [], "next": 0}
    await world.over()


async def test_results_go_to_their_post_and_not_to_a_poll(world: World) -> None:
    call = await world.poll()
    post = world.call("POST", "/s1/messages", [{"type": "ping"}] * 3)
    assert await post.done() == {"results": [{"type": "pong"}] * 3}
    await settle()
    assert not call.task.done()
    world.endpoint.say(world.endpoint.connections[-1], {"type": "error"})
    assert await call.done() == {"messages": [{"type": "error"}], "next": 0}
    await world.over()


async def test_un_numbered_messages_that_nobody_takes_are_bounded(world: World) -> None:
    connection = world.endpoint.connections[-1]
    for n in range(REPLIES + 5):
        world.endpoint.say(connection, {"n": n})
    answer = await (await world.poll()).done()
    assert [message["n"] for message in answer["messages"]] == list(range(5, REPLIES + 5))
    await world.over()


@pytest.mark.parametrize("kind", ["poll", "stream"])
async def test_the_second_get_is_the_one_that_reads(world: World, kind: str) -> None:
    first = await getattr(world, kind)()
    second = await getattr(world, kind)()
    await asyncio.wait_for(first.task, DEADLINE_S)
    world.endpoint.number()
    if kind == "poll":
        assert json.loads(first.body) == {"messages": [], "next": 0}
        assert (await second.done())["next"] == 1
    else:
        assert first.body == b"retry: 1000\n\n"
        await second.shows(b'id: 1\ndata: {"seq":1}\n\n')
    await world.over()


async def test_news_and_a_second_get_at_once_go_to_the_second(world: World) -> None:
    first = await world.poll()
    world.endpoint.number()
    second = await world.poll()
    assert (await first.done())["messages"] == []
    assert (await second.done())["next"] == 1
    await world.over()


@pytest.mark.parametrize("kind", ["poll", "stream"])
async def test_a_client_that_leaves_frees_its_request(world: World, kind: str) -> None:
    call = await getattr(world, kind)()
    call.disconnect()
    await asyncio.wait_for(call.task, DEADLINE_S)
    assert world.endpoint.connections[-1].reader is None
    assert world.endpoint.closed_with == [], "it may come back"
    await world.over()


async def test_a_stream_acknowledges_nothing_by_itself(world: World) -> None:
    call = await world.stream()
    for _ in range(3):
        world.endpoint.number()
        await settle()
    await call.shows(b"id: 3\n")
    assert call.body.count(b"data:") == 3
    assert world.endpoint.unread(-1, 0) == [b'{"seq":1}', b'{"seq":2}', b'{"seq":3}']
    again = await world.stream(after=1)
    await again.shows(b"id: 3\n")
    assert b"id: 1\n" not in again.body
    assert world.endpoint.acknowledged == 1
    assert again.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert again.headers["cache-control"] == "no-store"
    assert "content-length" not in again.headers
    await world.over()


async def test_a_stream_whose_client_reads_slowly_skips_nothing(world: World) -> None:
    call = await world.stream()
    call.may_write.clear()
    world.endpoint.number()
    await settle()
    world.endpoint.number()
    await settle()
    world.endpoint.number()
    call.may_write.set()
    await call.shows(b"id: 3\n")
    assert call.body == b"retry: 1000\n\n" + b"".join(
        b'id: %d\ndata: {"seq":%d}\n\n' % (n, n) for n in (1, 2, 3)
    )
    await world.over()


async def test_a_stream_that_was_outrun_says_so(world: World) -> None:
    call = await world.stream()
    call.may_write.clear()
    for _ in range(102):
        world.endpoint.number()
        await settle()
    call.may_write.set()
    await asyncio.wait_for(call.task, DEADLINE_S)
    assert b"event: close\n" in call.body
    assert json.loads(call.body.split(b"data: ")[-1])["code"] == "resume_gap"
    await world.over()


async def test_line_ends_inside_relayed_json_do_not_end_an_event(world: World) -> None:
    call = await world.stream()
    world.endpoint.number('{"seq":1,\r\n"data":{\n\n"a":\r1}}')
    await call.shows(b"id: 1")
    event = call.body.removeprefix(b"retry: 1000\n\n")
    assert event.endswith(b"\n\n")
    lines = event.rstrip(b"\n").split(b"\n")
    assert len(lines) == 2
    assert b"\r" not in event
    assert json.loads(lines[1].removeprefix(b"data: "))["data"] == {"a": 1}
    await world.over()


async def test_an_idle_stream_comments_and_a_long_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LIFE_S", 0.3)
    world = World(LIMITS)
    await world.hello()
    call = await world.stream()
    await call.shows(b"\n\n:\n\n:\n\n")
    await asyncio.wait_for(call.task, DEADLINE_S)
    assert world.endpoint.closed_with == [], "it was there all the time"
    await world.over()


@pytest.mark.parametrize("kind", ["poll", "stream"])
@pytest.mark.parametrize(
    ("close_code", "status", "code"),
    [
        (CloseCode.SUPERSEDED, 401, "superseded"),
        (CloseCode.TOKEN_EXPIRED, 401, "token_expired"),
        (CloseCode.KICKED, 403, "forbidden"),
        (CloseCode.GO_AWAY, 404, "not_found"),
    ],
)
async def test_a_closed_connection_is_told_at_once_and_later(
    world: World, kind: str, close_code: CloseCode, status: int, code: str
) -> None:
    call = await getattr(world, kind)()
    world.endpoint.connections[-1].close(close_code, "")
    world.endpoint.connections[-1].close(CloseCode.GO_AWAY, "")
    await asyncio.wait_for(call.task, DEADLINE_S)
    if kind == "poll":
        assert (call.status, json.loads(call.body)["code"]) == (status, code)
    else:
        assert call.body.startswith(b"retry: 1000\n\nevent: close\ndata: ")
        assert json.loads(call.body.split(b"data: ")[-1])["code"] == code
    assert world.endpoint.closed_with == [(-1, close_code)]
    later = await world.poll()
    assert (await later.done())["code"] == code
    assert later.status == status
    other = world.call("GET", "/s1/messages", secret="wrong")
    assert (await other.done())["code"] == "not_found"
    await world.over()


async def test_what_follows_a_bye_is_not_executed(world: World) -> None:
    texts = [{"type": "ping"}, {"type": "bye"}, {"type": "ping"}]
    post = world.call("POST", "/s1/messages", texts)
    assert await post.done() == {"results": [{"type": "pong"}]}
    await settle()
    assert world.endpoint.closed_with == [(-1, CloseCode.NORMAL)]
    await world.over()


async def test_delete_closes_once(world: World) -> None:
    waiting = await world.poll()
    call = world.call("DELETE", "/s1")
    await call.done()
    assert call.status == 204
    assert world.endpoint.heard[-1] == '{"type":"bye"}'
    assert (await waiting.done())["code"] == "not_found"
    assert world.endpoint.closed_with == [(-1, CloseCode.NORMAL)]
    await world.over()


async def test_delete_closes_whatever_the_bye_did(world: World) -> None:
    world.endpoint.is_slow = True
    await world.call("DELETE", "/s1").done()
    assert world.endpoint.closed_with == [(-1, CloseCode.NORMAL)]
    await world.over()


@pytest.mark.parametrize("ticks", range(8))
async def test_woken_while_its_time_runs_out(ticks: int) -> None:
    reader = Reader()
    sleep = asyncio.create_task(reader.sleep(0, asyncio.Queue[Json]().get))
    for _ in range(ticks):
        await asyncio.sleep(0)
    reader.wake()
    reader.wake()
    assert await sleep is True
    reader.wake()


async def test_a_bug_costs_its_own_connection_only(world: World) -> None:
    await world.hello("s2")
    post = world.call("POST", "/s1/messages", [{"type": "fail"}])
    with pytest.raises(RuntimeError):
        await post.done()
    assert post.status == 500
    await settle()
    assert world.endpoint.closed_with == [(-1, CloseCode.INTERNAL)]
    assert world.fallback.sessions == 1
    await world.over()
    post.task = asyncio.create_task(asyncio.sleep(0))
    gc.collect()


async def test_silence_loses_the_session_and_a_get_under_way_is_no_silence() -> None:
    world = World(LIMITS)
    await world.hello()
    loop = asyncio.get_running_loop()
    call = await world.poll(wait=0.3)
    assert (await call.done())["messages"] == []
    ended = loop.time()
    assert world.endpoint.closed_with == []
    await until(lambda: bool(world.endpoint.closed_with))
    assert loop.time() - ended >= 0.099
    assert world.endpoint.closed_with == [(-1, 1006)]
    assert (await (await world.poll()).done())["code"] == "not_found"
    await world.over()


async def test_requests_put_the_loss_off() -> None:
    world = World(Limits(ping_interval_s=0.5, ping_timeout_s=0.5))
    await world.hello()
    loop = asyncio.get_running_loop()
    until_then = loop.time() + 1.5
    while loop.time() < until_then:
        await world.call("POST", "/s1/messages", [{"type": "ping"}]).done()
        await asyncio.sleep(0.02)
    assert world.endpoint.closed_with == []
    await world.over()


async def test_no_more_sessions_than_allowed() -> None:
    world = World(PATIENT, max_sessions=2)
    for session in ("s1", "s2"):
        assert (await world.hello(session)).status == 201
    refused = await world.hello("s3")
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"] == "5"
    await world.call("DELETE", "/s1").done()
    assert (await world.hello("s3")).status == 201
    await world.over()


async def test_former_connections_are_forgotten_in_the_end() -> None:
    world = World(PATIENT, max_sessions=3)
    for number in range(10):
        await world.hello(f"s{number}")
        world.endpoint.connections[-1 - number].close(CloseCode.SUPERSEDED, "")
        await settle()
    codes = []
    for number in range(10):
        call = world.call("GET", f"/s{number}/messages")
        codes.append((await call.done())["code"])
    assert codes == ["not_found"] * 7 + ["superseded"] * 3
    await world.over()


class TestHello:
    @pytest.mark.parametrize("is_there", [True, False])
    async def test_a_refusal_may_take_its_time(self, is_there: bool) -> None:
        world = World(PATIENT)
        world.endpoint.is_slow = True
        call = world.call("POST", "", {"type": "hello"})
        await settle()
        connection = world.endpoint.connections[-1]
        if is_there:
            refusal = {"type": "error", "code": "rate_limited", "retry_after_ms": 1200}
            world.endpoint.say(connection, refusal)
            connection.close(CloseCode.RATE_LIMITED, "")
            assert await call.done() == refusal
            assert (call.status, call.headers["retry-after"]) == (429, "2")
            await settle()
            assert world.endpoint.closed_with == [(-1, CloseCode.RATE_LIMITED)]
        else:
            call.disconnect()
            await call.done()
            assert world.endpoint.closed_with == [(-1, 1006)]
        await world.over()

    async def test_no_answer_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fallback, "HELLO_S", 0.01)
        world = World(PATIENT)
        world.endpoint.is_slow = True
        call = world.call("POST", "", {"type": "hello"})
        await call.done()
        assert call.status == 400
        assert world.endpoint.closed_with == [(-1, 1006)]
        await world.over()

    async def test_a_refusal_that_does_not_close_is_the_end_here(self) -> None:
        world = World(PATIENT)
        refusal = {"type": "error", "code": "resume_expired"}
        world.endpoint.refusal = refusal
        call = world.call("POST", "", {"type": "hello"})
        assert await call.done() == refusal
        assert call.status == 410
        assert world.endpoint.closed_with == [(-1, CloseCode.NORMAL)]
        await world.over()
