"""What peers may learn of each other's addresses: candidates, SDP, and hostile text of both."""

from __future__ import annotations

import ipaddress
import re
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_server.core.address_policy import AddressPolicy
from signal_server.core.reach import Reach, reach
from signal_server.wire.candidate import END_OF_CANDIDATES, CandidateInit

RELAY = AddressPolicy(relay_only=True)
PRIVATE = AddressPolicy(strip_private=True)
MDNS = AddressPolicy(strip_mdns=True)
ALL = AddressPolicy(relay_only=True, strip_private=True, strip_mdns=True)
POLICIES = [RELAY, PRIVATE, MDNS, ALL, AddressPolicy(strip_private=True, strip_mdns=True)]
UUID = "6a2bb2c0-2d6d-4c0f-9b7d-6f0d8f3a1c2e.local"


def line(address: str, kind: str = "host", rest: str = "") -> str:
    return f"candidate:842163049 1 udp 1677729535 {address} 46154 typ {kind}{rest}"


def seen(policy: AddressPolicy, text: str) -> str | None:
    kept = policy.candidate(CandidateInit(candidate=text, sdpMid="0", usernameFragment="u"))
    assert kept is None or (kept.sdpMid, kept.usernameFragment) == ("0", "u")
    return None if kept is None else kept.candidate


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("203.0.113.7", Reach.PUBLIC),
        ("2001:db8::1", Reach.PUBLIC),
        ("172.15.0.1", Reach.PUBLIC),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.31.255.255", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("169.254.1.1", Reach.PRIVATE),
        ("fd12::1", Reach.PRIVATE),
        ("fe80::1", Reach.PRIVATE),
        ("fe80::1%eth0", Reach.PRIVATE),
        ("fec0::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("::FFFF:C0A8:0001", Reach.PRIVATE),
        ("64:ff9b::192.168.1.1", Reach.PRIVATE),
        ("2002:0a00:0001::1", Reach.PRIVATE),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", Reach.PRIVATE),
        ("::ffff:203.0.113.7", Reach.PUBLIC),
        ("127.0.0.53", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("0.0.0.0", Reach.NOWHERE),
        ("0.1.2.3", Reach.NOWHERE),
        ("::", Reach.NOWHERE),
        (UUID, Reach.MDNS),
        ("HOST.LOCAL.", Reach.MDNS),
        ("x" * 100 + ".local", Reach.MDNS),
        ("x" * 100_000, Reach.NAME),
        ("turn.example.org", Reach.NAME),
        ("010.0.0.1", Reach.NAME),
        ("2130706433", Reach.NAME),
        ("", Reach.NAME),
    ],
)
def test_where_an_address_leads(address: str, where: Reach) -> None:
    assert reach(address) is where


@pytest.mark.parametrize("policy", POLICIES)
def test_end_of_candidates_always_passes(policy: AddressPolicy) -> None:
    for end in (END_OF_CANDIDATES, CandidateInit(), CandidateInit(sdpMid="1")):
        assert policy.candidate(end) is end


def test_without_rules_nothing_is_looked_at() -> None:
    policy = AddressPolicy()
    assert not policy.is_active
    odd = CandidateInit(candidate="no  candidate 10.0.0.1")
    assert policy.candidate(odd) is odd
    text = "a=candidate:nonsense\r\nc=IN IP4 10.0.0.1"
    assert policy.sdp(text) is text


@pytest.mark.parametrize("policy", POLICIES)
def test_a_neutral_relay_candidate_passes_as_the_same_object(policy: AddressPolicy) -> None:
    ext = " raddr 0.0.0.0 rport 0 generation 0 ufrag EsAw network-cost 999"
    init = CandidateInit(candidate=line("203.0.113.7", "relay", ext))
    assert policy.candidate(init) is init


