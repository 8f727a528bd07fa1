"""Session descriptions (SDP) as server peers take and give them: bounded, and without addresses
that the server must not knock at. Pure; it does not know connections.
"""

from __future__ import annotations

import ipaddress
import re

MAX_MEDIA = 4
"""Sections of an offer, each of which may take a transport and its sockets: a probe's has three."""
MAX_LINES = 1000
"""A browser's has below 400; what reads them looks for each format in all of the others."""
MAX_CANDIDATES = 32
"""What comes on top is left out: each one is knocked at from every address of the server."""
_CANDIDATE = "a=candidate:"
_END = "a=end-of-candidates"
_ADDRESS_FIELD = 4
"""Of a candidate (RFC 8839, 5.1)."""
_WITH_IPV4_INSIDE = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/32", "2002::/16")))
"""Well-known and local-use NAT64 prefixes (RFC 6052, RFC 8215) and 6to4 (RFC 3056): behind them may
be any IPv4 address."""
_VIDEO_FORMAT = re.compile(r"^a=rtpmap:(\d+) (?:VP8|H264|VP9|AV1)/90000", re.MULTILINE)


def flaw_of(offer: str) -> str | None:
    """Why an offer is more than a probe's would be; None when it is not."""
    lines = offer.splitlines()
    if len(lines) > MAX_LINES:
        return f"an offer has at most {MAX_LINES} lines"
    if sum(line.startswith("m=") for line in lines) > MAX_MEDIA:
        return f"an offer has at most {MAX_MEDIA} media sections"
    return None


def with_few_candidates(offer: str) -> str:
    """The offer with the first `MAX_CANDIDATES`."""
    kept, count = [], 0
    for line in offer.splitlines(keepends=True):
        count += line.startswith(_CANDIDATE)
        if count <= MAX_CANDIDATES or not line.startswith(_CANDIDATE):
            kept.append(line)
    return "".join(kept)


def without_private(offer: str) -> str:
    """The offer without candidates that are no global IP address (RFC 6890)."""
    return "".join(line for line in offer.splitlines(keepends=True) if not _is_private(line))


def without_end(offer: str) -> str:
    """The offer as if more candidates could come."""
    lines = offer.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_END))


def names_address(offer: str) -> bool:
    """Whether a candidate has an address, not a name, as mDNS gives: the server resolves none."""
    return any(_address_of(line) is not None for line in offer.splitlines())


def _is_private(line: str) -> bool:
    if not line.startswith(_CANDIDATE):
        return False
    address = _address_of(line)
    if address is None:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _WITH_IPV4_INSIDE):
            return True
        address = address.ipv4_mapped or address
    return not address.is_global or address.is_multicast


def _address_of(line: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Of a candidate; None of other lines, and where a name or nothing stands in its place."""
    if not line.startswith(_CANDIDATE):
        return None
    fields = line.removeprefix(_CANDIDATE).split()
    try:
        return ipaddress.ip_address(fields[_ADDRESS_FIELD])
    except (ValueError, IndexError):
        return None


def with_start_bitrate(answer: str, kbps: int) -> str:
    """The answer with `x-google-start-bitrate` on every video format, for libwebrtc senders.

    aiortc reports bandwidth by REMB only, from which a sender's estimate hardly grows: without this
    every link looks like one of 500 kbit/s.
    """
    for payload_type in _VIDEO_FORMAT.findall(answer):
        parameter = f"x-google-start-bitrate={kbps}"
        line = re.compile(rf"^(a=fmtp:{payload_type} [^\r\n]*)", re.MULTILINE)
        if line.search(answer):
            answer = line.sub(rf"\1;{parameter}", answer)
        else:
            rtpmap = re.compile(rf"^(a=rtpmap:{payload_type} [^\r\n]*)(\r?\n)", re.MULTILINE)
            answer = rtpmap.sub(rf"\1\2a=fmtp:{payload_type} {parameter}\2", answer)
    return answer
