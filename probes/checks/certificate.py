"""When the certificates end that a server sent. It does not know whether anybody trusts them."""

from __future__ import annotations

import ssl
from typing import Any

from cryptography import x509

FIGURE = "cert_expires_at"


def expiry(tls: ssl.SSLObject | None) -> dict[str, float]:
    """Figure of a result: Unix seconds of the first end in the peer's chain; none without TLS."""
    ends = [_end_of(one) for one in _chain(tls)] if tls is not None else []
    return {FIGURE: min(ends)} if ends else {}


def _chain(tls: ssl.SSLObject) -> list[bytes]:
    """Every certificate that was sent, in DER."""
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    # Before Python 3.13 there is no public way to more than the first one.
    inner: Any = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain()]


def _end_of(certificate: bytes) -> float:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()
