"""Applications that were written for OpenTok's and for Daily's pre-call tests, beside a deployment.

They come from an origin of their own, and only where they import from is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from original_samples import OpenTokSample, site
from playwright.sync_api import BrowserContext, Page, expect
from servers import Parley

pytestmark = pytest.mark.chromium

BUSY_MS = 60_000
"""How long anything may take on a machine that has something else to do."""


@contextmanager
def without_errors(*pages: Page) -> Iterator[None]:
    complaints: list[str] = []
    for page in pages:
        page.on("pageerror", lambda error: complaints.append(str(error)))
    yield
    assert complaints == []


# OpenTok ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opentok(tmp_path_factory: pytest.TempPathFactory, parley: Parley) -> OpenTokSample:
    return OpenTokSample(tmp_path_factory.mktemp("opentok"), parley)


def _connectivity(page: Page) -> str:
    """Begins with a press of the button, and says how it ended."""
    page.locator("select").select_option("10")
    page.locator("#precall button").click()
    status = page.locator("#connectivity_status_container p")
    expect(status).not_to_have_text("Test in progress.", timeout=BUSY_MS)
    return status.inner_text()


def _shown(page: Page, kind: str) -> dict[str, str]:
    """Of the results of that kind, by the end of their elements' names."""
    cells = page.locator(f"#{kind} .results span[id]")
    found = {str(one.get_attribute("id")): one.inner_text() for one in cells.all()}
    return {name.removeprefix(f"{kind}-"): text for name, text in found.items()}


def _sent(page: Page, kind: str) -> list[float]:
    """What the sample drew: bits of each second."""
    return [y for _, y in page.evaluate(f"drawn.{kind}Graph.points")]


def test_the_opentok_sample_shows_its_results(
    context: BrowserContext, opentok: OpenTokSample, parley: Parley
) -> None:
    """Twice at once, with the camera and without."""
    with site(opentok.folder) as url:
        both, sound = (opentok.open(context, url, parley.access_token) for _ in range(2))
        sound.locator("#audioOnlyCheckbox").check()
        with without_errors(both, sound):
            assert [_connectivity(page) for page in (both, sound)] == ["Passed", "Passed"]
            for page in (both, sound):
                complete = page.locator("#quality_status_container p").first
                expect(complete).to_have_text("Test complete.", timeout=BUSY_MS)
        audio, video = _shown(both, "audio"), _shown(both, "video")
        alone, none = _shown(sound, "audio"), _shown(sound, "video")
        bits = {kind: _sent(both, kind) for kind in ("audio", "video")}
        silent = _sent(sound, "video")
        title = sound.evaluate("drawn.videoGraph.subtitle")
    for results in (audio, video, alone):
        assert results["supported"] == "Yes", results
        assert float(results["mos"].split()[0]) > 1, results
        assert results["bitrate"].endswith(" kbps"), results
        assert results["plr"].endswith("%"), results
    # A busy machine makes fewer pictures, and is advised what it can.
    assert video["recommendedResolution"] in {"1280x720", "640x480", "320x240"}
    assert video["recommendedFrameRate"] == "30 fps"
    assert video["qualityLimitationReason"] in {"none", "cpu", "bandwidth", "other"}
    assert (none["supported"], none["mos"], none["bitrate"]) == ("No", "1.00 (Bad)", "--")
    for kind, drawn in bits.items():
        assert len(drawn) >= 4, kind
        assert min(drawn) >= 0 < max(drawn), kind
    assert (set(silent), title) == ({0}, "Testing audio-only stream")


def test_the_opentok_sample_shows_what_is_wrong(
    context: BrowserContext, opentok: OpenTokSample
) -> None:
    with site(opentok.folder) as url:
        page = opentok.open(context, url, "T1==wrong")
        with without_errors(page):
            said = _connectivity(page)
            assert said == "Failed tests: OpenTok messaging WebSocket, OpenTok Media Router"
            quality = page.locator("#quality_status_container p").first
            expect(quality).to_have_text("The server does not accept the token.", timeout=BUSY_MS)


# Daily ------------------------------------------------------------------------------------------

DAILY = """
<!doctype html>
<button id="test">Test</button><button id="leave" disabled>Leave</button>
<dl><dd id="network"></dd><dd id="quality"></dd><dd id="sockets"></dd></dl><div id="people"></div>
<script type="module">
import { ProbeClient as Daily } from "%s/js/parley-probes.js";
const at = (name) => document.getElementById(name);
const say = (name) => ({ result }) => (at(name).textContent = result);

function all(call, videoTrack) {
  Promise.all([
    call.testConnectionQuality({ videoTrack, duration: 1 }).then(say("quality")),
    call.testNetworkConnectivity(videoTrack).then(say("network")),
    call.testWebsocketConnectivity().then(say("sockets")),
  ]).then(() => (at("test").disabled = false));
}

function made() {
  const known = Daily.getCallInstance();
  if (known) return known;
  return Daily.createCallObject()
    .on("track-started", ({ participant, track, type }) => {
      if (!participant.local || type !== "video") return;
      const video = document.createElement("video");
      Object.assign(video, { muted: true, autoplay: true, srcObject: new MediaStream([track]) });
      video.id = `participant-${participant.session_id}`;
      at("people").replaceChildren(video);
      at("leave").disabled = false;
      all(Daily.getCallInstance(), track);
    })
    .on("error", console.error);
}

at("test").addEventListener("click", () => {
  const call = made();
  at("test").disabled = true;
  for (const name of ["network", "quality", "sockets"]) at(name).textContent = "";
  const track = call.participants().local?.tracks?.video?.persistentTrack;
  if (track) all(call, track);
  else call.startCamera();
});
at("leave").addEventListener("click", () => {
  const call = made();
  call.setLocalVideo(false);
  call.abortTestNetworkConnectivity();
  call.abortTestWebsocketConnectivity();
  call.stopTestConnectionQuality();
  at("leave").disabled = true;
  call.destroy().then(() => at("people").replaceChildren());
});
window.isReady = true;
</script>
"""
"""The calls of Daily's own sample (connectivity-tests of daily-demos/daily-samples-js) in their
order. It is in no package; its scripts ran as they are by hand."""


def test_the_calls_of_dailys_sample(
    context: BrowserContext, parley: Parley, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(DAILY % parley.url)
    page = context.new_page()
    begin, results = page.locator("#test"), page.locator("dd")
    with site(tmp_path) as url, without_errors(page):
        page.goto(url)
        page.wait_for_function("window.isReady")
        for _ in ("with a camera that is opened", "with the one that is open"):
            begin.click()
            expect(begin).to_be_enabled(timeout=BUSY_MS)
            network, quality, sockets = results.all_inner_texts()
            assert (network, sockets) == ("passed", "passed")
            assert quality in {"good", "warning", "bad"}, "of one second on any machine"
        # At once: a test may be over before the next click comes from here.
        page.evaluate("for (const name of ['test', 'leave']) document.getElementById(name).click()")
        expect(begin).to_be_enabled(timeout=BUSY_MS)
        assert results.all_inner_texts()[0] == "aborted"
        expect(page.locator("video")).to_have_count(0)
        begin.click()
        expect(page.locator("video")).to_have_count(1, timeout=BUSY_MS)
        expect(begin).to_be_enabled(timeout=BUSY_MS)
        assert results.all_inner_texts()[0] == "passed"
