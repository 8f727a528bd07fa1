"""HTTP for backends: rooms, who is in them, removing, speaking to them, calls, draining.

Each request is about one account: the caller's own, or the one that the operator names. That
account's switchboard answers, through the dispatcher. It does not know how callers prove who they
are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signal_server.core import inputs
from signal_server.edge.dispatcher import Dispatcher
from turn_broker.administrators import Administrator, Administrators
from turn_broker.asker import IssueRefusal
from turn_broker.dialects.asking import peer_address
from turn_broker.globs import matches
from turn_broker.problem import problem_response

MAX_LISTED = 1000
"""Rooms in one answer; `next` continues after them."""
MAX_BAN_S = 7 * 86_400
_ROOM = "/v1/rooms/{room:path}"
_NO_ROOM = "no such room"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose sender may make it."""

    request: Request
    account: str

    @property
    def room(self) -> str:
        return str(self.request.path_params["room"])


Endpoint = Callable[[_Asked], Awaitable[Response]]


class Announcement(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/rooms/{room}/messages`."""

    data: Raw


class _Ban(msgspec.Struct):
    ban_s: Annotated[float, Meta(ge=0, le=MAX_BAN_S)] = 0


class ServerApi:
    """The routes."""

    def __init__(
        self, dispatcher: Dispatcher, administrators: Administrators, drain: Callable[[], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._administrators = administrators
        self._drain = drain

    def routes(self) -> list[Route]:
        guarded = self._guarded
        return [
            Route("/v1/rooms", guarded(self._rooms)),
            # A room's name may have slashes: the longer paths come first.
            Route(f"{_ROOM}/peers/{{peer}}", guarded(self._kick), methods=["DELETE"]),
            Route(f"{_ROOM}/messages", guarded(self._say), methods=["POST"]),
            Route(_ROOM, guarded(self._room), methods=["GET"]),
            Route(_ROOM, guarded(self._close), methods=["DELETE"]),
            Route("/v1/calls/{call}", guarded(self._call)),
            Route("/v1/drain", self._go_away, methods=["POST"]),
        ]

    # Who asks -------------------------------------------------------------------------------

    def _guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            account = self._account(request)
            if isinstance(account, IssueRefusal):
                return _refused(account)
            try:
                return await endpoint(_Asked(request, account))
            except TimeoutError:
                return problem_response("unavailable", "nobody answers for that account now")

        return checked

    def _account(self, request: Request) -> str | IssueRefusal:
        """Whose rooms and calls the request is about."""
        who = self._identify(request)
        if isinstance(who, IssueRefusal):
            return who
        # Rooms and calls that the path does not name may be anybody's in the account.
        room = request.path_params.get("room")
        if who.rooms is not None and (room is None or not matches(who.rooms, room)):
            return IssueRefusal("forbidden", "the access token is for other rooms")
        return who.account

    def _identify(self, request: Request) -> Administrator | IssueRefusal:
        header, named = request.headers.get("authorization"), request.query_params.get("account")
        return self._administrators.identify(header, peer_address(request), named)

    # What they ask --------------------------------------------------------------------------

    async def _shown(self, asked: _Asked, question: inputs.Question, missing: str) -> Response:
        answer = await self._dispatcher.ask(asked.account, question)
        if answer is None:
            return problem_response("not_found", missing)
        return Response(answer, media_type="application/json")

    async def _done(
        self, asked: _Asked, question: inputs.Question, missing: str, status: int
    ) -> Response:
        answer = await self._dispatcher.ask(asked.account, question)
        if answer is None:
            return problem_response("not_found", missing)
        return Response(status_code=status)

    async def _rooms(self, asked: _Asked) -> Response:
        after = asked.request.query_params.get("after", "")
        return await self._shown(asked, inputs.ListRooms(after=after, limit=MAX_LISTED), _NO_ROOM)

    async def _room(self, asked: _Asked) -> Response:
        return await self._shown(asked, inputs.ShowRoom(room=asked.room), _NO_ROOM)

    async def _close(self, asked: _Asked) -> Response:
        return await self._done(asked, inputs.CloseRoom(room=asked.room), _NO_ROOM, 204)

    async def _kick(self, asked: _Asked) -> Response:
        try:
            ban = msgspec.convert(dict(asked.request.query_params), _Ban, strict=False)
        except msgspec.ValidationError as flaw:
            return problem_response("bad_request", str(flaw))
        peer = asked.request.path_params["peer"]
        kick = inputs.Kick(room=asked.room, peer=peer, ban_s=ban.ban_s)
        return await self._done(asked, kick, "no such peer in such a room", 204)

    async def _say(self, asked: _Asked) -> Response:
        try:
            said = msgspec.json.decode(await asked.request.body(), type=Announcement)
        except (msgspec.DecodeError, RecursionError) as flaw:
            return problem_response("bad_request", str(flaw))
        return await self._done(asked, inputs.Tell(room=asked.room, data=said.data), _NO_ROOM, 202)

    async def _call(self, asked: _Asked) -> Response:
        call = inputs.ShowCall(call=asked.request.path_params["call"])
        return await self._shown(asked, call, "no such call")

    async def _go_away(self, request: Request) -> Response:
        who = self._identify(request)
        if isinstance(who, IssueRefusal):
            return _refused(who)
        if not who.is_operator:
            return problem_response("forbidden", "the node is the operator's")
        self._drain()
        return Response(status_code=202)


def _refused(refusal: IssueRefusal) -> Response:
    return problem_response(refusal.code, refusal.message, refusal.retry_after_s)
