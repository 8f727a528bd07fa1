"""NetworkTest in a real Chromium: what it answers, and what ends a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page
from probe_pages import page_of
from servers import Parley, start_parley

pytestmark = pytest.mark.chromium


@pytest.fixture
def page(context: BrowserContext, parley: Parley) -> Iterator[Page]:
    with page_of(context, parley) as opened:
        yield opened


def test_errors_of_the_constructor_and_of_the_callback(page: Page) -> None:
    names = page.evaluate("""() => {
      const thrown = (begin) => { try { begin(); } catch ({ name }) { return name; } };
      const NetworkTest = network().constructor;
      return [
        thrown(() => new NetworkTest()),
        thrown(() => new NetworkTest({}, { apiKey: "a", sessionId: "b", token })),
        thrown(() => new NetworkTest({ initSession() {} })),
        thrown(() => new NetworkTest({ initSession() {} }, { apiKey: "a", token })),
        thrown(() => network().testQuality(() => {})),
        thrown(() => network().testQuality("callback")),
      ].map((name) => Object.keys(ErrorNames).find((key) => ErrorNames[key] === name));
    }""")
    assert names == [
        "MISSING_OPENTOK_INSTANCE",
        "MISSING_OPENTOK_INSTANCE",
        "MISSING_SESSON_CREDENTIALS",
        "INCOMPLETE_SESSON_CREDENTIALS",
        "INVALID_ON_UPDATE_CALLBACK",
        "INVALID_ON_UPDATE_CALLBACK",
    ]


# The course of a test ---------------------------------------------------------------------------


def test_the_shape_of_updates_and_results_of_two_at_once(page: Page) -> None:
    found = page.evaluate("""async () => {
      const one = network();
      const run = async (test) => {
        const updates = [];
        const began = performance.now();
        const results = await test.testQuality((update) => {
          updates.push(update);
          test.stop();
        });
        return { updates, results, ms: performance.now() - began };
      };
      // With completion handlers, as in the original's first version.
      const other = network({ audioOnly: true, sessionId: "a name" });
      const connected = await new Promise((resolve) => void other.testConnectivity(resolve));
      const [video, audio] = await Promise.all([
        run(one),
        new Promise((resolve) => {
          const updates = [];
          other.testQuality(
            (update) => updates.push(update),
            (error, results) => resolve({ error: error ?? null, results, updates }),
          );
        }),
      ]);
      return { connected, video, audio, again: await run(one) };
    }""")
    assert found["connected"] == {"success": True, "failedTests": []}
    assert found["audio"]["error"] is None
    for name in ("video", "again"):
        run = found[name]
        assert run["ms"] >= 5000, "stop() waits for five seconds"
        assert 4 <= len(run["updates"]) <= 5, "one a second"
        audio, video = run["results"]["audio"], run["results"]["video"]
        assert set(audio) == {
            *("supported", "cause", "bitrate", "packetLossRatio", "mos", "rating"),
            "roundTripTime",
        }
        assert set(video) == {
            *("supported", "cause", "bitrate", "frameRate", "packetLossRatio", "mos", "rating"),
            *("recommendedResolution", "recommendedFrameRate", "recommendedByAvailable"),
            *("availableOutgoingBitrate", "qualityLimitationReason"),
        }
        assert 3.1 < audio["mos"] <= 4.5
        assert 1 < video["mos"] <= 4.5
        update = run["updates"][-1]
        assert set(update) == {
            *("audio", "video", "timestamp", "phase", "roundTripTime", "availableOutgoingBitrate"),
        }
        counters = {"timestamp", "bytesReceived", "packetsReceived", "packetsLost", "bytesSent"}
        assert set(update["audio"]) == counters
        assert set(update["video"]) == {*counters, "frameRate"}
    assert set(found["audio"]["results"]["video"]) == {"supported", "reason", "mos"}
    assert found["audio"]["updates"][0]["video"] is None


def test_sound_that_is_bad_beside_a_picture_is_tried_alone(page: Page) -> None:
    """The browser's statistics are bent: the link is good, and they tell of a loss of 40 %."""
    found = page.evaluate("""async () => {
      class Lossy extends Counted {
        async getStats() {
          const report = new Map(await super.getStats());
          const sent = [...report.values()].some(
            ({ type, kind }) => type === "outbound-rtp" && kind === "video");
          for (const [id, entry] of sent ? report : []) {
            if (entry.type !== "inbound-rtp" || entry.kind !== "audio") continue;
            const packetsLost = Math.round(0.7 * entry.packetsReceived);
            report.set(id, { ...entry, packetsLost });
          }
          return report;
        }
      }
      const phases = [];
      const lossy = network({ timeout: 5000, platform: { RTCPeerConnection: Lossy } });
      const { audio, video } = await lossy
        .testQuality(({ phase, video }) => phases.push([phase, video !== null]));
      return { audio, video, phases };
    }""")
    assert found["audio"]["supported"], found["audio"]
    assert found["audio"]["packetLossRatio"] < 0.1
    assert found["video"]["recommendedResolution"], "what the first part found"
    phases = [tuple(one) for one in found["phases"]]
    assert phases[0] == ("audio-video", True)
    assert phases[-1] == ("audio-only", False)


