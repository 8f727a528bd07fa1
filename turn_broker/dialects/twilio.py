"""Twilio Network Traversal Service: `POST /2010-04-01/Accounts/{sid}/Tokens.json`.

Answers what the official SDKs accept: 201, ttl as a string, one entry per URL with `url` and
`urls` both strings (typed SDKs refuse an array), RFC 2822 dates, and errors that are not RFC 9457.
It does not know identities: every token is one of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.answer import json_answer, no_store
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.authorization import Basic, parse_authorization
from turn_broker.body import read_body
from turn_broker.broker import Grant, Wishes
from turn_broker.dialects.asking import FORM, TOO_LARGE, AddressOf, form_fields, is_form
from turn_broker.issuer import Issuer
from turn_broker.policy import TWILIO_MAX_TTL_S
from turn_broker.problem import STATUS_OF, ProblemCode

PATH = "/2010-04-01/Accounts/{account_sid}/Tokens"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ALLOWED = "POST, OPTIONS"
_CODE_OF: dict[ProblemCode, int] = {
    "unauthenticated": 20003,
    "token_expired": 20003,
    "method_not_allowed": 20004,
    "forbidden": 20403,
    "not_found": 20404,
    "rate_limited": 20429,
    "limit_exceeded": 20429,
    "unavailable": 20503,
}
_BAD_PARAMETER = 20001

_UNAUTHENTICATED = IssueRefusal("unauthenticated", "Authenticate")
_NOT_ALLOWED = IssueRefusal("method_not_allowed", "Method not allowed")


class TwilioIceServer(msgspec.Struct, omit_defaults=True):
    url: str
    urls: str
    username: str | None = None
    credential: str | None = None


class TwilioToken(msgspec.Struct):
    """Account token resource."""

    account_sid: str
    date_created: str
    date_updated: str
    ttl: str
    username: str
    password: str
    ice_servers: list[TwilioIceServer]


class TwilioError(msgspec.Struct):
    code: int
    message: str
    more_info: str
    status: int


def routes(issuer: Issuer, address_of: AddressOf) -> list[Route]:
    dialect = TwilioDialect(issuer, address_of)
    return [
        Route(f"{PATH}.json", dialect.answer, methods=_METHODS, name="twilio_tokens_json"),
        Route(PATH, dialect.answer, methods=_METHODS, name="twilio_tokens"),
    ]


class TwilioDialect:
    """The Tokens resource."""

    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def answer(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": _ALLOWED})
        asker = self._asker(request)
        if isinstance(asker, IssueRefusal):
            return self._refuse(asker)
        if request.method != "POST":
            return self._refuse(_NOT_ALLOWED)
        ttl = await self._ttl(request, asker)
        if isinstance(ttl, IssueRefusal):
            return self._refuse(ttl)
        grant = self._issuer.issue(asker, Wishes(ttl=ttl), "twilio")
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        token = token_of(asker.account.sid, grant, self._issuer.clock())
        return json_answer(token, 201)

    def _asker(self, request: Request) -> Asker | IssueRefusal:
        basic = parse_authorization(request.headers.get("authorization"))
        if not isinstance(basic, Basic):
            return _UNAUTHENTICATED
        asker = self._issuer.basic(basic.username, basic.password, self._address_of(request))
        if isinstance(asker, IssueRefusal):
            return _UNAUTHENTICATED if asker.code == "unauthenticated" else asker
        if asker.account.sid != request.path_params["account_sid"]:
            path = request.url.path[:200]
            return IssueRefusal("not_found", f"The requested resource {path} was not found")
        return asker

    async def _ttl(self, request: Request, asker: Asker) -> int | IssueRefusal:
        body = await read_body(request)
        if body is None:
            return TOO_LARGE
        if body and not is_form(request):
            return IssueRefusal("bad_request", f"Content-Type must be {FORM}")
        fields = form_fields(body)
        if fields is None:
            return IssueRefusal("bad_request", "The request body is not a form")
        values = [value for name, value in fields if name == "Ttl"]
        if not values:
            return self._default_ttl(asker)
        text = values[0]
        if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 10):
            return IssueRefusal("bad_request", "Invalid parameter: Ttl must be one whole number")
        if int(text) > TWILIO_MAX_TTL_S:
            message = f"Invalid parameter: Ttl must be <= {TWILIO_MAX_TTL_S}"
            return IssueRefusal("bad_request", message)
        return int(text)

    def _default_ttl(self, asker: Asker) -> int:
        own = asker.account.limits.max_ttl_s or TWILIO_MAX_TTL_S
        return min(TWILIO_MAX_TTL_S, self._issuer.broker.policy.max_ttl_s, own)

    def _refuse(self, refusal: IssueRefusal) -> Response:
        self._issuer.count_refusal(refusal)
        status, code = STATUS_OF[refusal.code], _CODE_OF.get(refusal.code, _BAD_PARAMETER)
        message = "Too Many Requests" if code == 20429 else refusal.message
        error = TwilioError(
            code=code,
            message=message,
            more_info=f"https://www.twilio.com/docs/errors/{code}",
            status=status,
        )
        headers = no_store(refusal.retry_after_s)
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="Parley API"'
        if status == 405:
            headers["Allow"] = _ALLOWED
        return json_answer(error, status, headers)


def token_of(account_sid: str, grant: Grant, now: float) -> TwilioToken:
    """The Token resource of a grant: one entry for each URL, the credential only on TURN's."""
    date = _rfc2822(int(now))
    entries = [
        TwilioIceServer(url, url, server.username, server.credential)
        for server in grant.ice_servers
        for url in server.urls
    ]
    return TwilioToken(
        account_sid=account_sid,
        date_created=date,
        date_updated=date,
        ttl=str(grant.ttl),
        username=grant.username,
        password=grant.credential,
        ice_servers=entries,
    )


@lru_cache(maxsize=2)
def _rfc2822(unix_s: int) -> str:
    return format_datetime(datetime.fromtimestamp(unix_s, UTC))
