"""From the results of checks to one sentence, what it means for a call, and what to ask for. Pure.

browser/js/verdict.js says the same words for the same results (tests/vectors/verdicts.json). It
does not know how a check was made.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from probes.messages import Transport
from probes.reasons import Reason, State


class CheckResult(Struct, frozen=True, kw_only=True):
    """One check of a run. `name`: api, turn, ws, direct, quality-audio, quality-video, devices."""

    name: str
    state: State
    reason: Reason = Reason.NONE
    transport: Transport | None = None
    """Of a turn check."""
    region: str | None = None
    target: str | None = None
    """`host:port` that was tried: never an address of the visitor."""
    detail: str = ""
    """One line for people."""
    duration_ms: int = 0
    figures: dict[str, float] = {}


class Ask(Struct, frozen=True):
    """What to ask the network's owner to allow."""

    protocol: str
    """UDP, TCP or HTTPS."""
    target: str


class Verdict(Struct, frozen=True):
    state: State
    text: str
    meaning: str
    asks: list[Ask] = []


_WORKS = (State.PASSED, State.WARNING)
_NAMES = {"udp": "UDP", "tcp": "TCP", "tls": "TLS"}
_OURS = frozenset(
    {
        Reason.NO_CREDENTIALS,
        Reason.CREDENTIAL_REJECTED,
        Reason.CREDENTIAL_EXPIRED,
        Reason.ALLOCATION_QUOTA,
        Reason.PEER_DENIED,
        Reason.RELAY_SILENT,
        Reason.TLS_CERTIFICATE,
    }
)
"""Faults of the deployment, which no network's owner can mend."""
_UNMEASURED = frozenset({Reason.RELAY_SILENT, Reason.TIMEOUT, Reason.UNREACHABLE, Reason.INTERNAL})
"""Why a quality check says nothing of the quality, where no device is to blame."""
_NOT_THERE = frozenset(
    {Reason.UNREACHABLE, Reason.CONNECTION_REFUSED, Reason.DNS, Reason.TLS_CERTIFICATE}
)
"""Why a region says nothing of WebSockets, unless HTTP is answered at the same place."""
_LOSSY = Verdict(
    State.WARNING,
    "The relay can be reached, but packets get lost on the way.",
    "Expect broken sound and frozen pictures at times; a cable or another network helps.",
)

_NO_WEBRTC = Verdict(
    State.FAILED,
    "This browser cannot make calls.",
    "It lacks WebRTC, or an extension turned it off; try another browser.",
)


def verdict_of(results: Sequence[CheckResult]) -> Verdict:
    """The worst thing first: the server, then signaling, then the relay, then quality."""
    if any(result.state is State.ABORTED for result in results):
        return Verdict(State.ABORTED, "The test was stopped.", "Start it again to get a result.")
    return (
        _gone(results)
        or _server(results)
        or _signaling_down(results)
        or _relay(results)
        or _signaling_partly(results)
        or _relay_partly(results)
        or _quality(results)
        or _relay_fault(results)
        or _good(results)
    )


def _gone(results: Sequence[CheckResult]) -> Verdict | None:
    gone = {result.name for result in results if result.reason is Reason.SERVER_GONE}
    others = any(result.name == "ws" and result.state in _WORKS for result in results)
    if not gone or (gone == {"ws"} and others):
        return None
    return Verdict(
        State.FAILED,
        "The server stopped answering during the test.",
        "It may have been restarted; start the test again in a moment.",
    )


def _server(results: Sequence[CheckResult]) -> Verdict | None:
    api = [result for result in results if result.name == "api"]
    if not api or any(result.state in _WORKS for result in api):
        return None
    if api[0].reason is Reason.RATE_LIMITED:
        return Verdict(
            State.FAILED,
            "The server takes no more tests from here for now.",
            "Too many tests were started from this network; try again in a few minutes.",
        )
    return Verdict(
        State.FAILED,
        "Calls do not work from here: the server cannot be reached.",
        "Nothing else can be tested before the server answers.",
        _asks(api, "HTTPS"),
    )


