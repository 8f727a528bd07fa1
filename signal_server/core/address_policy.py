"""Which addresses a peer may learn: filters on candidates and on the address lines of SDP.

`relay_only` lets nothing but relay candidates through and hides their related address;
`strip_private` removes what points into somebody's own network, `strip_mdns` the `.local` names of
browsers. A candidate that cannot be read is dropped. Fingerprints, ufrags and passwords are never
touched, and nothing is enforced on what the server cannot read, such as `message` or encrypted SDP.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec

from signal_server.core.reach import Reach, reach
from signal_server.wire.candidate import CandidateInit

_SHORTEST = 8
"""Fields of a candidate up to its type (RFC 8839 section 5.1)."""
_ADDRESS, _TYP, _TYPE = 4, 6, 7
_NO_V4, _NO_V6 = "0.0.0.0", "::"  # noqa: S104
_DISCARD_PORT = "9"
_CANDIDATE = "a=candidate:"
_REMOTE = "a=remote-candidates:"
_ADDRESSED = ("c=", "o=", "a=rtcp:")
"""Lines with one address in them (RFC 8866 sections 5.2 and 5.7, RFC 3605 section 2.1)."""
_KINDS = (_CANDIDATE, _REMOTE, *_ADDRESSED)
_INITIALS = frozenset("acoACO")
_ODD_BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What ends a line for `str.splitlines`, such as aiortc's."""
_LONGEST_KIND = max(map(len, _KINDS))
_TORN = "torn"
"""A line that some parsers split further (lone CR, vertical tab, U+2028), with addresses in it."""


@dataclass(slots=True)
class _Section:
    """The connection lines of one m-section, or of the session, which has no m-line."""

    m_line: int
    has_own: bool = False
    is_hidden: bool = False


