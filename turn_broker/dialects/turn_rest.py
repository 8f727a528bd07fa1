"""TURN REST API (draft-uberti-behave-turn-rest-00): `GET|POST /turn?service=turn&username=&key=`.

`key` is an API key as `SID:secret`; Janus says it twice, as `api` and `key`, and repeats the query
as a form. Without a key, the Authorization header tells who asks. `username` names an identity of
the account: it never enters the credential. Errors are RFC 9457, which the draft leaves open.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.answer import json_answer
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.body import read_body
from turn_broker.broker import Wishes
from turn_broker.dialects.asking import (
    TOO_LARGE,
    AddressOf,
    Fields,
    form_fields,
    is_form,
    on_behalf_of,
)
from turn_broker.issuer import Issuer
from turn_broker.problem import problem_response

PATH = "/turn"


class TurnRestAnswer(msgspec.Struct):
    username: str
    password: str
    ttl: int
    """Seconds."""
    uris: tuple[str, ...]
    """TURN only."""


def routes(issuer: Issuer, address_of: AddressOf) -> list[Route]:
    dialect = TurnRestDialect(issuer, address_of)
    return [Route(PATH, dialect.answer, methods=["GET", "POST"])]


class TurnRestDialect:
    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def answer(self, request: Request) -> Response:
        fields = await _fields(request)
        if isinstance(fields, IssueRefusal):
            return self._refuse(fields)
        wishes = _wishes(fields)
        if isinstance(wishes, IssueRefusal):
            return self._refuse(wishes)
        address = self._address_of(request)
        asker = self._asker(request, fields, address)
        if isinstance(asker, IssueRefusal):
            return self._refuse(asker)
        grant = self._issuer.issue(asker, wishes, "turn_rest", address)
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        answer = TurnRestAnswer(grant.username, grant.credential, grant.ttl, grant.turn_urls)
        return json_answer(answer)

    def _asker(self, request: Request, fields: Fields, address: str) -> Asker | IssueRefusal:
        key = fields.get("key", fields.get("api"))
        if key is None:
            asker = self._issuer.authenticate(request.headers.get("authorization"), address)
        else:
            sid, _, secret = key.partition(":")
            asker = self._issuer.basic(sid, secret, address)
        if isinstance(asker, IssueRefusal):
            return asker
        return on_behalf_of(asker, fields.get("username"))

    def _refuse(self, refusal: IssueRefusal) -> Response:
        self._issuer.count_refusal(refusal)
        return problem_response(refusal.code, refusal.message, refusal.retry_after_s)


async def _fields(request: Request) -> Fields | IssueRefusal:
    """Query and form together; a name may be in both, with one value."""
    body = await read_body(request)
    if body is None:
        return TOO_LARGE
    if body and not is_form(request):
        return IssueRefusal("bad_request", "the body is not a form")
    fields: Fields = {}
    for part in (request.scope["query_string"], body):
        pairs = form_fields(part)
        if pairs is None:
            return IssueRefusal("bad_request", "the parameters cannot be read")
        for name, value in pairs:
            if fields.setdefault(name, value) != value:
                return IssueRefusal("bad_request", "a parameter is there twice")
    return fields


def _wishes(fields: Fields) -> Wishes | IssueRefusal:
    if fields.get("service", "turn") != "turn":
        return IssueRefusal("bad_request", "service must be turn")
    text = fields.get("ttl")
    if text is None:
        return Wishes()
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return IssueRefusal("bad_request", "ttl must be a whole number of seconds")
    return Wishes(ttl=int(text))
