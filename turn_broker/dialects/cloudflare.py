"""Cloudflare Realtime TURN: `POST /v1/turn/keys/{key}/credentials/generate-ice-servers`.

Also the older `generate`, which answers one object instead of a list, and the revocation of a
username. The key is an API key's SID, the bearer token its secret. Errors have the envelope of
Cloudflare's API. `customIdentifier` labels the token's record; it is no identity.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.answer import json_answer, no_store
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.authorization import Bearer, parse_authorization
from turn_broker.body import read_body
from turn_broker.broker import Grant, Wishes
from turn_broker.dialects.asking import TOO_LARGE, AddressOf
from turn_broker.issuer import Issuer
from turn_broker.problem import STATUS_OF, ProblemCode

PATH = "/v1/turn/keys/{key}/credentials"
MAX_TTL_S = 172_800
MAX_LABEL_CHARS = 256
_CODE_OF: dict[ProblemCode, int] = {
    "unauthenticated": 10000,
    "forbidden": 10000,
    "not_found": 7003,
    "rate_limited": 971,
    "limit_exceeded": 971,
}
_BAD_REQUEST = 6003


class CloudflareRequest(msgspec.Struct):
    ttl: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    """Seconds."""
    customIdentifier: Annotated[str, Meta(max_length=MAX_LABEL_CHARS)] | None = None  # noqa: N815 - its name there


class CloudflareServer(msgspec.Struct, omit_defaults=True):
    urls: list[str]
    username: str | None = None
    credential: str | None = None


class CloudflareServers(msgspec.Struct):
    iceServers: list[CloudflareServer]  # noqa: N815 - the W3C's name


class CloudflareServerObject(msgspec.Struct):
    """What `generate` answers: the STUN and TURN URLs in one object."""

    iceServers: CloudflareServer  # noqa: N815 - the W3C's name


class CloudflareFlaw(msgspec.Struct):
    code: int
    message: str


class CloudflareError(msgspec.Struct):
    errors: list[CloudflareFlaw]
    success: bool = False
    messages: list[str] = []
    result: None = None


def routes(issuer: Issuer, address_of: AddressOf) -> list[Route]:
    dialect = CloudflareDialect(issuer, address_of)
    return [
        Route(f"{PATH}/generate-ice-servers", dialect.generate_ice_servers, methods=["POST"]),
        Route(f"{PATH}/generate", dialect.generate, methods=["POST"]),
        Route(f"{PATH}/{{username}}/revoke", dialect.revoke, methods=["POST"]),
    ]


class CloudflareDialect:
    """The credentials of one TURN key."""

    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def generate_ice_servers(self, request: Request) -> Response:
        grant = await self._grant(request)
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        servers = [
            CloudflareServer(list(server.urls), server.username, server.credential)
            for server in grant.ice_servers
        ]
        return json_answer(CloudflareServers(servers), 201)

    async def generate(self, request: Request) -> Response:
        grant = await self._grant(request)
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        urls = [url for server in grant.ice_servers for url in server.urls]
        server = CloudflareServer(urls, grant.username, grant.credential)
        return json_answer(CloudflareServerObject(server), 201)

    async def revoke(self, request: Request) -> Response:
        asker = self._asker(request)
        if isinstance(asker, IssueRefusal):
            return self._refuse(asker)
        cut = await self._issuer.revoke(asker, request.path_params["username"])
        if isinstance(cut, IssueRefusal):
            return self._refuse(cut)
        return Response(status_code=204, headers=no_store())

    async def _grant(self, request: Request) -> Grant | IssueRefusal:
        asker = self._asker(request)
        if isinstance(asker, IssueRefusal):
            return asker
        body = await read_body(request)
        if body is None:
            return TOO_LARGE
        try:
            asked = msgspec.json.decode(body or b"{}", type=CloudflareRequest)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
            return IssueRefusal("bad_request", str(flaw)[:200])
        wishes = Wishes(ttl=asked.ttl, label=asked.customIdentifier)
        return self._issuer.issue(asker, wishes, "cloudflare")

    def _asker(self, request: Request) -> Asker | IssueRefusal:
        bearer = parse_authorization(request.headers.get("authorization"))
        if not isinstance(bearer, Bearer):
            return IssueRefusal("unauthenticated", "Authentication error")
        address = self._address_of(request)
        key = request.path_params["key"]
        if not key.startswith("SK"):
            self._issuer.failed(address)
            return IssueRefusal("unauthenticated", "Authentication error")
        return self._issuer.basic(key, bearer.token, address)

    def _refuse(self, refusal: IssueRefusal) -> Response:
        self._issuer.count_refusal(refusal)
        flaw = CloudflareFlaw(_CODE_OF.get(refusal.code, _BAD_REQUEST), refusal.message)
        status = STATUS_OF[refusal.code]
        return json_answer(CloudflareError([flaw]), status, no_store(refusal.retry_after_s))
