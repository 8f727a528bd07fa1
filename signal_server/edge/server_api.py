"""HTTP for backends: which rooms are there, and who is in them. Bearer = the admin token.

Reads the switchboard and changes nothing. It does not know how tokens are made.
"""

from __future__ import annotations

import hmac
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from signal_server.core.room import Room
from signal_server.core.switchboard import Switchboard
from turn_broker.problem import problem_response

MAX_LISTED = 1000
"""Rooms in one answer; `next` continues after them."""


def routes(switchboard: Switchboard, admin_token: str, account: str) -> list[Route]:
    """`GET /v1/rooms` and `GET /v1/rooms/{room}` of one account."""

    def refused(request: Request) -> Response | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.encode("utf-8", "surrogatepass")
        if scheme.lower() == "bearer" and hmac.compare_digest(given, admin_token.encode()):
            return None
        return problem_response("unauthenticated", "send the admin token as Bearer")

    async def rooms(request: Request) -> Response:
        refusal = refused(request)
        if refusal is not None:
            return refusal
        after = request.query_params.get("after", "")
        names = sorted(
            name for owner, name in switchboard.rooms if owner == account and name > after
        )
        listed = [_summary(switchboard.rooms[account, name]) for name in names[:MAX_LISTED]]
        following = names[MAX_LISTED - 1] if len(names) > MAX_LISTED else None
        return JSONResponse({"rooms": listed, "next": following})

    async def room(request: Request) -> Response:
        refusal = refused(request)
        if refusal is not None:
            return refusal
        found = switchboard.rooms.get((account, request.path_params["room"]))
        if found is None:
            return problem_response("not_found", "no such room")
        peers = [
            {"peer": member.peer, "identity": member.permit.identity, "name": member.permit.name}
            for member in found.members.values()
        ]
        return JSONResponse({**_summary(found), "members": peers})

    return [Route("/v1/rooms", rooms), Route("/v1/rooms/{room:path}", room)]


def _summary(room: Room) -> dict[str, Any]:
    return {
        "room": room.name,
        "peers": len(room.members),
        "epoch": room.epoch,
        "revision": room.revision,
    }
