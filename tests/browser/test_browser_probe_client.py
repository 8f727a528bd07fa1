"""ProbeClient in a real Chromium: every result with its reason, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import BrowserContext, Page
from probe_pages import page_of, states
from servers import Parley, start_parley

pytestmark = pytest.mark.chromium


@pytest.fixture
def page(context: BrowserContext, parley: Parley) -> Iterator[Page]:
    with page_of(context, parley) as opened:
        yield opened


# All good ---------------------------------------------------------------------------------------


def test_dailys_flow_runs_unchanged(page: Page) -> None:
    found = page.evaluate("""async () => {
      const call = probes;
      const events = [];
      call.on("test-completed", ({ action, test, results }) => {
        events.push([action, test, results.result]);
      });
      const videoTrack = await camera();
      const network = await call.testNetworkConnectivity(videoTrack);
      const sockets = await call.testWebsocketConnectivity();
      const quality = call.testPeerToPeerCallQuality({ videoTrack, duration: 3 });
      call.abortTestNetworkConnectivity();
      call.abortTestWebsocketConnectivity();
      return { network, sockets, quality: await quality, events, track: videoTrack.readyState };
    }""")
    network, sockets, quality = found["network"], found["sockets"], found["quality"]
    assert (network["result"], network["reason"]) == ("passed", ""), network
    assert states(network) == {
        "udp": ("passed", ""),
        "tcp": ("passed", ""),
        "tls": ("skipped", "not_offered"),
    }
    assert [one["sent"] for one in network["transports"]] == [50, 50, 0]
    assert network["verdict"]["text"] == "Calls can connect from here."
    assert (sockets["result"], sockets["passedRegions"]) == ("passed", ["local"]), sockets
    assert (sockets["failedRegions"], sockets["abortedRegions"]) == ([], [])
    assert sockets["regions"][0]["pongs"] == 3
    assert quality["result"] in {"good", "warning"}, quality  # of three seconds
    assert quality["secondsElapsed"] >= 3
    assert set(quality["data"]) == {
        "maxRoundTripTime",
        "avgRoundTripTime",
        "avgAvailableOutgoingBitrate",
        "avgSendBitsPerSecond",
        "avgRecvPacketLoss",
        "avgRecvBitsPerSecond",
    }
    assert found["events"] == [
        ["test-completed", "network-connectivity", "passed"],
        ["test-completed", "websocket-connectivity", "passed"],
        ["test-completed", "p2p-call-quality", quality["result"]],
    ]
    assert found["track"] == "live"


def test_a_call_to_the_server_with_a_camera_of_its_own(page: Page) -> None:
    found = page.evaluate("""async () => {
      const tracks = [];
      const mediaDevices = { getUserMedia: async (wish) => {
        const stream = await navigator.mediaDevices.getUserMedia(wish);
        tracks.push(...stream.getTracks());
        return stream;
      } };
      const mine = client({ mediaDevices });
      const seconds = [];
      const stats = [];
      const onProgress = async ({ secondsElapsed }) => {
        seconds.push(secondsElapsed);
        stats.push(mine.getNetworkStats());
      };
      const call = await mine.testCallQuality({ duration: 4, onProgress });
      const getUserMedia = async () => { throw new DOMException("no", "NotAllowedError"); };
      const refused = await client({ mediaDevices: { getUserMedia } }).testCallQuality();
      return { call, seconds, stats: await Promise.all(stats), refused,
               tracks: tracks.map(({ readyState }) => readyState),
               after: await mine.getNetworkStats() };
    }""")
    call = found["call"]
    assert call["result"] in {"good", "warning"}, call
    assert call["data"]["avgSendPacketLoss"] is not None
    assert found["seconds"] == [1, 2, 3, 4]
    assert found["tracks"] == ["ended"]
    first, *_, last = found["stats"]
    assert (first["networkState"], first["stats"]) == ("unknown", {})
    assert last["networkState"] in {"good", "warning"}, last
    assert last["stats"]["latest"]["videoSendBitsPerSecond"] > 0
    assert found["after"]["networkState"] == "unknown"
    assert (found["refused"]["result"], found["refused"]["reason"]) == (
        "failed",
        "permission_denied",
    )


def test_one_test_after_the_other_and_one_client_beside_another(page: Page) -> None:
    found = page.evaluate("""async () => {
      const videoTrack = await camera();
      const refusals = [];
      const refused = (promise) => promise.catch(({ message }) => refusals.push(message));
      let hasSecond;
      const second = new Promise((resolve) => (hasSecond = resolve));
      const quality = probes.testPeerToPeerCallQuality({ videoTrack, onProgress: hasSecond });
      const after = probes.testNetworkConnectivity();
      await refused(probes.testNetworkConnectivity());
      await refused(probes.testPeerToPeerCallQuality({ videoTrack }));
      const [other, sockets] = await Promise.all([
        client().testNetworkConnectivity(), probes.testWebsocketConnectivity(),
      ]);
      await second;
      probes.stopTestPeerToPeerCallQuality();
      const stopped = await quality;
      const early = probes.testPeerToPeerCallQuality({ videoTrack });
      probes.stopTestPeerToPeerCallQuality();
      await refused(probes.testNetworkConnectivity({}));
      await refused(probes.testPeerToPeerCallQuality());
      videoTrack.stop();
      await refused(probes.testNetworkConnectivity(videoTrack));
      const results = [other, sockets, await after, stopped].map(({ result }) => result);
      return { refusals, results, early: await early };
    }""")
    assert found["refusals"] == [
        "testNetworkConnectivity is running",
        "testPeerToPeerCallQuality is running",
        *["Video track error"] * 3,
    ]
    assert found["results"][:3] == ["passed", "passed", "passed"]
    assert found["results"][3] in {"good", "warning", "bad"}, "of one second that was shared"
    assert (found["early"]["result"], found["early"]["data"]) == ("aborted", {})


# The end of a test ------------------------------------------------------------------------------


def test_abort_at_each_phase(page: Page) -> None:
    found = page.evaluate("""async () => {
      const timed = async (begin) => {
        let at = 0;
        const result = await begin(() => (at = performance.now()));
        return { ...result, late: performance.now() - at };
      };
      const stalled = (url, { signal }) => new Promise((_, reject) => {
        signal.addEventListener("abort", () => {
          window.isCanceled = true;
          reject(signal.reason);
        });
      });
      const session = await timed((mark) => {
        const mine = client({ fetch: stalled });
        setTimeout(() => { mark(); mine.abortTestNetworkConnectivity(); }, 50);
        return mine.testNetworkConnectivity();
      });
      const at = (step) => timed((mark) => {
        const ended = new AbortController();
        const onProgress = atStep(step, () => { mark(); ended.abort(); });
        return probes.testNetworkConnectivity(null, { signal: ended.signal, onProgress });
      });
      const [connecting, packets] = [await at("connecting"), await at("packets")];
      const before = await probes.testNetworkConnectivity(null, { signal: AbortSignal.abort() });
      const short = await probes.testNetworkConnectivity(null, { timeoutMs: 300 });
      const again = await probes.testNetworkConnectivity();
      return { session, connecting, packets, before, short, again, isCanceled };
    }""")
    for phase in ("session", "connecting", "packets"):
        assert found[phase]["result"] == "aborted", phase
        assert found[phase]["late"] < 500, phase
    assert found["isCanceled"]
    assert {one["state"] for one in found["packets"]["transports"]} == {"aborted", "skipped"}
    assert (found["before"]["result"], found["before"]["transports"]) == ("aborted", [])
    assert (found["short"]["result"], found["short"]["reason"]) == ("failed", "timeout")
    assert found["again"]["result"] == "passed"


def test_abort_of_the_other_tests_at_each_phase(page: Page) -> None:
    found = page.evaluate("""async () => {
      const videoTrack = await camera();
      const stalled = (_, { signal }) => new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
      });
      const stops = {
        testPeerToPeerCallQuality: "stopTestPeerToPeerCallQuality",
        testCallQuality: "stopTestCallQuality",
        testWebsocketConnectivity: "abortTestWebsocketConnectivity",
      };
      const run = async (test, prepare) => {
        let at = 0;
        let mine = null;
        let events = 0;
        const end = () => { at = performance.now(); mine[stops[test]](); };
        const { onProgress, ...options } = prepare(end);
        mine = client(options);
        mine.on("test-completed", () => (events += 1));
        const { result } = await mine[test]({ videoTrack, onProgress });
        return [test, result, events, performance.now() - at < 1000];
      };
      class Early extends Counted {
        constructor(...given) { super(...given); queueMicrotask(Early.end); }
      }
      class Silent extends EventTarget {
        readyState = 0;
        constructor() { super(); setTimeout(Silent.end, 50); }
        close() { this.readyState = 3; }
      }
      const session = (end) => { setTimeout(end, 50); return { fetch: stalled }; };
      const connecting = (end) => { Early.end = end; return { RTCPeerConnection: Early }; };
      const socket = (end) => { Silent.end = end; return { WebSocket: Silent }; };
      const found = [];
      for (const test of ["testPeerToPeerCallQuality", "testCallQuality"]) {
        for (const phase of [session, connecting]) found.push(await run(test, phase));
        found.push(await run(test, (end) => ({ onProgress: end })));
      }
      for (const phase of [session, socket]) {
        found.push(await run("testWebsocketConnectivity", phase));
      }
      return [found, videoTrack.readyState];
    }""")
    ended, track = found
    assert track == "live"
    assert all(one[2:] == [1, True] for one in ended), ended
    assert [one[1] for one in ended if "Websocket" in one[0]] == ["aborted"] * 2
    for test in ("testPeerToPeerCallQuality", "testCallQuality"):
        *early, last = [one[1] for one in ended if one[0] == test]
        assert early == ["aborted"] * 2
        assert last in {"good", "warning", "bad"}, "what one second says"


def test_the_server_is_killed_in_the_middle(
    context: BrowserContext, parley: Parley, page: Page
) -> None:
    with start_parley() as one, start_parley() as other:
        page.evaluate(
            """async ([one, other]) => {
          const videoTrack = await camera();
          let hasPackets;
          const packets = new Promise((resolve) => (hasPackets = resolve));
          const onProgress = atStep("packets", hasPackets);
          let hasSecond;
          const second = new Promise((resolve) => (hasSecond = resolve));
          window.results = Promise.all([
            client({ baseUrl: one }).testNetworkConnectivity(null, { onProgress }),
            client({ baseUrl: other })
              .testPeerToPeerCallQuality({ videoTrack, onProgress: hasSecond }),
          ]);
          await packets;
          window.second = second;
        }""",
            [one.url, other.url],
        )
        one.kill()
        page.evaluate("second")
        other.kill()
        network, quality = page.evaluate("results")
    assert (network["result"], network["reason"]) == ("failed", "server_gone"), network
    assert (quality["result"], quality["reason"]) == ("failed", "server_gone"), quality
    assert quality["secondsElapsed"] < 10


# Regions ----------------------------------------------------------------------------------------


def test_regions(context: BrowserContext, parley: Parley, page: Page) -> None:
    names = ("eu", "us", "ap")
    with ExitStack() as stack:
        nodes = [stack.enter_context(start_parley("--region", name)) for name in names]
        regions = [
            {
                "id": name,
                "ws_url": f"{node.url}/v1/probes/ws".replace("http", "ws", 1),
                "http_url": node.url,
            }
            for name, node in zip(names, nodes, strict=True)
        ]
        run = "(regions) => probes.testWebsocketConnectivity({ regions })"
        good = page.evaluate(run, regions)
        nodes[2].kill()
        partly = page.evaluate(run, regions)
        blocked = {**regions[0], "ws_url": regions[0]["ws_url"].replace("probes/ws", "nothing")}
        swapped = {**regions[1], "ws_url": regions[0]["ws_url"]}
        none = page.evaluate(run, [blocked, swapped, regions[2]])
    assert (good["result"], good["passedRegions"]) == ("passed", list(names)), good
    assert (partly["result"], partly["failedRegions"]) == ("warning", ["ap"]), partly
    assert partly["passedRegions"] == ["eu", "us"]
    assert partly["reason"] == "unreachable"
    assert none["result"] == "failed"
    assert {one["id"]: one["reason"] for one in none["regions"]} == {
        "eu": "upgrade_refused",
        "us": "wrong_region",
        "ap": "unreachable",
    }


def test_an_aborted_websocket_test_keeps_what_is_done(page: Page, parley: Parley) -> None:
    found = page.evaluate(
        """async (url) => {
      const [here] = (await (await fetch("/v1/probes/regions")).json()).regions;
      class Silent extends EventTarget {
        readyState = 0;
        close() { this.readyState = 3; window.isClosed = true; }
      }
      const Socket = function (url) {
        return url.includes("silent") ? new Silent() : new WebSocket(url);
      };
      const mine = client({ WebSocket: Socket });
      const onProgress = ({ regions }) => {
        const isPassed = ({ state }) => state === "passed";
        if (regions.some(isPassed)) mine.abortTestWebsocketConnectivity();
      };
      const far = { id: "far", ws_url: "ws://silent.invalid/", http_url: "http://silent.invalid" };
      const aborted = await mine.testWebsocketConnectivity({ regions: [here, far], onProgress });
      return [aborted, window.isClosed, await mine.testWebsocketConnectivity()];
    }""",
        parley.url,
    )
    aborted, is_closed, again = found
    assert (aborted["result"], aborted["passedRegions"]) == ("aborted", ["local"])
    assert (aborted["abortedRegions"], aborted["failedRegions"]) == (["far"], [])
    assert is_closed
    assert again["result"] == "passed"