@pytest.mark.parametrize(
    ("policy", "text", "reason"),
    [
        (RELAY, line("203.0.113.7"), "relay_only"),
        (RELAY, line("203.0.113.7", "srflx"), "relay_only"),
        (RELAY, line("203.0.113.7", "prflx"), "relay_only"),
        (RELAY, line("203.0.113.7", "RELAY"), "relay_only"),
        (RELAY, line("203.0.113.7", "host", " typ relay"), "relay_only"),
        (RELAY, "candidate:1 1 udp 1  203.0.113.7 9 typ typ relay", "relay_only"),
        (RELAY, "candidate: 1 1 udp 1 203.0.113.7 9 typ relay", "unreadable"),
        (PRIVATE, line("10.0.0.1"), "private_address"),
        (PRIVATE, line("10.0.0.1", "relay"), "private_address"),
        (PRIVATE, line("::ffff:10.0.0.1"), "private_address"),
        (PRIVATE, line("0.0.0.0"), "private_address"),
        (PRIVATE, line("127.0.0.1"), "private_address"),
        (PRIVATE, line("fe80::1%en0"), "private_address"),
        (PRIVATE, line("router.lan"), "private_address"),
        (PRIVATE, line("[fd00::1]"), "private_address"),
        (MDNS, line(UUID), "mdns"),
        (MDNS, line("Printer.Local."), "mdns"),
        (MDNS, "gibberish", "unreadable"),
        (PRIVATE, " ", "unreadable"),
    ],
)
def test_dropped_and_counted(policy: AddressPolicy, text: str, reason: str) -> None:
    before = policy.dropped.copy()
    assert seen(policy, text) is None
    assert policy.dropped - before == Counter({reason: 1})


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (PRIVATE, line("203.0.113.7")),
        (PRIVATE, line(UUID)),
        (PRIVATE, line("2001:db8::1", "host", " tcptype active")),
        (MDNS, line("10.0.0.1")),
        (MDNS, line("203.0.113.7", "srflx", " raddr 10.0.0.1 rport 5")),
        (MDNS, line("router.lan")),
        (RELAY, line("10.0.0.1", "relay")),
        (RELAY, "a=" + line("relay.example.org", "relay")),
    ],
)
def test_passes_unchanged(policy: AddressPolicy, text: str) -> None:
    assert seen(policy, text) == text


@pytest.mark.parametrize(
    ("policy", "rest", "becomes"),
    [
        (RELAY, " raddr 203.0.113.9 rport 55 ufrag u", " raddr 0.0.0.0 rport 0 ufrag u"),
        (RELAY, " raddr 0.0.0.0 rport 55", " raddr 0.0.0.0 rport 0"),
        (RELAY, f" raddr {UUID} rport 55", " raddr 0.0.0.0 rport 0"),
        (RELAY, " raddr my.home rport 55", " raddr 0.0.0.0 rport 0"),
        (RELAY, " RADDR 10.0.0.9 RPORT 55", " RADDR 0.0.0.0 RPORT 0"),
        (RELAY, " x-base 10.0.0.9 raddr", " x-base 0.0.0.0 raddr"),
        (RELAY, " raddr raddr 10.0.0.9", " raddr 0.0.0.0 0.0.0.0"),
        (RELAY, " raddr\t10.0.0.9\nrport 7", " raddr 0.0.0.0 rport 0"),
        (RELAY, " network-id 1 ", " network-id 1"),
        (PRIVATE, " raddr 10.0.0.9 rport 55 generation 0", " raddr 0.0.0.0 rport 0 generation 0"),
        (PRIVATE, " raddr fd00::9 rport 55", " raddr 0.0.0.0 rport 0"),
        (PRIVATE, " raddr 203.0.113.9 rport 55", " raddr 203.0.113.9 rport 55"),
        (PRIVATE, f" raddr {UUID} rport 55", f" raddr {UUID} rport 55"),
        (MDNS, f" raddr {UUID} rport 55", " raddr 0.0.0.0 rport 0"),
    ],
)
def test_the_related_address_is_hidden(policy: AddressPolicy, rest: str, becomes: str) -> None:
    assert seen(policy, line("203.0.113.7", "relay", rest)) == line("203.0.113.7", "relay", becomes)


SDP = "\r\n".join(
    [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1 2",
        "m=audio 46154 UDP/TLS/RTP/SAVPF 111 63",
        "c=IN IP4 192.168.1.7",
        "a=rtcp:46155 IN IP4 192.168.1.7",
        "a=" + line("192.168.1.7"),
        "a=" + line(UUID),
        "a=" + line("198.51.100.7", "srflx", " raddr 192.168.1.7 rport 46154"),
        "a=" + line("203.0.113.7", "relay", " raddr 198.51.100.7 rport 46154"),
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
        "a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24",
        "a=mid:0",
        "a=end-of-candidates",
        "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=mid:1",
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP6 fd00::7",
        "a=mid:2",
        "",
    ]
)


def test_relay_only_leaves_no_address_but_the_relays_in_sdp() -> None:
    policy = AddressPolicy(relay_only=True)
    changed = policy.sdp(SDP)
    expected = [
        *SDP.split("\r\n")[:5],
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63",
        "c=IN IP4 0.0.0.0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=" + line("203.0.113.7", "relay", " raddr 0.0.0.0 rport 0"),
        *SDP.split("\r\n")[12:22],
        "c=IN IP6 ::",
        "a=mid:2",
        "",
    ]
    assert changed.split("\r\n") == expected
    assert policy.dropped == {"relay_only": 3}


