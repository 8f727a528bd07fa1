"""Probes in a Chromium that says no, changes its mind, slows down, or stands still for a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from people import FLAGS
from playwright.sync_api import BrowserContext, Page
from probe_pages import page_of
from servers import Parley

pytestmark = pytest.mark.chromium

DEVICES = ("camera", "microphone")
HIDDEN = """
const [after, every] = [setTimeout, setInterval];
const late = (ms = 0) => {
  const due = performance.now() + ms;
  return Math.ceil(due / 1000) * 1000 - performance.now();
};
window.setTimeout = (act, ms, ...given) => after(act, late(ms), ...given);
window.setInterval = (act, ms, ...given) => every(act, Math.max(1000, ms), ...given);
"""
"""Timers as in a hidden tab: once a second (headless Chromium has no tab that is really hidden)."""


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """Of a browser whose visitors are asked for their devices, and have answered before."""
    return [flag for flag in FLAGS if flag != "--use-fake-ui-for-media-stream"]


@pytest.fixture
def page(context: BrowserContext, parley: Parley) -> Iterator[Page]:
    context.grant_permissions(DEVICES, origin=parley.url)
    with page_of(context, parley) as opened:
        yield opened


def _deny(context: BrowserContext, page: Page) -> None:
    """As in the settings of the page: devices in use are turned off."""
    session = context.new_cdp_session(page)
    target = session.send("Target.getTargetInfo")["targetInfo"]
    for name in DEVICES:
        session.send(
            "Browser.setPermission",
            {
                "permission": {"name": name},
                "setting": "denied",
                "origin": page.evaluate("location.origin"),
                "browserContextId": target["browserContextId"],
            },
        )


def test_devices_that_are_denied(context: BrowserContext, page: Page) -> None:
    _deny(context, page)
    found = page.evaluate("""async () => {
      const { success, failedTests } = await network().testConnectivity();
      const failed = failedTests.map(({ type, error }) => [type, error.name, error.reason]);
      return {
        connectivity: [success, failed],
        quality: await failure(network().testQuality()),
        call: await probes.testCallQuality(),
        network: await probes.testNetworkConnectivity(),
      };
    }""")
    denied = ("PermissionDeniedError", "permission_denied")
    assert found["connectivity"] == [False, [["OpenTok.js", *denied]]]
    assert (found["quality"]["name"], found["quality"]["reason"]) == denied
    assert (found["call"]["result"], found["call"]["reason"]) == ("failed", "permission_denied")
    assert found["network"]["result"] == "passed", "it needs no device"


def test_devices_that_are_denied_in_the_middle(context: BrowserContext, page: Page) -> None:
    page.evaluate("""async () => {
      const videoTrack = await camera();
      let hasSecond;
      const second = new Promise((resolve) => (hasSecond = resolve));
      await new Promise((resolve) => {
        const updated = (_update) => resolve();
        window.ended = Promise.all([
          failure(network().testQuality(updated)),
          client().testPeerToPeerCallQuality({ videoTrack, onProgress: hasSecond }),
        ]);
      });
      await second;
      window.deniedAt = performance.now();
      window.lasted = ended.then(() => performance.now() - deniedAt);
    }""")
    _deny(context, page)
    quality, call = page.evaluate("ended")
    assert (quality["name"], quality["reason"]) == ("PermissionDeniedError", "permission_denied")
    assert (call["result"], call["reason"]) == ("failed", "no_camera")
    assert page.evaluate("lasted") < 4000


def test_a_hidden_tab_is_no_bad_network(context: BrowserContext, parley: Parley) -> None:
    context.grant_permissions(DEVICES, origin=parley.url)
    context.add_init_script(HIDDEN)
    with page_of(context, parley) as page:
        found = page.evaluate("""async () => {
          const videoTrack = await camera();
          const network = await probes.testNetworkConnectivity(videoTrack);
          const sockets = await probes.testWebsocketConnectivity();
          const call = await probes.testPeerToPeerCallQuality({ videoTrack, duration: 3 });
          const { success } = await window.network().testConnectivity();
          const quality = await window.network({ audioOnly: true, timeout: 5000 }).testQuality();
          return { network, sockets, call, success, quality };
        }""")
    network, quality = found["network"], found["quality"]
    assert (network["result"], network["reason"]) == ("passed", ""), network
    assert [one["lossRatio"] for one in network["transports"]][:2] == [0, 0]
    assert (found["sockets"]["result"], found["call"]["result"]) == ("passed", "good"), found
    assert found["success"]
    assert quality["audio"]["supported"]
    assert quality["audio"]["mos"] > 4


def test_a_page_that_stands_still_for_a_while(page: Page) -> None:
    """Longer than the deadline of a step, and than the silence that ends a quality test."""
    found = page.evaluate("""async () => {
      const standStill = () => {
        const until = performance.now() + 6000;
        while (performance.now() < until);
      };
      const videoTrack = await camera();
      let network;
      const onProgress = ({ secondsElapsed }) => {
        if (secondsElapsed !== 2) return;
        const onProgress = atStep("connecting", () => queueMicrotask(standStill));
        network = probes.testNetworkConnectivity(null, { onProgress });
      };
      const [call, quality] = await Promise.all([
        client().testPeerToPeerCallQuality({ videoTrack, duration: 9, onProgress }),
        window.network({ audioOnly: true, timeout: 10_000 }).testQuality((_update) => {}),
      ]);
      return { call, quality, network: await network };
    }""")
    network, call, quality = found["network"], found["call"], found["quality"]
    assert (network["result"], network["reason"]) == ("passed", ""), network
    assert call["result"] not in {"failed", "aborted"}, call
    assert quality["audio"]["supported"], quality


def test_a_credential_that_expires_while_the_visitor_is_asked(page: Page) -> None:
    """The computer's clock goes on by 290 s while the question is on the screen."""
    found = page.evaluate("""async () => {
      let sessions = 0;
      const counted = (url, request) => {
        sessions += Number(url.endsWith("/v1/probes/sessions"));
        return fetch(url, request);
      };
      const now = Date.now;
      const mediaDevices = {
        enumerateDevices: () => navigator.mediaDevices.enumerateDevices(),
        getUserMedia: async (wish) => {
          Date.now = () => now() + 290_000;
          const stream = await navigator.mediaDevices.getUserMedia(wish);
          tracks.push(...stream.getTracks());
          return stream;
        },
      };
      const slow = network({ fetch: counted, platform: { mediaDevices } });
      const { success, failedTests } = await slow.testConnectivity();
      Date.now = now;
      return [success, failedTests.map(({ error }) => error.name), sessions];
    }""")
    assert found == [True, [], 2]
