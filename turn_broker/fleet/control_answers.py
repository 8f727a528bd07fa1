"""What the control endpoints take and answer, and their OpenAPI paths.

No answer has a secret in it. It does not know who may ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from turn_broker.fleet.messages import Cut, NodeReport, Terms, TokenRecord, Usage
from turn_broker.fleet.rotation import RingStatus
from turn_broker.nodes.health import NodeStatus, Verdict
from turn_broker.problem import MEDIA_TYPE, Problem

MAX_REVOKED_S = 31 * 86_400


class RevokeIdentity(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/identities/{id}/revoke`."""

    for_s: Annotated[int, Meta(ge=1, le=MAX_REVOKED_S)] | None = None
    """Seconds; never shorter than the longest credential lives, which is also the default."""


class Rotate(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/turn-secrets/rotate`."""

    account: str | None = None
    """SID of the account whose ring is meant; it gets one of its own. None: the default ring."""
    force: bool = False
    """Do not wait for nodes without a live agent: they refuse clients until told otherwise."""


class UsageAnswer(Struct, frozen=True):
    """Payload bytes, as far as they are remembered (31 days after the last)."""

    sent_bytes: int
    """From the client."""
    received_bytes: int
    bytes: int
    allocations: int
    live: int
    """Allocations open now."""


class TokenAnswer(Struct, frozen=True):
    id: str
    account_sid: str
    issued_at: int
    expires_at: int
    dialect: str
    label: str | None
    terms: Terms
    revoked: bool
    usage: UsageAnswer


class TokenRevoked(Struct, frozen=True):
    id: str
    relays_cut: int
    nodes: tuple[str, ...]
    """Nodes that answered in time."""
    silent: tuple[str, ...]
    """Nodes with a live agent that did not: they cut when they hear of it."""


class IdentityRevoked(Struct, frozen=True):
    identity: str
    until: int
    """Unix seconds; until then it gets no credential either."""
    relays_cut: int
    nodes: tuple[str, ...]
    silent: tuple[str, ...]


class NodeUrl(Struct, frozen=True):
    url: str
    listed: bool
    """Handed out to clients."""
    verdict: Verdict
    reason: str


class NodeAgent(Struct, frozen=True):
    """The last report of the agent beside the node."""

    software: str
    at: int
    secrets_version: int
    sessions: int
    """Allocations open now."""
    cut: int
    """Allocations it has ended since it started; likewise the bytes."""
    sent_bytes: int
    received_bytes: int


class NodeAnswer(Struct, frozen=True):
    id: str
    region: str | None
    """None: an agent reports this node, but the configuration does not know it."""
    weight: int
    up: bool
    draining: bool
    urls: tuple[NodeUrl, ...]
    agent: NodeAgent | None


class NodesAnswer(Struct, frozen=True):
    nodes: tuple[NodeAnswer, ...]


class DrainAnswer(Struct, frozen=True):
    id: str
    draining: bool
    sessions: int | None
    """Allocations still open; None without an agent."""


class SecretsAnswer(Struct, frozen=True):
    rings: tuple[RingStatus, ...]


CONTROL_TYPES: tuple[type, ...] = (
    RevokeIdentity,
    Rotate,
    UsageAnswer,
    TokenAnswer,
    TokenRevoked,
    IdentityRevoked,
    NodesAnswer,
    DrainAnswer,
    SecretsAnswer,
    RingStatus,
)


def usage_answer(usage: Usage) -> UsageAnswer:
    return UsageAnswer(
        usage.sent_bytes, usage.received_bytes, usage.bytes, usage.allocations, usage.live
    )


def token_answer(record: TokenRecord, usage: Usage, *, is_revoked: bool) -> TokenAnswer:
    return TokenAnswer(
        id=record.id,
        account_sid=record.account,
        issued_at=record.issued_at,
        expires_at=record.expires_at,
        dialect=record.dialect,
        label=record.label,
        terms=record.terms,
        revoked=is_revoked,
        usage=usage_answer(usage),
    )


def token_revoked(name: str, cut: Cut) -> TokenRevoked:
    return TokenRevoked(name, cut.relays, cut.nodes, cut.silent)


def nodes_answer(
    statuses: tuple[NodeStatus, ...],
    reports: Mapping[str, NodeReport],
    draining: frozenset[str],
) -> NodesAnswer:
    """Configured nodes first, then those that only report."""
    known = tuple(
        NodeAnswer(
            id=status.node.id,
            region=status.node.region,
            weight=status.node.weight,
            up=status.is_up,
            draining=status.is_draining or status.node.id in draining,
            urls=tuple(
                NodeUrl(str(health.url), health.is_listed, *health.told) for health in status.urls
            ),
            agent=_agent(reports.get(status.node.id)),
        )
        for status in statuses
    )
    configured = {node.id for node in known}
    strangers = tuple(
        NodeAnswer(
            id=report.node,
            region=None,
            weight=0,
            up=True,
            draining=report.is_draining,
            urls=(),
            agent=_agent(report),
        )
        for name, report in sorted(reports.items())
        if name not in configured
    )
    return NodesAnswer(known + strangers)


def _agent(report: NodeReport | None) -> NodeAgent | None:
    if report is None:
        return None
    return NodeAgent(
        software=report.software,
        at=report.at,
        secrets_version=report.secrets_version,
        sessions=report.live,
        cut=report.cut,
        sent_bytes=report.sent_bytes,
        received_bytes=report.received_bytes,
    )


# OpenAPI ----------------------------------------------------------------------------------------


def control_paths() -> dict[str, Any]:
    """`paths` of OpenAPI 3.1; the schemas are those of `CONTROL_TYPES`, and Problem."""
    token, identity, node = _in_path("id", "token"), _in_path("id", "identity"), _in_path("id", "")
    account = {"name": "account", "in": "query", "required": False, "schema": {"type": "string"}}
    return {
        "/v1/tokens/{id}": {
            "parameters": [token],
            "get": _operation("getToken", "A token and what it used", TokenAnswer),
            "delete": _operation("revokeToken", "Revoke it and cut its relays", TokenRevoked),
        },
        "/v1/identities/{id}/revoke": {
            "parameters": [identity, account],
            "post": _operation(
                "revokeIdentity",
                "Revoke all its tokens, cut its relays, and give it no others for a while",
                IdentityRevoked,
                RevokeIdentity,
            ),
        },
        "/v1/identities/{id}/usage": {
            "parameters": [identity, account],
            "get": _operation("getIdentityUsage", "What all its tokens used", UsageAnswer),
        },
        "/v1/turn-nodes": {
            "get": _operation("listTurnNodes", "Nodes, their health and agents", NodesAnswer),
        },
        **{
            f"/v1/turn-nodes/{{id}}/{word}": {
                "parameters": [node],
                "post": _operation(f"{word}TurnNode", summary, DrainAnswer),
            }
            for word, summary in (
                ("drain", "Take no new allocations; running ones go on"),
                ("undrain", "Take new allocations again"),
            )
        },
        "/v1/turn-secrets": {
            "get": _operation("getTurnSecrets", "How far rotations are; no secret", SecretsAnswer),
        },
        "/v1/turn-secrets/rotate": {
            "post": _operation("rotateTurnSecret", "Begin a rotation", RingStatus, Rotate, "202"),
        },
    }


def _operation(
    name: str, summary: str, answer: type, body: type | None = None, status: str = "200"
) -> dict[str, Any]:
    refused = {"description": "Refused", "content": _content(Problem, MEDIA_TYPE)}
    codes = ["401", "403", "404", "409", "413", "429", "503"] + (["400"] if body else [])
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": ["turn control"],
        "summary": summary,
        "security": [{"basic": []}, {"accessToken": []}],
        "responses": {
            status: {"description": "Done", "content": _content(answer)},
            **dict.fromkeys(sorted(codes), refused),
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": False, "content": _content(body)}
    return operation


def _in_path(name: str, what: str) -> dict[str, Any]:
    described = {"description": f"The {what}'s name."} if what == "identity" else {}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} | described


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
