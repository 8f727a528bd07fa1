"""The twenty-line client of the README carries a call between two pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from rtc import is_root, isolated_network
from servers import start_parley

README = Path(__file__).parents[2] / "README.md"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]
CALL = """
async ([source, url, token]) => {
  const meet = new Function(source.replace("export ", "") + "; return meet;")();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const video = document.createElement("video");
  video.muted = video.autoplay = true;
  window.frames_seen = 0;
  const count = () => { window.frames_seen += 1; video.requestVideoFrameCallback(count); };
  video.requestVideoFrameCallback(count);
  await meet(url, token, "readme", stream, (remote) => { video.srcObject = remote; });
}
"""


def client_source() -> str:
    block = re.search(r"```js\n(export async function meet.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def test_the_client_is_twenty_lines_or_so() -> None:
    assert len(client_source().splitlines()) <= 25


@pytest.mark.chromium
@pytest.mark.skipif(not is_root(), reason="needs root for a network of its own")
def test_two_pages_see_each_other() -> None:
    with isolated_network(), start_parley() as parley, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        try:
            pages = [browser.new_page(), browser.new_page()]
            for number, page in enumerate(pages):
                page.goto(parley.url + "/healthz")  # a page without a Content-Security-Policy
                token = parley.token(f"reader{number}")
                page.evaluate(CALL, [client_source(), parley.ws_url, token])
            for page in pages:
                page.wait_for_function("window.frames_seen > 10", timeout=20_000)
        finally:
            browser.close()