class AddressPolicy:
    """One set of rules; `dropped` counts the candidates removed, by reason."""

    __slots__ = ("_mdns", "_private", "_relay", "dropped", "is_active")

    def __init__(
        self,
        *,
        relay_only: bool = False,
        strip_private: bool = False,
        strip_mdns: bool = False,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._relay = relay_only
        self._private = strip_private
        self._mdns = strip_mdns
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self.is_active = relay_only or strip_private or strip_mdns
        """False: nothing is ever changed."""

    def candidate(self, init: CandidateInit) -> CandidateInit | None:
        """The candidate as its receiver may see it; None: not at all."""
        text = init.candidate
        if not text or not self.is_active:
            return init
        kept = self._candidate_text(text)
        if kept is None:
            return None
        return init if kept == text else msgspec.structs.replace(init, candidate=kept)

    def sdp(self, text: str) -> str:
        """The description as its receiver may see it; the same object when nothing changes."""
        if not self.is_active:
            return text
        kept: list[str] = []
        section = session = _Section(-1)
        sections: list[_Section] = []
        is_tearing = _is_tearing(text)
        for line in text.split("\n"):
            kind = _kind(line, is_tearing=is_tearing) if line else None
            seen = line if kind is None else self._sdp_line(line, kind)
            if seen is None:
                continue
            if line.startswith("m="):
                section = _Section(len(kept))
                sections.append(section)
            elif kind == "c=":
                section.has_own = True
                section.is_hidden |= seen is not line
            kept.append(seen)
        for section in sections:
            # The default destination is gone, so its port may not stay (RFC 8839 section 4.2.1).
            if section.is_hidden or (session.is_hidden and not section.has_own):
                kept[section.m_line] = _discard_port(kept[section.m_line])
        changed = "\n".join(kept)
        return text if changed == text else changed

    def _sdp_line(self, line: str, kind: str) -> str | None:
        if kind == _TORN:
            return None
        body = line.rstrip("\r")
        if kind == _CANDIDATE:
            seen = self._candidate_text(body)
        elif kind in _ADDRESSED:
            seen = self._address_line(body, kind)
        else:  # RFC 8839 section 5.2: component, address and port, repeated
            hides = self._relay or any(self._hides(field) for field in body.split())
            seen = None if hides else body
        if seen is None:
            return None
        return line if seen == body else seen + line[len(body) :]

    def _address_line(self, body: str, kind: str) -> str:
        fields = body.lstrip()[len(kind) :].split()
        was = list(fields)
        for place, field in enumerate(was):
            before = was[place - 1].upper() if place else ""
            address = field.partition("/")[0]
            # Browsers write 127.0.0.1 into o=, where it says nothing (RFC 9429 section 5.2.1).
            is_idle = kind == "o=" and reach(address) is Reach.LOOPBACK
            if not is_idle and self._hides(address, is_address=before in {"IP4", "IP6"}):
                fields[place] = _NO_V6 if before == "IP6" else _NO_V4
        if fields == was:
            return body
        if kind == "a=rtcp:":
            fields[0] = _DISCARD_PORT
        return kind + " ".join(fields)

    def _candidate_text(self, text: str) -> str | None:
        """A candidate, with or without `a=`; single spaces, so that all parsers see the same."""
        fields = text.split()
        reason = self._reason(fields)
        if reason is not None:
            self.dropped[reason] += 1
            return None
        self._hide_related(fields)
        return " ".join(fields)

    def _reason(self, fields: list[str]) -> str | None:
        """Why a candidate may not pass."""
        if len(fields) < _SHORTEST or fields[_TYP] != "typ":
            return "unreadable"
        if self._relay and fields[_TYPE] != "relay":
            return "relay_only"
        where = reach(fields[_ADDRESS])
        if self._private and where not in {Reach.PUBLIC, Reach.MDNS}:
            return "private_address"
        return "mdns" if self._mdns and where is Reach.MDNS else None

    def _hide_related(self, fields: list[str]) -> None:
        """Neutralise raddr and rport, and any address among the extensions."""
        hidden = self._relay
        for at in range(_SHORTEST, len(fields)):
            name = fields[at - 1].lower()
            if name != "ufrag" and self._hides(fields[at], is_address=name == "raddr"):
                fields[at] = _NO_V4
                hidden = True
        if not hidden:
            return
        for at in range(_SHORTEST, len(fields)):
            if fields[at - 1].lower() == "rport":
                fields[at] = "0"

    def _hides(self, text: str, *, is_address: bool = False) -> bool:
        """Whether a field may not be seen; `is_address` when it stands where an address belongs."""
        where = reach(text)
        if where is Reach.NOWHERE:
            return False
        if where is Reach.MDNS:
            return self._mdns or self._relay
        if where is Reach.NAME:
            return is_address and (self._relay or self._private)
        return self._relay or (self._private and where is not Reach.PUBLIC)


def _is_tearing(text: str) -> bool:
    """Whether the text has line breaks of which not every parser knows."""
    if text.count("\r") != text.count("\r\n"):
        return True
    return any(separator in text for separator in _ODD_BREAKS)


def _kind(line: str, *, is_tearing: bool) -> str | None:
    """Which of the lines with addresses this is; spaces and capitals do not disguise it."""
    if is_tearing:
        parts = line.splitlines()
        if len(parts) > 1:
            is_addressed = any(_kind(part, is_tearing=False) for part in parts)
            return _TORN if is_addressed else None
    first = line[:1]
    if first not in _INITIALS and not first.isspace():
        return None
    head = line.lstrip()[:_LONGEST_KIND].lower()
    return next((kind for kind in _KINDS if head.startswith(kind)), None)


def _discard_port(m_line: str) -> str:
    """Port 0 stays: it means rejected or bundled (RFC 9429 section 5.2.1)."""
    body = m_line.rstrip("\r")
    media, _, rest = body.partition(" ")
    port, space, rest = rest.partition(" ")
    if not port.partition("/")[0].strip("0"):
        return m_line
    return f"{media} {_DISCARD_PORT}{space}{rest}{m_line[len(body) :]}"
