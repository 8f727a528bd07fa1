"""Verifies AWS Signature Version 4 in the Authorization header, for a fixed path without a query.

Pure: told the time, the headers and the body. It does not know whose the access key is, and reads
no other form of the signature (presigned URLs, chunks, several regions).
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

WINDOW_S = 15 * 60
"""How far the signer's clock may be off, as AWS has it."""
_MAX_HEADER_CHARS = 2048
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +"
    r"Credential=(?P<key>[A-Za-z0-9]{1,128})/(?P<date>[0-9]{8})/(?P<region>[a-z0-9-]{1,64})"
    r"/(?P<service>[a-z0-9-]{1,64})/aws4_request, *"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]{1,1024}), *"
    r"Signature=(?P<signature>[0-9a-f]{64})\Z"
)
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z")
_SPACES = re.compile(r" +")

Headers = Sequence[tuple[str, str]]
"""Names in lower case."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What the header says."""

    key_id: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str = field(repr=False)

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def parse(header: str | None) -> Signed | None:
    """None for an absent header and for every other form."""
    if header is None or len(header) > _MAX_HEADER_CHARS:
        return None
    match = _AUTHORIZATION.match(header)
    if match is None:
        return None
    names = tuple(match["headers"].split(";"))
    return Signed(
        match["key"], match["date"], match["region"], match["service"], names, match["signature"]
    )


def flaw(
    signed: Signed,
    secret: str,
    *,
    method: str,
    path: str,
    headers: Headers,
    body: bytes,
    now: float,
) -> str | None:
    """Why the request is not signed with `secret`, or None; in a time that does not tell.

    `path` has only characters that need no escape.
    """
    stamp = dict(headers).get("x-amz-date", "")
    signed_at = _unix(stamp)
    if signed_at is None or stamp[:8] != signed.date:
        return "x-amz-date is missing or is not the credential's date"
    if not {"host", "x-amz-date"} <= set(signed.headers) or list(signed.headers) != sorted(
        set(signed.headers)
    ):
        return "SignedHeaders must be sorted and have host and x-amz-date"
    if abs(now - signed_at) > WINDOW_S:
        return f"the signature is more than {WINDOW_S} s old or ahead"
    request = _canonical(signed, method, path, headers, body)
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{signed.scope}\n{_sha256(request.encode())}"
    expected = hmac.new(_signing_key(signed, secret), text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signed.signature):
        return "the signature does not match"
    return None


def _canonical(signed: Signed, method: str, path: str, headers: Headers, body: bytes) -> str:
    values: dict[str, list[str]] = {name: [] for name in signed.headers}
    for name, value in headers:
        if name in values:
            values[name].append(_SPACES.sub(" ", value.strip()))
    lines = [f"{name}:{','.join(values[name])}\n" for name in signed.headers]
    names = ";".join(signed.headers)
    return f"{method}\n{path}\n\n{''.join(lines)}\n{names}\n{_sha256(body)}"


def _signing_key(signed: Signed, secret: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (signed.date, signed.region, signed.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _sha256(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def _unix(stamp: str) -> float | None:
    if not _DATE.match(stamp):
        return None
    try:
        return calendar.timegm(datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").timetuple())  # noqa: DTZ007 - Z is UTC
    except ValueError:
        return None
