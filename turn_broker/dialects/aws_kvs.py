"""Amazon Kinesis Video Streams signaling: `POST /v1/get-ice-server-config`, signed with SigV4.

The access key id is an API key's SID, the secret access key its secret, which must be one that can
sign. ClientId, or else Username, names an identity of the account. Errors have AWS' form. It does
not know channels: the ChannelARN only labels the token's record.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker import sigv4
from turn_broker.answer import json_answer, no_store
from turn_broker.asker import Asker, IssueRefusal
from turn_broker.body import read_body
from turn_broker.broker import Wishes
from turn_broker.dialects.asking import MAX_SUBJECT_CHARS, TOO_LARGE, AddressOf, on_behalf_of
from turn_broker.issuer import Issuer
from turn_broker.problem import STATUS_OF, ProblemCode

PATH = "/v1/get-ice-server-config"
TTL_S = 300
"""As AWS has it, where the policy allows it."""
_UNKNOWN_SECRET = "x" * 64
_TYPE_OF: dict[ProblemCode, str] = {
    "unauthenticated": "InvalidSignatureException",
    "forbidden": "NotAuthorizedException",
    "bad_request": "InvalidArgumentException",
    "payload_too_large": "InvalidArgumentException",
    "rate_limited": "ClientLimitExceededException",
    "limit_exceeded": "ClientLimitExceededException",
    "unavailable": "ServiceUnavailableException",
}
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_CHARS)]


class GetIceServerConfig(msgspec.Struct):
    ChannelARN: Annotated[str, Meta(min_length=1, max_length=1024)]
    ClientId: _Name | None = None
    Service: Literal["TURN"] = "TURN"
    Username: _Name | None = None


class AwsIceServer(msgspec.Struct):
    Uris: tuple[str, ...]
    Username: str
    Password: str
    Ttl: int
    """Seconds."""


class AwsIceServers(msgspec.Struct):
    IceServerList: list[AwsIceServer]


class AwsError(msgspec.Struct):
    """Its type is in the header x-amzn-ErrorType."""

    message: str


def routes(issuer: Issuer, address_of: AddressOf) -> list[Route]:
    dialect = AwsKvsDialect(issuer, address_of)
    return [Route(PATH, dialect.answer, methods=["POST"])]


class AwsKvsDialect:
    def __init__(self, issuer: Issuer, address_of: AddressOf) -> None:
        self._issuer = issuer
        self._address_of = address_of

    async def answer(self, request: Request) -> Response:
        body = await read_body(request)
        if body is None:
            return self._refuse(TOO_LARGE)
        asker = self._asker(request, body)
        if isinstance(asker, IssueRefusal):
            return self._refuse(asker)
        try:
            asked = msgspec.json.decode(body, type=GetIceServerConfig)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
            return self._refuse(IssueRefusal("bad_request", str(flaw)[:200]))
        named = on_behalf_of(asker, asked.ClientId or asked.Username)
        if isinstance(named, IssueRefusal):
            return self._refuse(named)
        wishes = Wishes(ttl=self._ttl(asker), label=asked.ChannelARN)
        grant = self._issuer.issue(named, wishes, "aws_kvs")
        if isinstance(grant, IssueRefusal):
            return self._refuse(grant)
        server = AwsIceServer(grant.turn_urls, grant.username, grant.credential, grant.ttl)
        return json_answer(AwsIceServers([server]))

    def _asker(self, request: Request, body: bytes) -> Asker | IssueRefusal:
        address = self._address_of(request)
        shut_out = self._issuer.shut_out(address)
        if shut_out is not None:
            return shut_out
        signed = sigv4.parse(request.headers.get("authorization"))
        if signed is None or request.scope["query_string"]:
            return IssueRefusal("unauthenticated", "sign the request with AWS Signature Version 4")
        owned = self._issuer.accounts.key(signed.key_id)
        secret = owned[1].signing_secret if owned else None
        # An unknown key costs the same, so time does not tell which ones exist.
        flaw = sigv4.flaw(
            signed,
            secret or _UNKNOWN_SECRET,
            method="POST",
            path=PATH,
            headers=[(name, value) for name, value in request.headers.items()],
            body=body,
            now=self._issuer.clock(),
        )
        if flaw is None and owned is not None and secret is not None:
            return Asker(owned[0])
        self._issuer.failed(address)
        return IssueRefusal("unauthenticated", flaw or "the signature does not match")

    def _ttl(self, asker: Asker) -> int:
        policy = self._issuer.broker.policy
        own = asker.account.limits.max_ttl_s or policy.max_ttl_s
        return max(policy.min_ttl_s, min(TTL_S, policy.max_ttl_s, own))

    def _refuse(self, refusal: IssueRefusal) -> Response:
        self._issuer.count_refusal(refusal)
        status = STATUS_OF[refusal.code]
        headers = no_store(refusal.retry_after_s)
        headers["x-amzn-ErrorType"] = _TYPE_OF[refusal.code]
        if status == 401:
            status = STATUS_OF["forbidden"]  # AWS answers 403 to a wrong signature.
        return json_answer(AwsError(refusal.message), status, headers)
