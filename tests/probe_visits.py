"""What a visitor's Chromium finds in a cell of the probes' fault matrix.

A visit has a network, a deployment and a browser of its own, so that several can run side by side
in threads. It fails if the page leaves a connection open, or the server still holds a peer. It does
not know what should be found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from deployments import NODE_PORT, Deployment, node, relay, whole
from far_browser import far_page
from networks import Network, network
from playwright.sync_api import Page, WebSocket
from probe_faults import FAULTS, Fault

Found = dict[str, Any]
Visit = Callable[[Path], Found]
BY_NAME = {fault.name: fault for fault in FAULTS}
MEASURED = (
    "nothing",
    "UDP and TCP 3478 blocked",
    "all TURN blocked",
    "10 % loss",
    "300 kbit/s",
    "300 ms delay",
)
"""Faults with which the tests of quality are run, too."""
_TOGETHER = ("all TURN blocked", "300 ms delay")
"""Here these tests wait most of the time, and do not mind each other."""

CONNECTIVITY = """async () => {
  const { verdictOf } = await import("/js/parley-probes.js");
  const [network, sockets] = await Promise.all([
    probes.testNetworkConnectivity(), probes.testWebsocketConnectivity(),
  ]);
  const checks = [...network.checks, ...sockets.checks];
  return { network, sockets, checks, verdict: verdictOf(checks) };
}"""
QUALITY_TESTS = """async ([checks, isTogether]) => {
  const { NetworkTest, verdictOf } = await import("/js/parley-probes.js");
  const platform = { RTCPeerConnection: Counted };
  const test = () => new NetworkTest(null, { baseUrl: location.origin }, { platform });
  const videoTrack = await camera();
  const begin = {
    connectivity: () => test().testConnectivity(),
    opentok: () => test().testQuality()
      .catch(({ name, reason }) => ({ checks: [], rejects: `${name} ${reason}` })),
    loop: () => client().testPeerToPeerCallQuality({ videoTrack, duration: 7 }),
    call: () => client().testCallQuality({ videoTrack, duration: 7 }),
  };
  const found = {};
  let last = Promise.resolve();
  for (const [name, run] of Object.entries(begin)) {
    if (!isTogether) await last;
    last = run().then((results) => { found[name] = results; });
    found[name] = last;
  }
  await Promise.all(Object.values(found));
  videoTrack.stop();
  const failed = found.connectivity.failedTests
    .map(({ type, error }) => [type, error.name, error.reason]);
  const verdict = verdictOf([...checks, ...found.opentok.checks]);
  return { ...found, connectivity: failed, verdict };
}"""


# The cells of the table -------------------------------------------------------------------------


def visit_of(fault: Fault) -> Visit:
    """What a visitor's browser finds in that cell."""

    def visit(home: Path) -> Found:
        with (
            network(home) as link,
            fault.deployment(home) as deployment,
            far_page(link, deployment) as page,
            fault.strikes(link, deployment),
        ):
            found: Found = page.evaluate(CONNECTIVITY)
            if fault.name in MEASURED:
                asked = [found["checks"], fault.name in _TOGETHER]
                found |= page.evaluate(QUALITY_TESTS, asked)
                found["checks"] += found["opentok"]["checks"]
            no_peer_is_left(page, deployment)
        return found

    return visit


def no_peer_is_left(page: Page, deployment: Deployment) -> None:
    """The page takes its leave without waiting for an answer, over whatever the network is."""
    deadline = time.monotonic() + 10
    while not deployment.node.is_killed and deployment.node.metric("probe_server_peers"):
        assert time.monotonic() < deadline, "the server still holds a peer"
        page.wait_for_timeout(50)


# Ends before the end ----------------------------------------------------------------------------

ABORTS = """
const { NetworkTest } = await import("/js/parley-probes.js");
const videoTrack = await camera();
const ended = {};
// `begin` gets an AbortSignal, and what fires it: the time counts from then.
const timed = async (phase, begin) => {
  const controller = new AbortController();
  let at = NaN;
  const end = () => { at = performance.now(); controller.abort(); };
  const results = await begin(controller.signal, end)
    .catch(({ name, reason }) => ({ result: name, reason }));
  const { result, reason, verdict, failedTests } = results;
  ended[phase] = { result: result ?? "aborted", reason, verdict, failedTests,
                   lateMs: performance.now() - at, results };
};
const soon = (end) => setTimeout(end, 300);
const opentok = (signal) => new NetworkTest(null, { baseUrl: location.origin },
  { signal, platform: { RTCPeerConnection: Counted } });
/** Ends the test when that request is under way. */
const asking = (path, end) => (url, request) => {
  const answer = fetch(url, request);
  if (url.endsWith(path) && request.method === "POST") setTimeout(end);
  return answer;
};
"""
UNANSWERED = """async () => {%s
  await Promise.all([
    timed("network", (signal, end) => {
      soon(end);
      return client().testNetworkConnectivity(null, { signal });
    }),
    timed("sockets", (signal, end) => {
      soon(end);
      return client().testWebsocketConnectivity({ signal });
    }),
    timed("loop", (signal, end) => {
      soon(end);
      return client().testPeerToPeerCallQuality({ videoTrack, signal });
    }),
    timed("call", (signal, end) => {
      soon(end);
      return client().testCallQuality({ videoTrack, signal });
    }),
    timed("opentok connectivity", (signal, end) => {
      soon(end);
      return opentok(signal).testConnectivity();
    }),
    timed("opentok quality", (signal, end) => {
      soon(end);
      return opentok(signal).testQuality();
    }),
  ]);
  videoTrack.stop();
  return ended;
}"""
UNDER_WAY = """async () => {%s
  for (const step of ["connecting", "packets"]) {
    await timed(`network ${step}`, (signal, end) =>
      client().testNetworkConnectivity(null, { signal, onProgress: atStep(step, end) }));
  }
  await timed("sockets", (signal, end) => client().testWebsocketConnectivity({
    signal, onProgress: ({ regions }) => regions.some(({ state }) => state === "passed") && end(),
  }));
  const quality = { loop: "testPeerToPeerCallQuality", call: "testCallQuality" };
  for (const [name, method] of Object.entries(quality)) {
    await timed(`${name} opening`, (signal, end) => {
      setTimeout(end, 50);
      return client()[method]({ videoTrack, signal });
    });
    await timed(`${name} measuring`, (signal, end) =>
      client()[method]({ videoTrack, signal, onProgress: end }));
  }
  await timed("call asking for a peer", (signal, end) =>
    client({ fetch: asking("/peers", end) }).testCallQuality({ videoTrack, signal }));
  await timed("opentok connectivity", (signal, end) => {
    soon(end);
    return opentok(signal).testConnectivity();
  });
  await timed("opentok quality", (signal, end) => opentok(signal).testQuality((_) => end()));
  videoTrack.stop();
  return ended;
}"""
AT_THE_SERVER = """async () => {%s
  await timed("network server", (signal, end) =>
    client().testNetworkConnectivity(null, { signal, onProgress: atStep("server", end) }));
  return ended;
}"""


