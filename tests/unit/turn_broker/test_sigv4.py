"""SigV4 against botocore's signer, and every way a signed request can be wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from turn_broker import sigv4

KEY_ID, SECRET, PATH = "SK" + "1" * 32, "one-0123456789abcdef0123456789abcdef", "/v1/thing"
BODY = b'{"ChannelARN": "x"}'


def signed(body: bytes = BODY, headers: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Headers as the SDK sends them."""
    request = AWSRequest("POST", f"http://broker.test:8080{PATH}", headers or {}, body)
    SigV4Auth(Credentials(KEY_ID, SECRET), "kinesisvideo", "eu-west-1").add_auth(request)
    named = [(name.lower(), value) for name, value in request.headers.items()]
    return [("host", "broker.test:8080"), *named]


def verdict(headers: list[tuple[str, str]], **changes: Any) -> str | None:
    parsed = sigv4.parse(dict(headers).get("authorization"))
    assert parsed is not None
    assert parsed.key_id == KEY_ID
    given_: dict[str, Any] = {
        "method": "POST",
        "path": PATH,
        "headers": headers,
        "body": BODY,
        "now": datetime.now(UTC).timestamp(),
    }
    return sigv4.flaw(parsed, changes.pop("secret", SECRET), **(given_ | changes))


def test_what_botocore_signs_is_good() -> None:
    assert verdict(signed()) is None
    assert verdict(signed(BODY, {"Content-Type": "application/json", "X-A": "  a   b "})) is None


@given(st.binary(max_size=200))
def test_any_body_is_covered(body: bytes) -> None:
    headers = signed(body)

    assert verdict(headers, body=body) is None
    assert verdict(headers, body=body + b" ") is not None


@pytest.mark.parametrize(
    "changes",
    [{"secret": "other"}, {"method": "GET"}, {"path": "/v1/other"}, {"body": b""}],
)
def test_anything_else_than_what_was_signed_is_refused(changes: dict[str, Any]) -> None:
    assert verdict(signed(), **changes) == "the signature does not match"


def test_a_changed_header_is_refused() -> None:
    headers = [(name, "evil" if name == "host" else value) for name, value in signed()]

    assert verdict(headers) == "the signature does not match"
    assert verdict([("host", "evil"), *signed()]) == "the signature does not match"


@pytest.mark.parametrize("ahead_s", [-901, 901])
def test_a_clock_that_is_off_is_refused(ahead_s: int) -> None:
    now = datetime.now(UTC).timestamp()

    assert "900 s" in (verdict(signed(), now=now + ahead_s * 1.01) or "")
    assert verdict(signed(), now=now + ahead_s * 0.98) is None


@pytest.mark.parametrize(
    "date",
    ["", "now", "20270230T000000Z", "20270101T000000Z", "20261121T1500Z", "20261121t150000z"],
)
def test_bad_dates(date: str) -> None:
    headers = [(name, date if name == "x-amz-date" else value) for name, value in signed()]

    assert "x-amz-date" in (verdict(headers) or "")


@pytest.mark.parametrize("names", ["host", "x-amz-date;host", "host;host;x-amz-date", "x-amz-date"])
def test_host_and_date_must_be_signed_in_order(names: str) -> None:
    headers = signed()
    header = dict(headers)["authorization"]
    forged = header.replace("SignedHeaders=host;x-amz-date", f"SignedHeaders={names}")
    assert forged != header or names == "host;x-amz-date"
    headers = [(n, forged if n == "authorization" else v) for n, v in headers]

    assert (verdict(headers) or "").startswith("SignedHeaders")


GOOD = (
    f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20261121/eu-west-1/kinesisvideo/aws4_request, "
    f"SignedHeaders=host;x-amz-date, Signature={'a' * 64}"
)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer x",
        GOOD + "x",
        GOOD + "\n",
        GOOD.replace("aws4_request", "aws5_request"),
        GOOD.replace("host;", "Host;"),
        GOOD.replace("/eu-west-1", ""),
        GOOD.replace("eu-west-1", "x" * 5000),
        GOOD.upper(),
        f"{GOOD}, Signature={'b' * 64}",
    ],
)
def test_other_headers_are_no_signature(header: str | None) -> None:
    assert sigv4.parse(header) is None


@given(st.text(max_size=300))
def test_no_text_is_an_error(text: str) -> None:
    assert sigv4.parse(text) is None
    assert sigv4.parse(GOOD) is not None