def test_private_addresses_leave_sdp_and_public_ones_stay() -> None:
    changed = PRIVATE.sdp(SDP)
    assert "192.168" not in changed
    assert "fd00" not in changed
    assert line(UUID) in changed
    assert line("198.51.100.7", "srflx", " raddr 0.0.0.0 rport 0") in changed
    assert line("203.0.113.7", "relay", " raddr 198.51.100.7 rport 46154") in changed
    assert "m=audio 9 " in changed
    without_names = MDNS.sdp(SDP)
    assert without_names == SDP.replace(f"a={line(UUID)}\r\n", "")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_clean_sdp_is_the_same_object(policy: AddressPolicy, ending: str) -> None:
    clean = SDP.replace("192.168.1.7", "0.0.0.0").replace("fd00::7", "::")
    kept = [text for text in clean.split("\r\n") if not text.startswith("a=candidate")]
    text = ending.join(kept)
    assert policy.sdp(text) is text


@pytest.mark.parametrize("policy", POLICIES)
def test_what_identifies_and_authenticates_is_never_touched(policy: AddressPolicy) -> None:
    kept = r"a=(fingerprint|ice-|mid|group|setup).*"
    assert re.findall(kept, policy.sdp(SDP)) == re.findall(kept, SDP)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("m=audio 5 X\nc=IN IP4 10.0.0.1/127/3", "m=audio 9 X\nc=IN IP4 0.0.0.0"),
        ("m=audio 5/2 X\nc=IN IP4 host.lan", "m=audio 9 X\nc=IN IP4 0.0.0.0"),
        ("m=audio 0 X\r\nc=IN IP4 10.0.0.1\r\n", "m=audio 0 X\r\nc=IN IP4 0.0.0.0\r\n"),
        ("m=audio 5\r\nc=IN IP4 10.0.0.1", "m=audio 9\r\nc=IN IP4 0.0.0.0"),
        ("m=audio\nc=IN IP4 10.0.0.1", "m=audio\nc=IN IP4 0.0.0.0"),
        ("m=audio 5 X\nc=IN IP4 203.0.113.7", "m=audio 5 X\nc=IN IP4 203.0.113.7"),
        (
            "c=IN IP4 10.0.0.1\nm=audio 5 X\nm=video 7 X\nc=IN IP4 203.0.113.7",
            "c=IN IP4 0.0.0.0\nm=audio 9 X\nm=video 7 X\nc=IN IP4 203.0.113.7",
        ),
        (" C=in ip4 10.0.0.1", "c=in ip4 0.0.0.0"),
        ("o=10.0.0.1 1 1 IN IP4 10.0.0.2", "o=0.0.0.0 1 1 IN IP4 0.0.0.0"),
        ("o=- 1 1 IN IP6 ::1", "o=- 1 1 IN IP6 ::1"),
        ("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0"),
        ("c=", "c="),
        ("a=rtcp:53", "a=rtcp:53"),
        ("a=rtcp:53 IN IP6 fe80::1", "a=rtcp:9 IN IP6 ::"),
        ("x\na=remote-candidates:1 10.0.0.1 9 2 203.0.113.7 9\ny", "x\ny"),
        ("a=remote-candidates:1 203.0.113.7 9", "a=remote-candidates:1 203.0.113.7 9"),
        (" A=Candidate:1 1 udp 1 10.0.0.1 9 typ host\nx", "x"),
        ("a=candidate:short\nx", "x"),
        ("a=x\x0ba=candidate:1 1 udp 1 10.0.0.1 9 typ host\ny", "y"),
        ("a=x\rc=IN IP4 10.0.0.1\r\ny", "y"),
        ("m=audio 5 X\u2028c=IN IP4 10.0.0.1\nc=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0"),
        ("s=a\u2028b\r\r\ny", "s=a\u2028b\r\r\ny"),
        ("\n\n", "\n\n"),
        ("", ""),
    ],
)
def test_lines_with_private_addresses(text: str, becomes: str) -> None:
    assert PRIVATE.sdp(text) == becomes
    assert PRIVATE.sdp(becomes) is becomes


def test_relay_only_removes_remote_candidates() -> None:
    assert RELAY.sdp("a=remote-candidates:1 203.0.113.7 9\nx") == "x"


