"""People in front of the demo page: what they click, what they see, what their browser measures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

OUTPUT = Path(__file__).resolve().parents[1] / "test-output" / "browser"
CHROMIUM = "/usr/bin/chromium"
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
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
]

# Keeps every connection of the page at hand, so that a test can read its statistics.
WITNESS = """
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(configuration) { super(configuration); window.connections.push(this); }
};
"""
MEASURE = """async () => {
  const live = window.connections.filter((pc) => pc.connectionState === "connected");
  const found = { live: live.length, frames: 0, audio: 0, local: "", relay: "" };
  if (!live.length) return found;
  const report = [...(await live.at(-1).getStats()).values()];
  const pairs = report.filter((s) => s.type === "transport").map((s) => s.selectedCandidatePairId);
  for (const s of report) {
    if (s.type === "inbound-rtp" && s.kind === "video") found.frames = s.framesDecoded ?? 0;
    if (s.type === "inbound-rtp" && s.kind === "audio") found.audio = s.packetsReceived ?? 0;
    if (s.type === "candidate-pair" && pairs.includes(s.id)) {
      const local = report.find((c) => c.id === s.localCandidateId);
      found.local = local.candidateType;
      found.relay = local.relayProtocol ?? "";
    }
  }
  return found;
}"""


def eventually(page: Page, check: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition that no locator can express."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        page.wait_for_timeout(50)


ONLY = """
const Plain = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Plain {
  constructor(configuration) {
    const iceServers = configuration.iceServers.map((server) => ({
      ...server, urls: [server.urls].flat().filter((url) => url.includes("transport=%s")),
    })).filter(({ urls }) => urls.length);
    super({ ...configuration, iceServers });
  }
};
"""
"""Which of two relay paths ICE nominates is a race; a test of one of them leaves it no choice."""


class Person:
    """One browser tab on `/demo`; every error on its console fails the test at `leave`."""

    def __init__(self, context: BrowserContext, url: str, name: str, script: str = "") -> None:
        self.name = name
        self.url = url
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.add_init_script(WITNESS + script)

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def create_room(self) -> str:
        """Returns the link."""
        self.page.goto(f"{self.url}/demo")
        self.page.fill("#name", self.name)
        self.page.click("#create-button")
        expect(self.page.locator("#room")).to_be_visible(timeout=30_000)
        return self.page.input_value("#link")

    def join(self, link: str) -> None:
        self.page.goto(link)
        self.page.fill("#name", self.name)
        self.page.click("#join-button")
        expect(self.page.locator("#room")).to_be_visible(timeout=30_000)

    def call(self, *, video: bool = True) -> None:
        self.page.click(f"[data-call={'video' if video else 'voice'}]")

    def accept(self, *, video: bool = True) -> None:
        self.page.click("#accept" if video else "#accept-voice")

    def sees_status(self, pattern: str, seconds: float = 30.0) -> None:
        status = self.page.locator("#status")
        try:
            expect(status).to_have_text(re.compile(pattern), timeout=seconds * 1000)
        except AssertionError as failure:
            failure.add_note(f"{self.name} measures {self.measure()}")
            raise

    def measure(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(MEASURE)
        return found

    def receives_more(self, figure: str, by: int = 10) -> None:
        """That figure grows from now on."""
        before = self.measure()[figure]
        eventually(
            self.page,
            lambda: bool(self.measure()[figure] >= before + by),
            f"{self.name} gets {by} more {figure} than {before}",
        )

    def is_in_no_connection(self) -> None:
        eventually(self.page, lambda: self.measure()["live"] == 0, f"{self.name} is free")

    def sees_and_hears(self) -> None:
        self.receives_more("frames")
        self.receives_more("audio")
        expect(self.page.locator("#remote-video")).to_be_visible()

    def shot(self, name: str) -> None:
        """A picture for people: no test compares it."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=OUTPUT / f"{name}.png", full_page=True)

    def leave(self) -> None:
        self.page.close()
        assert self.complaints == []


def connect(ada: Person, bo: Person, *, video: bool = True) -> None:
    ada.call(video=video)
    bo.accept(video=video)
    ada.sees_status(r"^Connected (directly|through)")
    bo.sees_status(r"^Connected (directly|through)")
