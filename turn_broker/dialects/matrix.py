"""Matrix client-server API: `GET /_matrix/client/v3/voip/turnServer`, for a bearer of our tokens.

For a homeserver, or a proxy before it, that hands this one path to the broker. Errors have Matrix'
codes. It does not know Matrix' users: the access token is one of ours.
"""

from __future__ import annotations

import math

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.answer import json_answer, no_store
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.authorization import Bearer, parse_authorization
from turn_broker.broker import Wishes
from turn_broker.dialects.asking import AddressOf
from turn_broker.issuer import Issuer
from turn_broker.problem import STATUS_OF, ProblemCode

PATH = "/_matrix/client/v3/voip/turnServer"
_CODE_OF: dict[ProblemCode, str] = {
    "unauthenticated": "M_UNKNOWN_TOKEN",
    "token_expired": "M_UNKNOWN_TOKEN",
    "forbidden": "M_FORBIDDEN",
    "rate_limited": "M_LIMIT_EXCEEDED",
    "limit_exceeded": "M_LIMIT_EXCEEDED",
    "bad_request": "M_INVALID_PARAM",
}


class MatrixTurnServer(msgspec.Struct):
    username: str
    password: str
    uris: tuple[str, ...]
    ttl: int
    """Seconds."""


class MatrixError(msgspec.Struct, omit_defaults=True):
    errcode: str
    error: str
    retry_after_ms: int | None = None


def routes(issuer: Issuer, address_of: AddressOf) -> list[Route]:
    dialect = MatrixDialect(issuer, address_of)
    return [Route(PATH, dialect.answer, methods=["GET"])]


class MatrixDialect:
    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def answer(self, request: Request) -> Response:
        address = self._address_of(request)
        bearer = parse_authorization(request.headers.get("authorization"))
        if not isinstance(bearer, Bearer):
            missing = IssueRefusal("unauthenticated", "Missing access token")
            return self._refuse(missing, "M_MISSING_TOKEN")
        asker = self._issuer.bearer(bearer.token, address)
        if isinstance(asker, Asker):
            wishes = Wishes(client_address=address or None)
            grant = self._issuer.issue(asker, wishes, "matrix", address)
            if not isinstance(grant, IssueRefusal):
                urls = grant.turn_urls
                server = MatrixTurnServer(grant.username, grant.credential, urls, grant.ttl)
                return json_answer(server)
            return self._refuse(grant)
        return self._refuse(asker)

    def _refuse(self, refusal: IssueRefusal, code: str = "") -> Response:
        self._issuer.count_refusal(refusal)
        error = MatrixError(code or _CODE_OF.get(refusal.code, "M_UNKNOWN"), refusal.message)
        if refusal.retry_after_s is not None:
            error.retry_after_ms = math.ceil(refusal.retry_after_s * 1000)
        return json_answer(error, STATUS_OF[refusal.code], no_store(refusal.retry_after_s))
