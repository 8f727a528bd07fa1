"""HTTP for backends: rooms, who is in them, removing, speaking to them, calls, draining.

Bearer = the admin token. It asks the account's switchboard through the dispatcher; it does not know
how tokens are made.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated

import msgspec
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signal_server.core import inputs
from signal_server.edge.dispatcher import Dispatcher
from turn_broker.problem import problem_response

MAX_LISTED = 1000
"""Rooms in one answer; `next` continues after them."""
MAX_BAN_S = 7 * 86_400
_NO_ROOM = "no such room"

Endpoint = Callable[[Request], Awaitable[Response]]


class Announcement(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/rooms/{room}/messages`."""

    data: Raw


class _Ban(msgspec.Struct):
    ban_s: Annotated[float, Meta(ge=0, le=MAX_BAN_S)] = 0


class ServerApi:
    """The routes of one account."""

    def __init__(
        self, dispatcher: Dispatcher, admin_token: str, account: str, drain: Callable[[], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._admin_token = admin_token.encode()
        self._account = account
        self._drain = drain

    def routes(self) -> list[Route]:
        guarded = self._guarded
        return [
            Route("/v1/rooms", guarded(self._rooms)),
            Route("/v1/rooms/{room}", guarded(self._room), methods=["GET"]),
            Route("/v1/rooms/{room}", guarded(self._close), methods=["DELETE"]),
            Route("/v1/rooms/{room}/messages", guarded(self._say), methods=["POST"]),
            Route("/v1/rooms/{room}/peers/{peer}", guarded(self._kick), methods=["DELETE"]),
            Route("/v1/calls/{call}", guarded(self._call)),
            Route("/v1/drain", guarded(self._go_away), methods=["POST"]),
        ]

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            given = token.encode("utf-8", "surrogatepass")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._admin_token):
                return problem_response("unauthenticated", "send the admin token as Bearer")
            try:
                return await endpoint(request)
            except TimeoutError:
                return problem_response("unavailable", "nobody answers for that account now")

        return checked

    async def _shown(self, question: inputs.Question, missing: str) -> Response:
        answer = await self._dispatcher.ask(self._account, question)
        if answer is None:
            return problem_response("not_found", missing)
        return Response(answer, media_type="application/json")

    async def _done(self, question: inputs.Question, missing: str, status: int) -> Response:
        answer = await self._dispatcher.ask(self._account, question)
        if answer is None:
            return problem_response("not_found", missing)
        return Response(status_code=status)

    async def _rooms(self, request: Request) -> Response:
        after = request.query_params.get("after", "")
        return await self._shown(inputs.ListRooms(after=after, limit=MAX_LISTED), _NO_ROOM)

    async def _room(self, request: Request) -> Response:
        return await self._shown(inputs.ShowRoom(room=request.path_params["room"]), _NO_ROOM)

    async def _close(self, request: Request) -> Response:
        return await self._done(inputs.CloseRoom(room=request.path_params["room"]), _NO_ROOM, 204)

    async def _kick(self, request: Request) -> Response:
        try:
            ban = msgspec.convert(dict(request.query_params), _Ban, strict=False)
        except msgspec.ValidationError as flaw:
            return problem_response("bad_request", str(flaw))
        room, peer = request.path_params["room"], request.path_params["peer"]
        kick = inputs.Kick(room=room, peer=peer, ban_s=ban.ban_s)
        return await self._done(kick, "no such peer in such a room", 204)

    async def _say(self, request: Request) -> Response:
        try:
            said = msgspec.json.decode(await request.body(), type=Announcement)
        except (msgspec.DecodeError, RecursionError) as flaw:
            return problem_response("bad_request", str(flaw))
        tell = inputs.Tell(room=request.path_params["room"], data=said.data)
        return await self._done(tell, _NO_ROOM, 202)

    async def _call(self, request: Request) -> Response:
        return await self._shown(inputs.ShowCall(call=request.path_params["call"]), "no such call")

    async def _go_away(self, request: Request) -> Response:
        self._drain()
        return Response(status_code=202)
