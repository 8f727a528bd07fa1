"""The little of SDP that the relay reads: mids and ICE ufrags of each media section.

The server never changes SDP and does not judge it: whatever is not understood is relayed as it
came (RFC 8866, RFC 9429).
"""

from __future__ import annotations

import re

import msgspec

MAX_SECTIONS = 256
"""m-sections read; what a browser cannot negotiate need not be remembered."""
MAX_TOKEN_CHARS = 256
"""Of a mid or ufrag, as in a candidate (RFC 8839 section 5.4); a longer one is not understood."""

_LINES = re.compile(r"\n(m=|a=ice-ufrag:|a=mid:)([^\n]*)")
"""A literal newline finds the lines four times faster than `^` does."""


class Outline(msgspec.Struct, frozen=True):
    """What one description says about ICE."""

    mids: tuple[str | None, ...]
    """One entry per m-section, in order; None where a=mid is missing."""
    ufrags: tuple[str | None, ...]
    """The ICE username fragment in force for each m-section."""

    @property
    def names_ice(self) -> bool:
        """False for SDP without any ufrag, such as an encrypted or made-up description."""
        return any(self.ufrags)


def outline(sdp: str) -> Outline:
    """Read mids and ufrags; a media-level ufrag overrides the session's (RFC 8839 section 5.4)."""
    session_ufrag: str | None = None
    mids: list[str | None] = []
    ufrags: list[str | None] = []
    for kind, value in _LINES.findall(f"\n{sdp}"):
        if kind == "m=":
            if len(mids) == MAX_SECTIONS:
                break
            mids.append(None)
            ufrags.append(session_ufrag)
        elif kind == "a=ice-ufrag:":
            if mids:
                ufrags[-1] = _token(value)
            else:
                session_ufrag = _token(value)
        elif mids:
            mids[-1] = _token(value)
    return Outline(mids=tuple(mids), ufrags=tuple(ufrags))


def _token(text: str) -> str | None:
    token = text.strip()
    return token if 0 < len(token) <= MAX_TOKEN_CHARS else None
