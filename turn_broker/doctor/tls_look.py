"""What a TLS port shows to anybody: its certificate, trusted or not, and the versions it agrees to.

No secret is ever sent over these connections.
"""

from __future__ import annotations

import ssl
import warnings

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from turn_broker.doctor.report import TlsObservation
from turn_broker.ice_servers import TurnUri
from turn_broker.turn.dialogue import Failure
from turn_broker.turn.wire import open_wire

MAX_NAMES = 32


async def look_at_tls(uri: TurnUri, timeout_s: float) -> TlsObservation | None:
    """None when no TLS connection comes about at all."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    wire = await open_wire(uri, timeout_s, context, None)
    if isinstance(wire, Failure):
        return None
    session = wire.tls
    certificate = session.getpeercert(binary_form=True) if session is not None else None
    version = (session.version() if session is not None else None) or ""
    await wire.close()
    old = await _old_version(uri, timeout_s)
    if certificate is None:
        return TlsObservation(version=version, old_version=old)
    return _read(certificate, version, old)


def _read(der: bytes, version: str, old: str) -> TlsObservation:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _names(certificate)
    except (ValueError, x509.DuplicateExtension):
        return TlsObservation(version=version, old_version=old)
    return TlsObservation(
        version=version,
        names=names[:MAX_NAMES],
        issuer=certificate.issuer.rfc4514_string()[:200],
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        old_version=old,
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        ).value
    except x509.ExtensionNotFound:
        return ()
    assert isinstance(found, x509.SubjectAlternativeName)
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


async def _old_version(uri: TurnUri, timeout_s: float) -> str:
    """The version below TLS 1.2 that the server agrees to, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            # Python warns of old versions; here they are the question.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    except (ValueError, ssl.SSLError):
        return ""
    wire = await open_wire(uri, timeout_s, context, None)
    if isinstance(wire, Failure):
        return ""
    version = wire.tls.version() if wire.tls is not None else None
    await wire.close()
    return version or ""
