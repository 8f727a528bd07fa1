"""What every dialect reads of a request in the same way: address, form, query, wishes of a name.

It does not know any dialect's words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

from starlette.requests import Request

from turn_broker.asker import Asker, IssueRefusal
from turn_broker.body import MAX_BODY_BYTES

MAX_FIELDS = 16
MAX_SUBJECT_CHARS = 256
FORM = "application/x-www-form-urlencoded"
Fields = dict[str, str]
AddressOf = Callable[[Request], str]

TOO_LARGE = IssueRefusal(
    "payload_too_large", f"the body exceeds {MAX_BODY_BYTES} bytes, or came too slowly"
)


def peer_address(request: Request) -> str:
    """Where the request came from, as the HTTP server says it; "" where it does not."""
    client: tuple[str, int] | None = request.scope.get("client")
    return client[0] if client else ""


def is_form(request: Request) -> bool:
    """Also where nothing says what the body is."""
    content_type = request.headers.get("content-type", FORM).partition(";")[0]
    return content_type.strip().lower() == FORM


def form_fields(body: bytes | str) -> list[tuple[str, str]] | None:
    """The fields of a form or a query; None for what is none, is not UTF-8 or has too many."""
    if not body:
        return []
    try:
        return parse_qsl(
            body.decode("utf-8") if isinstance(body, bytes) else body,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        return None


def on_behalf_of(asker: Asker, subject: str | None) -> Asker | IssueRefusal:
    """An account asks for an identity of its own; a bearer of an access token has one already."""
    if not subject or asker.grants is not None:
        return asker
    if len(subject) > MAX_SUBJECT_CHARS:
        return IssueRefusal("bad_request", f"a name has at most {MAX_SUBJECT_CHARS} characters")
    return replace(asker, subject=subject)