def test_a_signal_ends_it_in_each_phase_and_devices_are_off(page: Page) -> None:
    found = page.evaluate("""async () => {
      const stalled = (_, { signal }) => new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
      });
      const run = async (prepare) => {
        const ending = new AbortController();
        let at = 0;
        const end = () => { at = performance.now(); ending.abort(); };
        const { onUpdate, ...options } = prepare(end);
        const quality = network({ signal: ending.signal, ...options }).testQuality(onUpdate);
        return { ...(await failure(quality)), late: performance.now() - at };
      };
      const devices = (end) => ({
        enumerateDevices: () => navigator.mediaDevices.enumerateDevices(),
        getUserMedia: async (wish) => {
          end();
          const stream = await navigator.mediaDevices.getUserMedia(wish);
          tracks.push(...stream.getTracks());
          return stream;
        },
      });
      class Early extends Counted { constructor(...given) { super(...given); Early.end(); } }
      const phases = [
        (end) => { setTimeout(end, 50); return { fetch: stalled }; },
        (end) => ({ platform: { mediaDevices: devices(end) } }),
        (end) => { Early.end = end; return { platform: { RTCPeerConnection: Early } }; },
        (end) => ({ onUpdate: (_update) => end() }),
      ];
      const ended = [];
      for (const phase of phases) ended.push(await run(phase));
      const { success } = await network().testConnectivity();
      return { ended, success, devices: tracks.length };
    }""")
    assert [(one["name"], one["reason"]) for one in found["ended"]] == [
        ("QualityTestError", "aborted")
    ] * 4
    assert max(one["late"] for one in found["ended"]) < 2500
    assert found["success"]
    assert found["devices"] == 8


def test_the_server_is_killed_in_the_middle(
    context: BrowserContext, parley: Parley, page: Page
) -> None:
    with start_parley() as other:
        page.evaluate(
            """async (sessionId) => {
          token = (await (await fetch(`${sessionId}/v1/probes/sessions`,
            { method: "POST" })).json()).token;
          await new Promise((resolve) => {
            const quality = network({ sessionId }).testQuality((_update) => resolve());
            window.ended = failure(quality);
          });
        }""",
            other.url.rstrip("/"),
        )
        other.kill()
        ended = page.evaluate("ended")
        later = page.evaluate(
            """async (sessionId) => {
          const test = network({ sessionId });
          const { success, failedTests } = await test.testConnectivity();
          const types = failedTests.map(({ type, error }) => [type, error.name]);
          return [success, types, await failure(test.testQuality())];
        }""",
            other.url.rstrip("/"),
        )
    assert (ended["name"], ended["reason"]) == ("ConnectToSessionNetworkError", "server_gone")
    success, types, error = later
    assert not success
    assert types == [
        ["api", "APIConnectivityError"],
        ["logging", "LoggingServerConnectionError"],
    ]
    assert (error["name"], error["reason"]) == ("ConnectToSessionNetworkError", "unreachable")
