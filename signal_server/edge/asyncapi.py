"""The AsyncAPI 3.0 document of the signaling protocol, generated from the message types.

It knows `wire` and nothing else; a test validates it against the specification's own schema.
"""

from __future__ import annotations

from typing import Any

import msgspec

from signal_server.wire import messages as m

_SCHEMAS = "#/components/schemas/{name}"


def asyncapi_document(version: str, path: str) -> dict[str, Any]:
    """One channel, one operation per direction, one message per struct."""
    received = {f"client_{_tag(kind)}": kind for kind in m.CLIENT_MESSAGES}
    sent = {f"server_{_tag(kind)}": kind for kind in m.SERVER_MESSAGES}
    kinds = {**received, **sent}
    references, schemas = msgspec.json.schema_components(kinds.values(), ref_template=_SCHEMAS)
    channel = {"$ref": "#/channels/signal"}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Parley signaling",
            "version": version,
            "license": {"name": "Apache-2.0"},
            "description": "WebSocket text frames, one JSON object each; docs/protocol.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "signal": {
                "address": path,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in kinds},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            "fromClient": _operation("receive", channel, received),
            "toClient": _operation("send", channel, sent),
        },
        "components": {
            "messages": {
                name: {"name": _tag(kind), "summary": _summary(kind), "payload": reference}
                for (name, kind), reference in zip(kinds.items(), references, strict=True)
            },
            "schemas": schemas,
        },
    }


def _operation(
    action: str, channel: dict[str, str], kinds: dict[str, type[msgspec.Struct]]
) -> dict[str, Any]:
    messages = [{"$ref": f"#/channels/signal/messages/{name}"} for name in kinds]
    return {"action": action, "channel": channel, "messages": messages}


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _summary(kind: type[msgspec.Struct]) -> str:
    """First sentence of the struct's own text, where it has one."""
    text = kind.__dict__.get("__doc__") or ""
    return " ".join(text.split(".")[0].split()) or _tag(kind)
