"""HTTP for backends: rooms, who is in them, removing, speaking to them, calls, draining.

Bearer = the admin token. It reads the switchboard and acts through the dispatcher; it does not know
how tokens are made.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from signal_server.core.room import Room
from signal_server.edge.dispatcher import Dispatcher
from turn_broker.problem import problem_response

MAX_LISTED = 1000
"""Rooms in one answer; `next` continues after them."""
MAX_BAN_S = 7 * 86_400

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
        self._switchboard = dispatcher.switchboard
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
            return await endpoint(request)

        return checked

    def _find(self, request: Request) -> Room | None:
        return self._switchboard.rooms.get((self._account, request.path_params["room"]))

    async def _rooms(self, request: Request) -> Response:
        after = request.query_params.get("after", "")
        rooms = self._switchboard.rooms
        names = sorted(name for owner, name in rooms if owner == self._account and name > after)
        listed = [_summary(rooms[self._account, name]) for name in names[:MAX_LISTED]]
        following = names[MAX_LISTED - 1] if len(names) > MAX_LISTED else None
        return JSONResponse({"rooms": listed, "next": following})

    async def _room(self, request: Request) -> Response:
        room = self._find(request)
        if room is None:
            return problem_response("not_found", "no such room")
        members = [
            {
                "peer": member.peer,
                "identity": member.permit.identity,
                "name": member.permit.name,
                "connected": member.connection is not None,
            }
            for member in room.members.values()
        ]
        return JSONResponse({**_summary(room), "members": members})

    async def _close(self, request: Request) -> Response:
        room = self._find(request)
        if room is None:
            return problem_response("not_found", "no such room")
        self._dispatcher.remove(self._account, room.name, None, 0)
        return Response(status_code=204)

    async def _kick(self, request: Request) -> Response:
        room, peer = self._find(request), request.path_params["peer"]
        if room is None or peer not in room.members:
            return problem_response("not_found", "no such peer in such a room")
        try:
            ban = msgspec.convert(dict(request.query_params), _Ban, strict=False)
        except msgspec.ValidationError as flaw:
            return problem_response("bad_request", str(flaw))
        self._dispatcher.remove(self._account, room.name, peer, ban.ban_s)
        return Response(status_code=204)

    async def _say(self, request: Request) -> Response:
        room = self._find(request)
        if room is None:
            return problem_response("not_found", "no such room")
        try:
            said = msgspec.json.decode(await request.body(), type=Announcement)
        except (msgspec.DecodeError, RecursionError) as flaw:
            return problem_response("bad_request", str(flaw))
        self._dispatcher.say(self._account, room.name, said.data)
        return Response(status_code=202)

    async def _call(self, request: Request) -> Response:
        timeline = self._switchboard.calls.timeline(self._account, request.path_params["call"])
        if timeline is None:
            return problem_response("not_found", "no such call")
        return Response(msgspec.json.encode(timeline), media_type="application/json")

    async def _go_away(self, request: Request) -> Response:
        self._drain()
        return Response(status_code=202)


def _summary(room: Room) -> dict[str, Any]:
    return {
        "room": room.name,
        "peers": len(room.members),
        "epoch": room.epoch,
        "revision": room.revision,
    }
