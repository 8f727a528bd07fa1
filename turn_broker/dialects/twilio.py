"""Twilio Network Traversal Service: `POST /2010-04-01/Accounts/{sid}/Tokens.json`.

Answers what the official SDKs accept: 201, ttl as a string, one entry per URL with `url` and
`urls` both strings (typed SDKs refuse an array), RFC 2822 dates, and errors that are not RFC 9457.
It does not know identities: every token is one of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.accounts import Account, Accounts
from turn_broker.authorization import Basic, parse_authorization
from turn_broker.body import read_body
from turn_broker.broker import ENTROPY_BYTES, Broker, Grant, GrantRefusal
from turn_broker.counters import Counters
from turn_broker.policy import TWILIO_MAX_TTL_S

PATH = "/2010-04-01/Accounts/{account_sid}/Tokens"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ALLOWED = "POST, OPTIONS"
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 16


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


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: int
    message: str


_UNAUTHENTICATED = _Refusal(401, 20003, "Authenticate")
_NOT_ALLOWED = _Refusal(405, 20004, "Method not allowed")


def routes(
    broker: Broker, accounts: Accounts, clock: Callable[[], float], counters: Counters
) -> list[Route]:
    dialect = TwilioDialect(broker, accounts, clock, counters)
    return [
        Route(f"{PATH}.json", dialect.answer, methods=_METHODS, name="twilio_tokens_json"),
        Route(PATH, dialect.answer, methods=_METHODS, name="twilio_tokens"),
    ]


class TwilioDialect:
    """The Tokens resource."""

    def __init__(
        self, broker: Broker, accounts: Accounts, clock: Callable[[], float], counters: Counters
    ) -> None:
        self._broker = broker
        self._accounts = accounts
        self._clock = clock
        self._counters = counters

    async def answer(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": _ALLOWED})
        account = self._account(request)
        if isinstance(account, _Refusal):
            return self._refuse(account)
        if request.method != "POST":
            return self._refuse(_NOT_ALLOWED)
        ttl = await self._ttl(request)
        if isinstance(ttl, _Refusal):
            return self._refuse(ttl)
        now = self._clock()
        grant = self._broker.grant(
            account.sid, None, now, ttl=ttl, entropy=secrets.token_bytes(ENTROPY_BYTES)
        )
        if isinstance(grant, GrantRefusal):
            return self._refuse(_Refusal(400, 20001, grant.message))
        self._counters.issued["twilio"] += 1
        return _json(201, token_of(account.sid, grant, now))

    def _account(self, request: Request) -> Account | _Refusal:
        basic = parse_authorization(request.headers.get("authorization"))
        if not isinstance(basic, Basic):
            return _UNAUTHENTICATED
        account = self._accounts.authenticate_basic(None, basic.username, basic.password)
        if account is None:
            return _UNAUTHENTICATED
        if account.sid != request.path_params["account_sid"]:
            return _Refusal(
                404, 20404, f"The requested resource {request.url.path[:200]} was not found"
            )
        return account

    async def _ttl(self, request: Request) -> int | _Refusal:
        body = await read_body(request)
        if body is None:
            return _Refusal(413, 20001, "Request body too large or too slow")
        if not body:
            return self._default_ttl()
        content_type = request.headers.get("content-type", _FORM).partition(";")[0]
        if content_type.strip().lower() != _FORM:
            return _Refusal(400, 20001, f"Content-Type must be {_FORM}")
        try:
            fields = parse_qsl(
                body.decode("utf-8"),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=_MAX_FIELDS,
            )
        except ValueError:
            return _Refusal(400, 20001, "The request body is not a form")
        values = [value for name, value in fields if name == "Ttl"]
        if not values:
            return self._default_ttl()
        text = values[0]
        if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 10):
            return _Refusal(400, 20001, "Invalid parameter: Ttl must be one whole number")
        if int(text) > TWILIO_MAX_TTL_S:
            return _Refusal(400, 20001, f"Invalid parameter: Ttl must be <= {TWILIO_MAX_TTL_S}")
        return int(text)

    def _default_ttl(self) -> int:
        return min(TWILIO_MAX_TTL_S, self._broker.policy.max_ttl_s)

    def _refuse(self, refusal: _Refusal) -> Response:
        self._counters.refused[str(refusal.code)] += 1
        error = TwilioError(
            code=refusal.code,
            message=refusal.message,
            more_info=f"https://www.twilio.com/docs/errors/{refusal.code}",
            status=refusal.status,
        )
        response = _json(refusal.status, error)
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = 'Basic realm="Parley API"'
        if refusal.status == 405:
            response.headers["Allow"] = _ALLOWED
        return response


def token_of(account_sid: str, grant: Grant, now: float) -> TwilioToken:
    """The Token resource of a grant: one entry for each URL, the credential only on TURN's."""
    date = format_datetime(datetime.fromtimestamp(int(now), UTC))
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


def _json(status: int, content: msgspec.Struct) -> Response:
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