FORBIDDEN = ["10.0.0.1", "fd00::1", "::ffff:192.168.0.9", "169.254.7.7", "100.127.0.1", "fe80::2%1"]
ADDRESSES = st.sampled_from(
    [*FORBIDDEN, "203.0.113.7", "2001:db8::7", UUID, "0.0.0.0", "router.lan"]
)
WORDS = st.one_of(
    ADDRESSES,
    st.sampled_from(["typ", "relay", "host", "raddr", "rport", "IN", "IP4", "ip6", "9", "0", "/1"]),
    st.text("ab1:.=/ ", max_size=6),
)
STARTS = st.sampled_from(
    ["a=candidate:", " a=Candidate:", "c=", "C=IN IP4 ", "o=- 1 1 IN IP6 ", "a=rtcp:", "m=audio ",
     "a=remote-candidates:", "a=ice-ufrag:", "a=mid:", "a=fingerprint:", "", "v=0"]
)  # fmt: skip
GAPS = st.sampled_from([" ", " ", " ", "  ", "\t", "\xa0"])
BREAKS = st.sampled_from(["\r\n", "\n", "\r", "\x0b", "\u2028", "\x85", "\r\r\n"])


@st.composite
def candidates(draw: st.DrawFn) -> str:
    ext = draw(
        st.lists(st.tuples(st.sampled_from(["raddr", "rport", "x", "generation"]), ADDRESSES))
    )
    kind = draw(st.sampled_from(["host", "srflx", "relay"]))
    gap = draw(GAPS)
    return line(draw(ADDRESSES), kind, "".join(f" {n} {v}" for n, v in ext)).replace(" ", gap)


@st.composite
def descriptions(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(0, 14))):
        body = draw(st.one_of(candidates(), st.lists(WORDS, max_size=9).map(" ".join)))
        parts.append(draw(STARTS) + body + draw(BREAKS))
    return "".join(parts)


def read_addresses(text: str) -> list[str]:
    """What any parser, however lenient, could take for an address in a line that has one."""
    found = []
    for part in text.splitlines():
        if re.match(r"\s*(a=candidate|c=|o=|a=rtcp|a=remote-candidates)", part, re.IGNORECASE):
            for field in re.split(r"[\s/=]+", part):
                try:
                    found.append(str(ipaddress.ip_address(field)))
                except ValueError:
                    continue
    return found


@given(st.sampled_from(POLICIES), descriptions())
def test_hostile_sdp_is_filtered_once_and_for_all(policy: AddressPolicy, text: str) -> None:
    changed = policy.sdp(text)
    assert policy.sdp(changed) is changed
    assert changed.count("\n") <= text.count("\n")
    assert len(changed.splitlines()) <= len(text.splitlines())
    if policy is not MDNS and policy is not RELAY:
        assert not set(read_addresses(changed)) & set(FORBIDDEN)


@given(descriptions())
def test_relay_only_sdp_shows_relayed_addresses_only(text: str) -> None:
    for part in RELAY.sdp(text).splitlines():
        kind = part.lstrip().lower()
        fields = re.split(r"[\s/=:]+" if kind.startswith("a=rtcp") else r"[\s/]+", part.strip())
        if kind.startswith("a=candidate"):
            assert fields[7] == "relay"
            del fields[4]
        elif not kind.startswith(("c=", "o=", "a=rtcp:")):
            continue
        shown = {reach(field) for field in fields}
        assert shown <= {Reach.NOWHERE, Reach.NAME}, part


@given(candidates())
def test_only_the_relayed_address_of_a_relay_candidate_passes(text: str) -> None:
    kept = seen(RELAY, text)
    if kept is not None:
        fields = kept.split(" ")
        assert fields[7] == "relay"
        assert {f for f in fields[8:] if reach(f) not in (Reach.NOWHERE, Reach.NAME)} == set()
        assert seen(RELAY, kept) == kept


@given(st.sampled_from(POLICIES), st.text())
def test_any_text_is_taken(policy: AddressPolicy, text: str) -> None:
    changed = policy.sdp(text)
    assert policy.sdp(changed) is changed
    kept = seen(policy, text)
    assert kept is None or seen(policy, kept) == kept


@pytest.mark.parametrize(
    "unit", ["a=candidate:", "c=IN IP4 10.0.0.1\r\n", "m=audio 5 X\n", "\r", "IP4 10.0.0.1 ", "a:"]
)
@pytest.mark.parametrize("prefix", ["", "c=", "a=candidate:"])
def test_the_work_grows_with_the_length_only(unit: str, prefix: str) -> None:
    def seconds(times: int) -> float:
        text = prefix + unit * times
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            ALL.sdp(text)
            best = min(best, time.process_time() - start)
        return best

    small, large = seconds(2000), seconds(16_000)
    assert large < 8 * 4 * small + 0.05