def _signaling_down(results: Sequence[CheckResult]) -> Verdict | None:
    regions = [result for result in results if result.name == "ws" and _ran(result)]
    if not regions or any(result.state in _WORKS for result in regions):
        return None
    if not any(result.name == "api" for result in results) and all(
        one.reason in _NOT_THERE for one in regions
    ):
        return Verdict(
            State.FAILED,
            "No WebSocket connection can be made from here.",
            "Either this network blocks them, or the server cannot be reached at all; nothing else "
            "was tested.",
            _asks(regions, "HTTPS"),
        )
    answering = {result.target for result in results if result.name == "api"}
    if all(one.reason in _NOT_THERE and one.target not in answering for one in regions):
        return Verdict(
            State.FAILED,
            "Calls do not work from here: no region can be reached.",
            "The server that answers tests is there, and none that sets up calls.",
            _asks(regions, "HTTPS"),
        )
    return Verdict(
        State.WARNING,
        "This network blocks WebSocket connections.",
        "Calls are set up over plain HTTPS instead, a little slower; that works with Parley's own "
        "client, and not with others.",
        _asks(regions, "HTTPS"),
    )


def _relay(results: Sequence[CheckResult]) -> Verdict | None:
    turns = [result for result in results if result.name == "turn" and _ran(result)]
    if not turns:
        return None
    works = {result.transport for result in turns if result.state in _WORKS}
    failed = [result for result in turns if result.transport not in works]
    if not works:
        return _no_relay(results, failed)
    over_udp = [result for result in failed if result.transport == "udp"]
    if over_udp:
        best = "TCP" if "tcp" in works else "TLS"
        ours = any(result.reason in _OURS for result in over_udp)
        cause = "The relay cannot be used over UDP" if ours else "This network blocks UDP"
        return Verdict(
            State.WARNING,
            f"{cause}; calls work over {best}, with a little more delay.",
            "Sound and picture wait for lost packets, so a bad moment is felt longer.",
            [] if ours else _asks(over_udp),
        )
    if all(result.reason is Reason.HAIRPIN for result in turns if result.state in _WORKS):
        return Verdict(
            State.WARNING,
            "The relay does not carry calls between two people who both need it.",
            "Other calls work. Tell whoever runs this server; nothing is wrong with this network.",
        )
    if any(result.reason is Reason.PACKET_LOSS and result.transport == "udp" for result in turns):
        return _LOSSY
    if all(result.state is State.WARNING for result in turns):
        return _LOSSY
    return None


def _relay_fault(results: Sequence[CheckResult]) -> Verdict | None:
    """Of the deployment, over one way while another works: its own people should hear of it."""
    faulty = {
        _NAMES[result.transport]
        for result in results
        if result.transport and result.state is State.FAILED and result.reason in _OURS
    }
    if not faulty:
        return None
    over = _listed([name for name in _NAMES.values() if name in faulty])
    return Verdict(
        State.WARNING,
        f"Calls work from here, but the relay cannot be used over {over}.",
        "People in stricter networks may need it. Tell whoever runs this server; nothing is wrong "
        "with this network.",
    )


def _no_relay(results: Sequence[CheckResult], failed: Sequence[CheckResult]) -> Verdict:
    direct = any(result.name == "direct" and result.state in _WORKS for result in results)
    meaning = (
        "Calls work only with people who can be reached directly."
        if direct
        else "Most calls from here will fail."
    )
    reasons = {result.reason for result in failed}
    if reasons == {Reason.UNSUPPORTED}:
        return _NO_WEBRTC
    if reasons <= {Reason.CREDENTIAL_REJECTED, Reason.CREDENTIAL_EXPIRED, Reason.NO_CREDENTIALS}:
        text = "The relay does not accept the server's credentials."
    elif reasons <= _OURS | {Reason.HAIRPIN}:
        text = "The relay answers, but does not carry anything."
    else:
        return Verdict(
            State.WARNING if direct else State.FAILED,
            "The relay cannot be reached from here.",
            meaning,
            _asks(failed),
        )
    return Verdict(
        State.WARNING if direct else State.FAILED,
        text,
        f"{meaning} Tell whoever runs this server; nothing is wrong with this network.",
    )


