"""HTTP that takes back, looks up and steers: tokens, identities, TURN nodes, TURN secrets.

Tokens and identities are those of the account that asks; nodes and secrets are the operator's. It
does not know how anything is done, nor who is who.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turn_broker.accounts.access_token import MAX_NAME_CHARS
from turn_broker.administrators import Administrator, Administrators
from turn_broker.answer import json_answer
from turn_broker.asker import IssueRefusal
from turn_broker.body import MAX_BODY_BYTES, read_body
from turn_broker.credentials import parse_username
from turn_broker.dialects.asking import AddressOf, peer_address
from turn_broker.fleet.contract import Fleet, FleetUnavailable
from turn_broker.fleet.control_answers import (
    DrainAnswer,
    IdentityRevoked,
    RevokeIdentity,
    Rotate,
    SecretsAnswer,
    nodes_answer,
    token_answer,
    token_revoked,
    usage_answer,
)
from turn_broker.fleet.messages import DEFAULT_RING, SKEW_S, Revocation, TokenRecord
from turn_broker.fleet.rotation import Rotation, RotationRefusal
from turn_broker.issuer import Issuer
from turn_broker.problem import ProblemCode, problem_response

RETRY_S = 5.0
"""What a client is told when the fleet cannot be reached."""

Body = TypeVar("Body", RevokeIdentity, Rotate)


class _Refused(Exception):  # noqa: N818 - carries a value out of an endpoint
    def __init__(self, refusal: IssueRefusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def _refused(code: ProblemCode, message: str) -> _Refused:
    return _Refused(IssueRefusal(code, message))


Endpoint = Callable[[Request, Administrator], Awaitable[Response]]


class ControlApi:
    def __init__(
        self,
        issuer: Issuer,
        fleet: Fleet,
        rotation: Rotation,
        administrators: Administrators,
        *,
        address_of: AddressOf = peer_address,
    ) -> None:
        self._issuer = issuer
        self._broker = issuer.broker
        self._fleet = fleet
        self._rotation = rotation
        self._administrators = administrators
        self._address_of = address_of

    def routes(self) -> list[Route]:
        asked, operated = self._guarded, self._operated
        return [
            Route("/v1/tokens/{id}", asked(self._token), methods=["GET"]),
            Route("/v1/tokens/{id}", asked(self._revoke_token), methods=["DELETE"]),
            Route(
                "/v1/identities/{id:path}/revoke", asked(self._revoke_identity), methods=["POST"]
            ),
            Route("/v1/identities/{id:path}/usage", asked(self._usage)),
            Route("/v1/turn-nodes", operated(self._nodes)),
            Route("/v1/turn-nodes/{id}/drain", operated(self._drain), methods=["POST"]),
            Route("/v1/turn-nodes/{id}/undrain", operated(self._undrain), methods=["POST"]),
            Route("/v1/turn-secrets", operated(self._secrets)),
            Route("/v1/turn-secrets/rotate", operated(self._rotate), methods=["POST"]),
        ]

    # Who asks

    def _guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            try:
                return await endpoint(request, self._caller(request))
            except _Refused as no:
                refusal = no.refusal
            except FleetUnavailable as flaw:
                refusal = IssueRefusal("unavailable", str(flaw), RETRY_S)
            self._issuer.count_refusal(refusal)
            return problem_response(refusal.code, refusal.message, refusal.retry_after_s)

        return checked

    def _operated(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        @wraps(endpoint)
        async def checked(request: Request, caller: Administrator) -> Response:
            if not caller.is_operator:
                raise _refused("forbidden", "TURN nodes and secrets are the operator's")
            return await endpoint(request, caller)

        return self._guarded(checked)

    def _caller(self, request: Request) -> Administrator:
        header, named = request.headers.get("authorization"), request.query_params.get("account")
        found = self._administrators.identify(header, self._address_of(request), named)
        if isinstance(found, IssueRefusal):
            raise _Refused(found)
        if found.rooms is not None:
            raise _refused("forbidden", "the access token is for some rooms only")
        return found

    # Tokens

    async def _token(self, request: Request, caller: Administrator) -> Response:
        record = await self._record(request, caller)
        usage = await self._fleet.usage("token", record.id)
        is_revoked = self._fleet.is_revoked(record.id)
        return json_answer(token_answer(record, usage, is_revoked=is_revoked))

    async def _revoke_token(self, request: Request, caller: Administrator) -> Response:
        record = await self._record(request, caller)
        cut = await self._fleet.revoke(Revocation.of_token(record))
        return json_answer(token_revoked(record.id, cut))

    async def _record(self, request: Request, caller: Administrator) -> TokenRecord:
        """The token in the path; another account's is as unknown as one that never was."""
        name = str(request.path_params["id"])
        record = await self._fleet.token(name) if parse_username(f"1:{name}") else None
        if record is None or not (caller.reaches_all or record.account == caller.account):
            raise _refused("not_found", "no such token, or it has expired")
        return record

    # Identities

    async def _revoke_identity(self, request: Request, caller: Administrator) -> Response:
        identity, digest = self._identity(request, caller)
        body = await _decoded(request, RevokeIdentity)
        longest_s = self._broker.policy.max_ttl_s + SKEW_S
        until = int(self._issuer.clock()) + max(body.for_s or 0, longest_s)
        cut = await self._fleet.revoke(Revocation(scope="identity", name=digest, until=until))
        return json_answer(IdentityRevoked(identity, until, cut.relays, cut.nodes, cut.silent))

    async def _usage(self, request: Request, caller: Administrator) -> Response:
        _, digest = self._identity(request, caller)
        return json_answer(usage_answer(await self._fleet.usage("identity", digest)))

    def _identity(self, request: Request, caller: Administrator) -> tuple[str, str]:
        """The name in the path, and the digest that stands for it."""
        identity = str(request.path_params["id"])
        if not 1 <= len(identity) <= MAX_NAME_CHARS:
            raise _refused("bad_request", f"an identity has 1 to {MAX_NAME_CHARS} characters")
        return identity, self._broker.identity_digest(caller.account, identity)

    # Nodes

    async def _nodes(self, request: Request, caller: Administrator) -> Response:
        reports = {report.node: report for report in await self._fleet.reports()}
        draining = await self._fleet.draining()
        return json_answer(nodes_answer(self._broker.nodes.statuses(), reports, draining))

    async def _drain(self, request: Request, caller: Administrator) -> Response:
        return await self._set_draining(request, True)

    async def _undrain(self, request: Request, caller: Administrator) -> Response:
        return await self._set_draining(request, False)

    async def _set_draining(self, request: Request, on: bool) -> Response:
        node = str(request.path_params["id"])
        reports = await self._fleet.reports()
        live = {report.node: report.live for report in reports}
        if node not in live and node not in {known.id for known in self._broker.nodes.nodes}:
            raise _refused("not_found", "no such TURN node")
        await self._fleet.drain(node, on)
        others = {report.node for report in reports if report.is_draining} - {node}
        self._broker.nodes.set_draining(others | await self._fleet.draining())
        return json_answer(DrainAnswer(node, on, live.get(node)))

    # Secrets

    async def _secrets(self, request: Request, caller: Administrator) -> Response:
        return json_answer(SecretsAnswer(await self._rotation.status()))

    async def _rotate(self, request: Request, caller: Administrator) -> Response:
        body = await _decoded(request, Rotate)
        if body.account is not None and self._issuer.accounts.by_sid(body.account) is None:
            raise _refused("not_found", "no such account")
        ring = body.account or DEFAULT_RING
        status = await self._rotation.rotate(ring, force=body.force)
        if isinstance(status, RotationRefusal):
            raise _refused(status.code, status.message)
        return json_answer(status, 202)


async def _decoded(request: Request, kind: type[Body]) -> Body:
    """The JSON body; one that is absent is one without members."""
    body = await read_body(request)
    if body is None:
        raise _refused(
            "payload_too_large", f"the body exceeds {MAX_BODY_BYTES} bytes, or came too slowly"
        )
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as flaw:
        raise _refused("bad_request", str(flaw)[:200]) from flaw
