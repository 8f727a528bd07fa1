"""The signaling protocol over plain HTTP, for networks that let no WebSocket through.

Same sessions, same messages, same numbers: POST what a client says, read what it hears by long
poll or as server-sent events, and move to a WebSocket and back with `hello.resume`. It does not
know what the messages mean, apart from the answer to a hello.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signal_server.edge.event_stream import EventStream
from signal_server.edge.http_connection import LOST, Endpoint, HttpConnection, HttpConnections
from signal_server.edge.siblings import Siblings
from signal_server.wire.base import SequenceNumber
from signal_server.wire.codec import encode
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import Error
from turn_broker.authorization import Bearer, parse_authorization
from turn_broker.body import read_body
from turn_broker.problem import ProblemCode, problem_response

MAX_MESSAGES = 64
"""In one POST."""
MAX_WAIT_S = 30.0
DEFAULT_WAIT_S = 25.0
HELLO_S = 40.0
"""Longer than the longest delay of an answer to a wrong token."""
_RETRY_AFTER_S = 5
_NO_STORE = {"Cache-Control": "no-store"}
_CHALLENGE = 'Bearer realm="parley"'
_BYE = '{"type":"bye"}'
_STATUS: dict[str, int] = {
    ErrorCode.UNSUPPORTED_VERSION: 404,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.RESUME_EXPIRED: 410,
    ErrorCode.RESUME_GAP: 410,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.DRAINING: 503,
    ErrorCode.UNAVAILABLE: 503,
}
"""Of a refused hello; 400 for every other code."""
_CLOSED: dict[int, tuple[ProblemCode, str]] = {
    CloseCode.SUPERSEDED: ("superseded", "another connection has taken the session over"),
    CloseCode.TOKEN_EXPIRED: ("token_expired", "resume with a fresh access token"),
    CloseCode.UNAUTHENTICATED: ("unauthenticated", "the connection was closed"),
    CloseCode.FORBIDDEN: ("forbidden", "the connection was closed"),
    CloseCode.KICKED: ("forbidden", "kicked"),
    CloseCode.ROOM_CLOSED: ("forbidden", "the room was closed"),
    CloseCode.PROTOCOL_ERROR: ("forbidden", "the client does not follow the protocol"),
    CloseCode.RESUME_GAP: ("resume_gap", "messages behind that number are gone: say hello anew"),
}
"""What a request hears after its connection was closed; otherwise it may resume."""
_NOT_FOUND: tuple[ProblemCode, str] = ("not_found", "no such session over HTTP: resume it")


class _Secret(msgspec.Struct):
    secret: str


class _Answer(msgspec.Struct):
    """To a hello."""

    session: str = ""
    resume: _Secret | None = None
    code: str = ""
    retry_after_ms: int | None = None


class _Poll(msgspec.Struct):
    after: SequenceNumber = 0
    """Acknowledged herewith."""
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = DEFAULT_WAIT_S
    """Seconds."""


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_Act = Callable[[Request, HttpConnection], Awaitable[Response]]


class Fallback:
    """One per node."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: Limits,
        max_sessions: int = 20_000,
        siblings: Siblings | None = None,
    ) -> None:
        self.connections = HttpConnections(endpoint, limits, max_sessions)
        self.max_body_bytes = 2 * limits.message_bytes
        """The application must let that much through."""
        self._endpoint = endpoint
        self._limits = limits
        self._siblings = siblings

    def routes(self) -> list[Route]:
        one = "/v1/sessions/{session}"
        return [
            _route("/v1/sessions", "POST", self._hello),
            _route("/v{version:int}/sessions", "POST", _other_version),
            _route(f"{one}/messages", "POST", self._of_session(self._post)),
            _route(f"{one}/messages", "GET", self._of_session(self._poll)),
            _route(f"{one}/events", "GET", self._of_session(self._events)),
            _route(one, "DELETE", self._of_session(self._bye)),
        ]

    @property
    def sessions(self) -> int:
        """How many have their connection over HTTP."""
        return len(self.connections)

    def close_all(self, code: int, reason: str = "") -> None:
        """Every session loses its connection; GETs that wait return."""
        self.connections.close_all(code, reason)

    async def wait_empty(self) -> None:
        """Return once no request is under way; soon after `close_all`."""
        await self.connections.wait_empty()

    # -- hello ---------------------------------------------------------------------------------

    async def _hello(self, request: Request) -> Response:
        text = await _text(request, self._limits.message_bytes)
        if isinstance(text, Response):
            return text
        remote = request.client.host if request.client else ""
        connection = self.connections.open(_bearer(request), remote)
        if connection is None:
            response = _problem("unavailable", "as many sessions over HTTP as there may be")
            response.headers["Retry-After"] = str(_RETRY_AFTER_S)
            return response
        try:
            await self._greet(connection, text, request)
            messages = connection.take_replies()
            if not messages:
                connection.end(LOST)
                return Response(status_code=400, headers=_NO_STORE)
            return self._answered(connection, messages)
        finally:
            if not connection.session:
                connection.end(CloseCode.NORMAL)

    async def _greet(self, connection: HttpConnection, text: str, request: Request) -> None:
        """Say hello; the answer to a wrong token may take its time."""
        self._endpoint.opened(connection)
        self._endpoint.received(connection, text)
        with connection.read() as reader:
            loop = asyncio.get_running_loop()
            give_up_at = loop.time() + HELLO_S
            while not connection.replies and not connection.close_code:
                left = give_up_at - loop.time()
                if left <= 0 or not await reader.sleep(left, request.receive):
                    break

    def _answered(self, connection: HttpConnection, messages: list[bytes]) -> Response:
        answer = _decode_answer(messages[0])
        if answer.resume is not None:
            connection.attach(answer.session, answer.resume.secret)
            response = _json(_greeting(messages), 201)
            response.headers["Location"] = f"/v1/sessions/{answer.session}"
            return response
        response = _json(messages[0], _STATUS.get(answer.code, 400))
        if answer.retry_after_ms is not None:
            response.headers["Retry-After"] = str(ceil(answer.retry_after_ms / 1000))
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = _CHALLENGE
        return response

    # -- requests of a session -----------------------------------------------------------------

    def _of_session(self, act: _Act) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            secret = _bearer(request)
            if secret is None:
                return _problem("unauthenticated", "send the session's resume secret as Bearer")
            found = self.connections.find(request.path_params["session"], secret)
            if isinstance(found, HttpConnection):
                return await act(request, found)
            if found == 0:
                return _problem("unauthenticated", "that is not the session's resume secret")
            if found is None and self._siblings is not None:
                return await self._elsewhere(request, self._siblings)
            return _closed(found)

        return checked

    async def _elsewhere(self, request: Request, siblings: Siblings) -> Response:
        body = await read_body(request, self.max_body_bytes)
        if body is None:
            return _problem("payload_too_large", "the body is too large, or came too slowly")
        answer = await siblings.ask(request, request.path_params["session"], body)
        return answer or _closed(None)

    async def _post(self, request: Request, connection: HttpConnection) -> Response:
        with connection.request():
            text = await _text(request, self.max_body_bytes)
            if isinstance(text, Response):
                return text
            texts = self._messages(text)
            if isinstance(texts, Response):
                return texts
            if connection.close_code:
                return _closed(connection.close_code)
            return _json(b'{"results":[%b]}' % b",".join(await connection.execute(texts)))

    def _messages(self, text: str) -> list[str] | Response:
        try:
            texts = [bytes(raw).decode() for raw in _decode_array(text)]
        except (msgspec.DecodeError, RecursionError, UnicodeError) as flaw:
            return _problem("bad_request", str(flaw)[:200])
        if len(texts) > MAX_MESSAGES:
            return _problem("payload_too_large", f"more than {MAX_MESSAGES} messages")
        if any(len(each.encode()) > self._limits.message_bytes for each in texts):
            too_large = f"a message exceeds {self._limits.message_bytes} bytes"
            return _problem("payload_too_large", too_large)
        return texts

    async def _poll(self, request: Request, connection: HttpConnection) -> Response:
        asked = _asked(dict(request.query_params))
        if isinstance(asked, Response):
            return asked
        refusal = _refusal(connection.acknowledge(asked.after))
        if refusal is not None:
            return refusal
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + asked.wait
        with connection.read() as reader:
            while True:
                if connection.close_code:
                    return _closed(connection.close_code)
                if reader.is_superseded:
                    return _batch([], [], asked.after)
                messages = self._endpoint.unread(connection.id, asked.after)
                if messages is None:
                    return _closed(CloseCode.RESUME_GAP)
                left = give_up_at - loop.time()
                if messages or connection.replies or left <= 0:
                    return _batch(connection.take_replies(), messages, asked.after)
                if not await reader.sleep(left, request.receive):
                    return Response(status_code=400, headers=_NO_STORE)

    async def _events(self, request: Request, connection: HttpConnection) -> Response:
        query = {"after": request.query_params.get("after", "0")}
        last = request.headers.get("last-event-id")
        asked = _asked({"after": last} if last else query)
        if isinstance(asked, Response):
            return asked
        refusal = _refusal(connection.acknowledge(asked.after))
        if refusal is not None:
            return refusal
        if self._endpoint.unread(connection.id, asked.after) is None:
            return _closed(CloseCode.RESUME_GAP)
        return EventStream(
            connection,
            self._endpoint,
            asked.after,
            self._limits.ping_interval_s,
            lambda code: bytes(_closed(code).body),
        )

    async def _bye(self, request: Request, connection: HttpConnection) -> Response:
        with connection.request():
            await connection.execute([_BYE])
            connection.end(CloseCode.NORMAL)
        return Response(status_code=204, headers=_NO_STORE)


