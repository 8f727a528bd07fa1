"""HTTP of the broker: the native `/v1/ice-servers`, and the routes of every dialect.

Reads requests and writes responses. Who asks and what is granted is decided in `issuer`. CORS is
the application's middleware.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.answer import json_answer
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.body import read_body
from turn_broker.broker import MAX_REGION_CHARS, Grant, Wishes
from turn_broker.dialects import aws_kvs, cloudflare, matrix, turn_rest, twilio
from turn_broker.dialects.asking import (
    MAX_SUBJECT_CHARS,
    TOO_LARGE,
    AddressOf,
    on_behalf_of,
    peer_address,
)
from turn_broker.fleet.messages import Terms
from turn_broker.issuer import Issuer
from turn_broker.problem import problem_response


class WishedTerms(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the credential is to allow beyond its expiry; only in a JSON body."""

    hard_expiry: bool = False
    """Cut running relays when the credential expires."""
    max_bytes: Annotated[int, Meta(ge=1, le=2**53 - 1)] | None = None
    """Cut them after so many relayed bytes."""
    bind_address: bool = False
    """Only the address that this request comes from may use it (IPv6: its /64)."""


class IceServersRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may ask for, as a JSON body or as a query."""

    ttl: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Seconds."""
    region: Annotated[str, Meta(max_length=MAX_REGION_CHARS)] | None = None
    """Preferred region; one that does not exist is ignored."""
    transports: Annotated[list[Literal["udp", "tcp", "tls"]], Meta(max_length=3)] | None = None
    """In a query: comma-separated."""
    max_urls: Annotated[int, Meta(ge=1, le=4)] | None = None
    identity: Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_CHARS)] | None = None
    """Whose credential, where an account asks; an access token has its own."""
    terms: WishedTerms | None = None


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


def routes(issuer: Issuer, address_of: AddressOf = peer_address) -> list[Route]:
    """Every route that hands out credentials; `address_of` tells a request's client address."""
    native = NativeDialect(issuer, address_of)
    return [
        Route("/v1/ice-servers", native.answer, methods=["GET", "POST"]),
        *twilio.routes(issuer, address_of),
        *cloudflare.routes(issuer, address_of),
        *turn_rest.routes(issuer, address_of),
        *matrix.routes(issuer, address_of),
        *aws_kvs.routes(issuer, address_of),
    ]


_NO_TERMS = Terms()


class NativeDialect:
    """`GET|POST /v1/ice-servers`."""

    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def answer(self, request: Request) -> Response:
        address = self._address_of(request)
        asker = self._issuer.authenticate(request.headers.get("authorization"), address)
        if isinstance(asker, IssueRefusal):
            return self._refuse(asker)
        asked = await _asked(request)
        if isinstance(asked, IssueRefusal):
            return self._refuse(asked)
        named = _named(asker, asked.identity)
        if isinstance(named, IssueRefusal):
            return self._refuse(named)
        grant = self._issuer.issue(named, _wishes(asked, asker, address), "native", address)
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        return json_answer(answer_of(grant))

    def _refuse(self, refusal: IssueRefusal) -> Response:
        self._issuer.count_refusal(refusal)
        return problem_response(refusal.code, refusal.message, refusal.retry_after_s)


async def _asked(request: Request) -> IceServersRequest | IssueRefusal:
    body = await read_body(request)
    if body is None:
        return TOO_LARGE
    query = request.query_params if request.scope["query_string"] else None
    if body.strip():
        if query:
            return IssueRefusal("bad_request", "parameters both in the query and in the body")
        return _decoded(lambda: msgspec.json.decode(body, type=IceServersRequest))
    if not query:
        return IceServersRequest()
    names = [name for name, _ in query.multi_items()]
    if len(names) != len(set(names)):
        return IssueRefusal("bad_request", "a query parameter is there twice")
    fields: dict[str, str | list[str]] = dict(query)
    if "transports" in query:
        fields["transports"] = query["transports"].split(",")
    return _decoded(lambda: msgspec.convert(fields, IceServersRequest, strict=False))


def _decoded(decode: Callable[[], IceServersRequest]) -> IceServersRequest | IssueRefusal:
    try:
        return decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
        return IssueRefusal("bad_request", str(flaw)[:200])


def _named(asker: Asker, identity: str | None) -> Asker | IssueRefusal:
    if identity is not None and asker.grants is not None and identity != asker.subject:
        return IssueRefusal("forbidden", "the access token is another identity's")
    return on_behalf_of(asker, identity)


def _wishes(asked: IceServersRequest, asker: Asker, address: str) -> Wishes:
    wished, terms = asked.terms, _NO_TERMS
    if wished is not None:
        bound = address if wished.bind_address and address else None
        terms = Terms(hard_expiry=wished.hard_expiry, max_bytes=wished.max_bytes, address=bound)
    return Wishes(
        ttl=asked.ttl,
        region=asked.region,
        transports=None if asked.transports is None else tuple(asked.transports),
        max_urls=asked.max_urls,
        # An account's server is not where its clients are.
        client_address=address if address and asker.grants is not None else None,
        terms=terms,
    )


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