def _signaling_partly(results: Sequence[CheckResult]) -> Verdict | None:
    regions = [result for result in results if result.name == "ws" and _ran(result)]
    failed = [result for result in regions if result.state not in _WORKS]
    if not failed:
        return None
    names = ", ".join(sorted(result.region or "?" for result in failed))
    return Verdict(
        State.WARNING,
        f"Calls work from here, but not every region can be reached: {names}.",
        "Clients move to a region that answers; people far away may notice more delay.",
        _asks(failed, "HTTPS"),
    )


def _relay_partly(results: Sequence[CheckResult]) -> Verdict | None:
    """A region whose relay works over no transport, while another region's does."""
    turns = [result for result in results if result.name == "turn" and _ran(result)]
    working = {result.region for result in turns if result.state in _WORKS}
    failed = [result for result in turns if result.region not in working]
    if not failed:
        return None
    names = ", ".join(sorted({result.region or "?" for result in failed}))
    ours = all(result.reason in _OURS for result in failed)
    meaning = "Other regions carry calls instead; people far away may notice more delay."
    return Verdict(
        State.WARNING,
        f"Calls work from here, but not the relay of every region: {names}.",
        f"{meaning} Tell whoever runs this server." if ours else meaning,
        _asks(failed),
    )


def _quality(results: Sequence[CheckResult]) -> Verdict | None:
    states = {result.name: result for result in results if result.name.startswith("quality-")}
    audio, video = states.get("quality-audio"), states.get("quality-video")
    if audio is not None and audio.state is State.FAILED and _of_network(audio):
        return Verdict(
            State.FAILED,
            "This connection is too weak for a call.",
            "Even speech would break up; try another network, or come closer to the router.",
        )
    if video is not None and video.state is State.FAILED and _of_network(video):
        return Verdict(
            State.WARNING,
            "This connection carries speech, but no video.",
            "Turn the camera off before a call, or try another network.",
        )
    weak = [result for result in (audio, video) if result and result.state is State.WARNING]
    if any(_of_network(result) for result in weak):
        return Verdict(
            State.WARNING,
            "Calls work from here, with reduced quality.",
            "Expect a smaller picture or short interruptions when the network is busy.",
        )
    if any(result and result.reason in _UNMEASURED for result in (audio, video)):
        return Verdict(
            State.WARNING,
            "Calls are likely to work from here, but their quality could not be measured.",
            "Start the test again; if that does not help, tell whoever runs this server.",
        )
    return None


def _good(results: Sequence[CheckResult]) -> Verdict:
    if not any(result.state in _WORKS for result in results):
        return Verdict(
            State.FAILED, "Nothing could be tested.", "Start the test again, or reload the page."
        )
    turns = [result for result in results if result.name == "turn" and result.state in _WORKS]
    names = [_NAMES[name] for name in ("udp", "tcp", "tls") if name in _carriers(turns)]
    relay = f"The relay answers over {_listed(names)}" if names else ""
    if any(one.name.startswith("quality-") and one.state in _WORKS for one in results):
        meaning = f"{relay}." if relay else "Sound and picture pass as they should."
        return Verdict(State.PASSED, "Calls work well from here.", meaning)
    if relay:
        meaning = f"{relay}; how good a call would be was not measured."
        return Verdict(State.PASSED, "Calls can connect from here.", meaning)
    return Verdict(
        State.PASSED,
        "What was tested works from here.",
        "Neither the relay nor the quality of calls was tested.",
    )


def _carriers(turns: Sequence[CheckResult]) -> set[str]:
    return {result.transport for result in turns if result.transport}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ran(result: CheckResult) -> bool:
    return result.state is not State.SKIPPED


def _of_network(result: CheckResult) -> bool:
    return result.reason in (Reason.BANDWIDTH_TOO_LOW, Reason.HIGH_LOSS, Reason.HIGH_DELAY)


def _asks(results: Sequence[CheckResult], protocol: str | None = None) -> list[Ask]:
    """Each way out once; a failure that is the deployment's own is nobody's to allow."""
    found: dict[tuple[str, str], Ask] = {}
    for result in results:
        if result.target is None or result.reason in _OURS:
            continue
        name = protocol or ("UDP" if result.transport == "udp" else "TCP")
        found.setdefault((name, result.target), Ask(name, result.target))
    return list(found.values())
