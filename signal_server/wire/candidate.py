"""ICE candidates as they travel: RTCIceCandidateInit, its ufrag, and end-of-candidates.

Reads only what the candidate buffer needs. It does not know descriptions, peers or time.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_Token = Annotated[str, Meta(max_length=256)]
"""A mid or an ice-ufrag (RFC 8839 section 5.4: at most 256 characters)."""


class CandidateInit(msgspec.Struct, frozen=True, omit_defaults=False, gc=False):
    """W3C RTCIceCandidateInit; member names are the W3C's."""

    candidate: str | None = None
    sdpMid: _Token | None = None  # noqa: N815
    sdpMLineIndex: Annotated[int, Meta(ge=0, le=65535)] | None = None  # noqa: N815
    usernameFragment: _Token | None = None  # noqa: N815

    @property
    def is_end(self) -> bool:
        """End-of-candidates: null, {} and "" all mean it (webrtc-pc, addIceCandidate)."""
        return not self.candidate

    @property
    def ufrag(self) -> str | None:
        """ICE username fragment named by the member, else by the candidate line's extension.

        Libraries that drop the member (simple-peer, GStreamer) still leave it in the line.
        """
        if self.usernameFragment:
            return self.usernameFragment
        line = self.candidate
        if not line:
            return None
        at = line.find(" ufrag ")
        if at < 0:
            return None
        rest = line[at + 7 :].split(None, 1)
        return rest[0] if rest else None


END_OF_CANDIDATES = CandidateInit(candidate="")
