"""The little of SDP that the relay reads: mids and ICE ufrags of each media section.

The server never changes SDP and does not judge it: whatever is not understood is relayed as it
came (RFC 8866, RFC 9429).
"""

from __future__ import annotations

import msgspec

MAX_SECTIONS = 256
"""m-sections read; what a browser cannot negotiate need not be remembered."""


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
    for line in sdp.splitlines():
        if line.startswith("m="):
            if len(mids) == MAX_SECTIONS:
                break
            mids.append(None)
            ufrags.append(session_ufrag)
        elif line.startswith("a=ice-ufrag:"):
            if mids:
                ufrags[-1] = line[12:].strip() or None
            else:
                session_ufrag = line[12:].strip() or None
        elif line.startswith("a=mid:") and mids:
            mids[-1] = line[6:].strip()
    return Outline(mids=tuple(mids), ufrags=tuple(ufrags))
