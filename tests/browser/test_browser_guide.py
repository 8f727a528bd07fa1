"""The client of docs/guides/react-native-webrtc.md carries calls, with Chromium's own WebRTC."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page
from servers import Parley

pytestmark = pytest.mark.chromium

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "react-native-webrtc.md"
START = """
async ([source, url, token]) => {
  const { SignalingClient } = await import("/js/parley.js");
  const { mediaDevices } = navigator;
  const given = { SignalingClient, mediaDevices, MediaStream, RTCPeerConnection };
  const make = new Function(...Object.keys(given), source + "; return phone;");
  const phone = make(...Object.values(given));
  Object.assign(window, { frames_seen: 0, reasons: [] });
  const video = document.createElement("video");
  video.muted = video.autoplay = true;
  const count = () => { window.frames_seen += 1; video.requestVideoFrameCallback(count); };
  video.requestVideoFrameCallback(count);
  window.phone = await phone({
    url,
    getToken: () => token,
    rings: async (call) => { window.call = call; return window.takes !== false; },
    shows: (remote) => { video.srcObject = remote; },
    ended: (reason) => window.reasons.push(reason),
  });
}
"""
PLACE = "async (options) => { window.call = await phone.call('bo', options); }"
CAMERA = """async () => {
  const stream = await navigator.mediaDevices.getUserMedia({ video: true });
  await call.replaceTrack("video", stream.getVideoTracks()[0]);
}"""


def blocks() -> list[str]:
    """The code of the guide, without imports."""
    found = re.findall(r"```js\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [re.sub(r"^import .*\n|^export ", "", block, flags=re.MULTILINE) for block in found]


@pytest.fixture
def phones(context: BrowserContext, parley: Parley) -> tuple[Page, Page]:
    pages = (context.new_page(), context.new_page())
    for page, identity in zip(pages, ("ada", "bo"), strict=True):
        page.goto(f"{parley.url}/healthz")  # a page without a Content-Security-Policy
        page.evaluate(START, [blocks()[0], parley.ws_url, parley.token(identity)])
    return pages


def test_a_call_with_pictures_until_somebody_hangs_up(phones: tuple[Page, Page]) -> None:
    ada, bo = phones
    ada.evaluate(PLACE, {})
    for page in phones:
        page.wait_for_function("frames_seen > 10")
    # The block about another network: whoever tells finds a client that can be told.
    told = "(source) => new Function('NetInfo', source + '; return watchNetwork;')"
    told += "({ addEventListener: (listener) => listener() })(phone.client)"
    bo.evaluate(told, blocks()[1].replace("export ", ""))
    ada.wait_for_function("call.state === 'active'")
    bo.evaluate("call.hangup()")
    for page in phones:
        page.wait_for_function("reasons.length === 1 && reasons[0] === 'user_hangup'")


def test_a_voice_call_gets_pictures_later(phones: tuple[Page, Page]) -> None:
    ada, bo = phones
    ada.evaluate(PLACE, {"isVoiceOnly": True})
    for page in phones:
        page.wait_for_function("window.call?.state === 'active'")
        assert page.evaluate("[call.media, frames_seen]") == [{"audio": True, "video": False}, 0]
    ada.evaluate(CAMERA)
    bo.wait_for_function("frames_seen > 10")
    assert bo.evaluate("call.remoteMedia") == {"audio": True, "video": True}


def test_a_call_that_is_not_taken_is_declined(phones: tuple[Page, Page]) -> None:
    ada, bo = phones
    bo.evaluate("window.takes = false")
    ada.evaluate(PLACE, {})
    ada.wait_for_function("reasons[0] === 'declined'")


def test_the_client_is_short() -> None:
    assert len(blocks()[0].strip().splitlines()) <= 28