def _route(path: str, method: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    route = Route(path, endpoint, methods=[method])
    # Starlette adds HEAD to GET: it would wait, acknowledge, and say nothing.
    route.methods = {method}
    return route


async def _text(request: Request, max_bytes: int) -> str | Response:
    body = await read_body(request, max_bytes)
    if body is None:
        detail = f"the body exceeds {max_bytes} bytes, or came too slowly"
        return _problem("payload_too_large", detail)
    try:
        return body.decode()
    except UnicodeDecodeError:
        return _problem("bad_request", "the body is not valid UTF-8")


def _bearer(request: Request) -> str | None:
    match parse_authorization(request.headers.get("authorization")):
        case Bearer(token):
            return token
        case _:
            return None


def _asked(query: dict[str, str]) -> _Poll | Response:
    try:
        return msgspec.convert(query, _Poll, strict=False)
    except msgspec.ValidationError as flaw:
        return _problem("bad_request", str(flaw)[:200])


async def _other_version(request: Request) -> Response:
    """As a WebSocket hears it that offers another version's subprotocol."""
    code = ErrorCode.UNSUPPORTED_VERSION
    error = Error(code=code.value, message="this server speaks /v1/", retryable=code.retryable)
    return _json(encode(error), _STATUS[code])


def _greeting(messages: list[bytes]) -> bytes:
    """The welcome or resumed as it is, and what else has no number under `results`."""
    welcome, *others = messages
    return b'%b,"results":[%b]}' % (welcome[:-1], b",".join(others))


def _batch(replies: list[bytes], messages: list[bytes], after: int) -> Response:
    joined = b",".join(replies + messages)
    return _json(b'{"messages":[%b],"next":%d}' % (joined, after + len(messages)))


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, headers=_NO_STORE, media_type="application/json")


def _refusal(error: bytes | None) -> Response | None:
    """Why a GET may not read now: too fast, or it acknowledges what was never sent."""
    if error is None:
        return None
    answer = _decode_answer(error)
    if answer.retry_after_ms is None:
        return _closed(CloseCode.RESUME_GAP)
    response = _problem("rate_limited", "too many requests")
    response.headers["Retry-After"] = str(ceil(answer.retry_after_ms / 1000))
    return response


def _closed(code: int | None) -> Response:
    return _problem(*_CLOSED.get(code or 0, _NOT_FOUND))


def _problem(code: ProblemCode, detail: str) -> Response:
    response = problem_response(code, detail)
    if response.status_code == 401:
        # A challenge of Basic would make a browser ask its user for a password.
        response.headers["WWW-Authenticate"] = _CHALLENGE
    return response
