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

from turn_broker.answer import json_answer, no_store

ProblemCode = Literal[
    "bad_request",
    "unauthenticated",
    "token_expired",
    "superseded",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "conflict",
    "resume_gap",
    "payload_too_large",
    "rate_limited",
    "limit_exceeded",
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
    "conflict": HTTPStatus.CONFLICT,
    "resume_gap": HTTPStatus.CONFLICT,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
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


def problem_response(
    code: ProblemCode, detail: str, retry_after_s: float | None = None
) -> Response:
    """The response for `code`; a 401 names the two ways to authenticate."""
    status = STATUS_OF[code]
    problem = Problem(f"urn:parley:problem:{code}", status.phrase, status, code, detail)
    headers = no_store(retry_after_s)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="parley", Basic realm="parley"'
    return json_answer(problem, status, headers, MEDIA_TYPE)


async def framework_problem(_: Request, error: Exception) -> Response:
    """Exception handler for what Starlette itself refuses: no such route, method or size."""
    assert isinstance(error, HTTPException)
    response = problem_response(_CODE_OF.get(error.status_code, "bad_request"), error.detail)
    response.headers.update(error.headers or {})
    return response
