"""HTTP of the broker: the native `/v1/ice-servers`, and the routes of every dialect.

Reads requests, writes responses, counts. What is granted is decided in `broker`, who asks in
`accounts` and `access_token`. CORS is the application's middleware.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.access_token import AccessTokens, TokenRefusal
from turn_broker.accounts import Accounts
from turn_broker.authorization import Basic, Bearer, parse_authorization
from turn_broker.body import MAX_BODY_BYTES, read_body
from turn_broker.broker import ENTROPY_BYTES, MAX_REGION_CHARS, Broker, Grant, GrantRefusal
from turn_broker.counters import Counters
from turn_broker.dialects import twilio
from turn_broker.problem import ProblemCode, problem_response


class IceServersRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may ask for, as a JSON body or as a query."""

    ttl: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Seconds."""
    region: Annotated[str, Meta(max_length=MAX_REGION_CHARS)] | None = None
    """Preferred region; one that does not exist is ignored."""
    transports: Annotated[list[Literal["udp", "tcp", "tls"]], Meta(max_length=3)] | None = None
    """In a query: comma-separated."""
    max_urls: Annotated[int, Meta(ge=1, le=4)] | None = None


class W3CIceServer(msgspec.Struct, omit_defaults=True):
    """RTCIceServer."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class IceServersAnswer(msgspec.Struct):
    """Goes straight into `new RTCPeerConnection()`, which ignores the members it does not know."""

    iceServers: list[W3CIceServer]  # noqa: N815 - the W3C's name
    ice_servers: list[W3CIceServer]
    username: str
    ttl: int
    expires_at: int
    id: str


@dataclass(frozen=True, slots=True)
class _Asker:
    account_sid: str
    subject: str | None
    """Identity of an access token; None for the account itself."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: ProblemCode
    detail: str


def routes(
    broker: Broker,
    accounts: Accounts,
    tokens: AccessTokens,
    clock: Callable[[], float],
    counters: Counters,
) -> list[Route]:
    """Every route of the broker; `clock` gives Unix seconds."""
    native = NativeDialect(broker, accounts, tokens, clock, counters)
    return [
        Route("/v1/ice-servers", native.answer, methods=["GET", "POST"]),
        *twilio.routes(broker, accounts, clock, counters),
    ]


class NativeDialect:
    """`GET|POST /v1/ice-servers`."""

    def __init__(
        self,
        broker: Broker,
        accounts: Accounts,
        tokens: AccessTokens,
        clock: Callable[[], float],
        counters: Counters,
    ) -> None:
        self._broker = broker
        self._accounts = accounts
        self._tokens = tokens
        self._clock = clock
        self._counters = counters

    async def answer(self, request: Request) -> Response:
        asker = self._asker(request.headers.get("authorization"))
        if isinstance(asker, _Refusal):
            return self._refuse(asker)
        asked = await self._asked(request)
        if isinstance(asked, _Refusal):
            return self._refuse(asked)
        grant = self._broker.grant(
            asker.account_sid,
            asker.subject,
            self._clock(),
            ttl=asked.ttl,
            region=asked.region,
            transports=asked.transports,
            max_urls=asked.max_urls,
            entropy=secrets.token_bytes(ENTROPY_BYTES),
        )
        if isinstance(grant, GrantRefusal):
            return self._refuse(_Refusal(grant.code, grant.message))
        self._counters.issued["native"] += 1
        return Response(
            msgspec.json.encode(answer_of(grant)),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    def _refuse(self, refusal: _Refusal) -> Response:
        self._counters.refused[refusal.code] += 1
        return problem_response(refusal.code, refusal.detail)

    def _asker(self, header: str | None) -> _Asker | _Refusal:
        match parse_authorization(header):
            case Bearer(token):
                claims = self._tokens.verify(token, self._clock())
                if isinstance(claims, TokenRefusal):
                    return _Refusal(claims.code, claims.message)
                if not claims.grants.turn:
                    return _Refusal("forbidden", "the access token has no turn grant")
                return _Asker(claims.account_sid, claims.identity)
            case Basic(username, password):
                account = self._accounts.authenticate_basic(None, username, password)
                if account is None:
                    return _Refusal("unauthenticated", "unknown account or wrong password")
                return _Asker(account.sid, None)
            case _:
                return _Refusal(
                    "unauthenticated", "send an access token (Bearer) or an API key (Basic)"
                )

    async def _asked(self, request: Request) -> IceServersRequest | _Refusal:
        body = await read_body(request)
        if body is None:
            return _Refusal(
                "payload_too_large", f"the body exceeds {MAX_BODY_BYTES} bytes, or came too slowly"
            )
        query = request.query_params
        if body.strip():
            if query:
                return _Refusal("bad_request", "parameters both in the query and in the body")
            return _decoded(lambda: msgspec.json.decode(body, type=IceServersRequest))
        names = [name for name, _ in query.multi_items()]
        if len(names) != len(set(names)):
            return _Refusal("bad_request", "a query parameter is there twice")
        fields: dict[str, str | list[str]] = dict(query)
        if "transports" in query:
            fields["transports"] = query["transports"].split(",")
        return _decoded(lambda: msgspec.convert(fields, IceServersRequest, strict=False))


def _decoded(decode: Callable[[], IceServersRequest]) -> IceServersRequest | _Refusal:
    try:
        return decode()
    except (msgspec.DecodeError, UnicodeError) as flaw:
        return _Refusal("bad_request", str(flaw)[:200])


def answer_of(grant: Grant) -> IceServersAnswer:
    """The native answer; signaling's `ice_servers` message carries the same servers."""
    servers = [W3CIceServer(s.urls, s.username, s.credential) for s in grant.ice_servers]
    return IceServersAnswer(
        iceServers=servers,
        ice_servers=servers,
        username=grant.username,
        ttl=grant.ttl,
        expires_at=grant.expires_at,
        id=grant.id,
    )
