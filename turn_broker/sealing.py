"""Seals secrets that must be recovered: AES-256-GCM under a key derived from the operator's.

An API key that signs (HS256 access tokens, SigV4) must be known to verify, so its digest is not
enough. What is sealed is bound to a name: moved to another entry it does not open.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12
_PURPOSE = b"parley accounts: API key secrets"


class Seal:
    def __init__(self, key: str) -> None:
        """`key` has at least 128 bits of randomness; any length and alphabet."""
        derived = HKDF(SHA256(), 32, None, _PURPOSE).derive(key.encode())
        self._cipher = AESGCM(derived)

    def close(self, secret: str, name: str, nonce: bytes) -> str:
        """Sealed text for `name`; `nonce` is random and used once."""
        sealed = self._cipher.encrypt(nonce, secret.encode(), name.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, name: str) -> str | None:
        """None for what was not sealed with this key for this name."""
        try:
            octets = base64.b64decode(sealed, validate=True)
            nonce, rest = octets[:NONCE_BYTES], octets[NONCE_BYTES:]
            return self._cipher.decrypt(nonce, rest, name.encode()).decode()
        except (binascii.Error, ValueError, InvalidTag):
            return None