def aborted(
    cell: str, script: str, strike: Callable[[Network], AbstractContextManager[None]] | None = None
) -> Visit:
    """Tests that are ended on the way, with the deployment of that cell."""

    def visit(home: Path) -> Found:
        with (
            network(home) as link,
            BY_NAME[cell].deployment(home) as deployment,
            far_page(link, deployment) as page,
            ExitStack() as stack,
        ):
            if strike is not None:
                stack.enter_context(strike(link))
            ended: Found = page.evaluate(script % ABORTS)
            stack.close()
            no_peer_is_left(page, deployment)
        return ended

    return visit


NODE_GONE = """async () => {
  window.results = Promise.all([
    client().testNetworkConnectivity(), client().testWebsocketConnectivity(),
  ]);
}"""
ALL_GONE = """async () => {
  await new Promise((hasPackets) => {
    window.results = probes.testNetworkConnectivity(null, {
      onProgress: atStep("packets", hasPackets),
    });
  });
}"""
QUALITY_GONE = """async () => {
  const { NetworkTest } = await import("/js/parley-probes.js");
  const platform = { RTCPeerConnection: Counted };
  const test = new NetworkTest(null, { baseUrl: location.origin }, { platform });
  const videoTrack = await camera();
  const opentok = (onUpdate) => test.testQuality((update) => onUpdate(update))
    .catch(({ name, reason }) => ({ name, reason }));
  await Promise.all([
    new Promise((onProgress) => {
      window.call = probes.testCallQuality({ videoTrack, onProgress });
    }),
    new Promise((onUpdate) => { window.opentok = opentok(onUpdate); }),
  ]);
}"""


def node_killed(home: Path) -> Found:
    """The relay lives on; both tests have begun, and the network takes time enough to be hit."""
    with (
        network(home) as link,
        whole(home) as deployment,
        far_page(link, deployment) as page,
        link.takes(100),
    ):
        frames: list[object] = []

        def heard(frame: object) -> None:
            frames.append(frame)
            if len(frames) == 2:
                deployment.node.kill()

        def opened(socket: WebSocket) -> None:
            socket.on("framereceived", heard)

        page.on("websocket", opened)
        page.evaluate(NODE_GONE)
        net, sockets = page.evaluate("results")
        again = page.evaluate(CONNECTIVITY)
    return {"network": net, "sockets": sockets, "again": again}


def all_killed(home: Path) -> Found:
    """Relay and node are one machine."""
    with network(home) as link, ExitStack() as stack:
        turn = stack.enter_context(relay())
        with node(turn) as deployment, far_page(link, deployment) as page:
            page.evaluate(ALL_GONE)
            deployment.node.kill()
            stack.close()
            return {"network": page.evaluate("results")}


def killed_under_calls(home: Path) -> Found:
    with (
        network(home) as link,
        whole(home) as deployment,
        far_page(link, deployment) as page,
    ):
        page.evaluate(QUALITY_GONE)
        deployment.node.kill()
        return {"call": page.evaluate("call"), "opentok": page.evaluate("opentok")}


VISITS: Mapping[str, Visit] = {
    # What takes longest goes first.
    "300 ms delay": visit_of(BY_NAME["300 ms delay"]),
    "300 kbit/s": visit_of(BY_NAME["300 kbit/s"]),
    **{fault.name: visit_of(fault) for fault in FAULTS},
    "killed under calls": killed_under_calls,
    "node killed": node_killed,
    "all killed": all_killed,
    "aborted unanswered": aborted(
        "nothing", UNANSWERED, lambda link: link.drops(f"tcp dport {NODE_PORT}")
    ),
    "aborted under way": aborted("a proxy swallows frames", UNDER_WAY),
    "aborted at the server": aborted("hairpin denied", AT_THE_SERVER),
}
