"""Native HTTP errors: RFC 9457 problem details with the same codes as the signaling protocol.

It does not know which route refuses. Dialects have error forms of their own.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

ProblemCode = Literal[
    "bad_request",
    "unauthenticated",
    "token_expired",
    "superseded",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "resume_gap",
    "payload_too_large",
    "unavailable",
]
STATUS_OF: dict[ProblemCode, HTTPStatus] = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "token_expired": HTTPStatus.UNAUTHORIZED,
    "superseded": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "resume_gap": HTTPStatus.CONFLICT,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}
_CODE_OF: dict[int, ProblemCode] = {
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
}
MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 section 3.1, and our `code`, which is what a client should branch on."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problem_response(code: ProblemCode, detail: str) -> Response:
    """The response for `code`; a 401 names the two ways to authenticate."""
    status = STATUS_OF[code]
    problem = Problem(f"urn:parley:problem:{code}", status.phrase, status, code, detail)
    headers = {"Cache-Control": "no-store"}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="parley", Basic realm="parley"'
    body = msgspec.json.encode(problem)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


async def framework_problem(_: Request, error: Exception) -> Response:
    """Exception handler for what Starlette itself refuses: no such route, method or size."""
    assert isinstance(error, HTTPException)
    response = problem_response(_CODE_OF.get(error.status_code, "bad_request"), error.detail)
    response.headers.update(error.headers or {})
    return response
