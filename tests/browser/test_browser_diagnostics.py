"""The diagnostics page in Chromium: by keyboard, to a screen reader, stopped, left, in trouble."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accounts import Account
from coturn import free_port, start_coturn
from people import OUTPUT, eventually
from playwright.sync_api import BrowserContext, Page, expect
from probe_pages import SECRET
from servers import Parley, Server, start_parley, start_serve

pytestmark = pytest.mark.chromium

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
RUN_MS = 60_000
ROWS = ["api", "ws", "turn-udp", "turn-tcp", "turn-tls", "direct", "quality", "devices"]
ANNOUNCED = """
window.said = [];
addEventListener("DOMContentLoaded", () => {
  for (const region of document.querySelectorAll("[role=status]")) {
    new MutationObserver(() => window.said.push(region.textContent))
      .observe(region, { childList: true, characterData: true, subtree: true });
  }
});
"""
REFUSED = """
navigator.mediaDevices.getUserMedia = () =>
  Promise.reject(new DOMException("no", "NotAllowedError"));
"""
OPENED = """
window.opened = [];
const camera = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wish) => {
  const stream = await camera(wish);
  window.opened.push(...stream.getTracks());
  return stream;
};
"""
HIDE = """
Object.defineProperty(document, "hidden", { get: () => true });
document.dispatchEvent(new Event("visibilitychange"));
"""
LIVE_TRACKS = "window.opened.filter((track) => track.readyState === 'live').length"


@contextmanager
def diagnostics(
    context: BrowserContext, parley: Parley | Server, *, script: str = "", excused: str = "$^"
) -> Iterator[Page]:
    """The page; whatever is on its console must be excused by that pattern."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    if script:
        page.add_init_script(script)
    page.goto(f"{parley.url}/diagnostics")
    yield page
    page.close()
    # A page that goes, or a run that is stopped, ends a WebSocket before it is open.
    excused += "|closed before the connection is established"
    assert [text for text in complaints if not re.search(excused, text)] == []


def state(page: Page, row: str) -> str:
    return str(page.get_attribute(f"[data-check={row}]", "data-state"))


def runs(page: Page, row: str) -> None:
    """Wait until that check runs; `expect` looks every second only, and a check may be quicker."""
    is_running = "(row) => document.querySelector(row).dataset.state === 'running'"
    page.wait_for_function(is_running, arg=f"[data-check={row}]", polling=20)


def ends(page: Page, verdict: str, within_ms: int = RUN_MS) -> None:
    expect(page.locator("#report")).to_be_visible(timeout=within_ms)
    expect(page.locator("#verdict-text")).to_have_text(re.compile(verdict))


def is_accessible(page: Page) -> None:
    """By axe-core, in both colour schemes."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        found: list[dict[str, Any]] = page.evaluate("axe.run().then((run) => run.violations)")
        flaws = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]
        assert flaws == [], scheme


def picture(page: Page, name: str) -> None:
    """For people, on a desktop and on a phone; nothing may be wider than the window."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for width, height in ((1280, 900), (360, 640)):
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=OUTPUT / f"diagnostics-{name}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def press_until(page: Page, element: str, key: str = "Tab") -> None:
    """Moves the focus as somebody without a mouse does."""
    for _ in range(20):
        page.keyboard.press(key)
        if page.evaluate(f"document.activeElement?.id === '{element}'"):
            return
    raise AssertionError(f"{key} does not lead to #{element}")


def test_a_visitor_with_a_keyboard_tests_shares_and_takes_back(
    context: BrowserContext, parley: Parley
) -> None:
    """The whole flow, and what a screen reader is told of it."""
    with diagnostics(context, parley, script=ANNOUNCED) as page:
        is_accessible(page)
        picture(page, "before")
        press_until(page, "start")
        page.keyboard.press("Enter")
        expect(page.locator("#stop")).to_be_focused()
        runs(page, "quality")
        is_accessible(page)
        ends(page, r"^Calls work well from here\.$")
        expect(page.locator("#start")).to_be_focused()
        skipped = {"turn-tls": "skipped"}
        assert {row: state(page, row) for row in ROWS} == dict.fromkeys(ROWS, "passed") | skipped
        said = " ".join(page.evaluate("window.said"))
        assert "Testing" in said
        assert "Relay over UDP passed" in said
        assert "Calls work well from here." in said
        plots = page.locator(".plot").evaluate_all(
            "(all) => all.map((one) => [one.getAttribute('aria-label'), "
            "one.querySelector('polyline').getAttribute('points').split(' ').length])"
        )
        counts = {points for _, points in plots}
        # A machine that is slow skips seconds.
        assert len(plots) == 3
        assert len(counts) == 1
        assert 3 <= counts.pop() <= 12
        assert re.match(r"Bitrate over 12 seconds: .*bit/s to .*bit/s", plots[0][0])
        is_accessible(page)
        picture(page, "passed")

        press_until(page, "share")
        page.keyboard.press("Enter")
        expect(page.locator("#share-dialog")).to_be_visible()
        is_accessible(page)
        shown = json.loads(page.text_content("#report-text") or "")
        assert shown["include_addresses"] is False
        assert not re.search(r"\d+\.\d+\.\d+\.\d+|candidate:|eyJ", json.dumps(shown))
        page.keyboard.press("Escape")
        expect(page.locator("#share")).to_be_focused()
        page.keyboard.press("Enter")
        press_until(page, "confirm")
        page.keyboard.press("Enter")
        expect(page.locator("#link")).to_be_focused()
        link = page.input_value("#link")
        is_accessible(page)

        assert report_of(context, link) == shown
        press_until(page, "take-back")
        page.keyboard.press("Enter")
        expect(page.locator("#share-status")).to_have_text(re.compile("does not work any more"))
        expect(page.locator("#share")).to_be_focused()
        reader = context.new_page()
        reader.goto(link)
        expect(reader.locator("#verdict-text")).to_have_text(re.compile("does not exist"))
        reader.close()


def report_of(context: BrowserContext, link: str) -> dict[str, Any]:
    """What somebody with that link sees and downloads."""
    reader = context.new_page()
    reader.goto(link)
    ends(reader, r"^Calls work well from here\.$", 5000)
    assert state(reader, "turn-udp") == "passed"
    is_accessible(reader)
    picture(reader, "report")
    with reader.expect_download() as download:
        reader.click("#download")
    report: dict[str, Any] = json.loads(download.value.path().read_text())
    reader.close()
    return report


def test_a_stop_at_any_time_leaves_nothing_open(context: BrowserContext, parley: Parley) -> None:
    """At once, between the relays, with the camera on or gone; and a page that is left."""
    with diagnostics(context, parley, script=OPENED) as page:
        page.click("#start")
        page.click("#stop")
        ends(page, "The test was stopped", 15_000)
        assert not {state(page, row) for row in ROWS} & {"running", "waiting"}
        expect(page.locator("#quality")).to_be_hidden()

        page.click("#start")
        runs(page, "turn-udp")
        page.click("#stop")
        ends(page, "The test was stopped", 15_000)
        picture(page, "stopped")

        page.check("#open-devices")
        page.click("#start")
        runs(page, "quality")
        expect(page.locator("#plots polyline").first).to_be_visible()
        assert page.evaluate(LIVE_TRACKS) == 2
        page.evaluate("window.opened[0].stop()")
        ends(page, "^Calls work", 15_000)
        expect(page.locator("[data-check=quality]")).to_contain_text("taken away during the test")
        assert page.evaluate(LIVE_TRACKS) == 0

        page.click("#start")
        runs(page, "quality")
        assert page.evaluate(LIVE_TRACKS) == 2
        page.click("#stop")
        ends(page, "The test was stopped", 15_000)
        assert page.evaluate(LIVE_TRACKS) == 0
        eventually(page, lambda: not parley.metric("probe_server_peers"), "the peer has ended", 15)

        page.uncheck("#open-devices")
        page.click("#start")
        runs(page, "quality")
        eventually(page, lambda: parley.metric("probe_server_peers") == 1, "a peer takes part")
        page.goto(parley.url)
        eventually(page, lambda: not parley.metric("probe_server_peers"), "the peer has ended", 15)


def test_without_permission_and_out_of_sight(context: BrowserContext, parley: Parley) -> None:
    with diagnostics(context, parley, script=REFUSED) as page:
        page.check("#open-devices")
        page.click("#start")
        devices = page.locator("[data-check=devices]")
        expect(devices).to_have_attribute("data-state", "warning")
        expect(devices).to_contain_text("Not allowed to use them")
        runs(page, "quality")
        page.evaluate(HIDE)
        expect(page.locator("#notice")).to_contain_text("Keep this page in view")
        page.click("#stop")
        ends(page, "The test was stopped", 15_000)
        expect(page.locator("#notice")).to_contain_text("in the background for a part")


def test_a_server_that_goes_away_is_named_and_the_page_goes_on(context: BrowserContext) -> None:
    """Icons and words are all there without the server."""
    with (
        start_parley() as parley,
        diagnostics(context, parley, excused="ERR_CONNECTION|WebSocket conn") as page,
    ):
        page.click("#start")
        runs(page, "turn-udp")
        parley.kill()
        ends(page, "The server stopped answering during the test")
        assert state(page, "api") == "failed"
        expect(page.locator("[data-check=quality]")).not_to_contain_text("Nothing answers")
        icons = page.locator("#verdict > .icon use, .check .icon use").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect().width)"
        )
        assert len(icons) == 1 + len(ROWS)
        assert all(width > 0 for width in icons)
        picture(page, "gone")
        page.click("#share")
        page.click("#confirm")
        expect(page.locator("#share-status")).to_have_text(re.compile("Download the report"))
        expect(page.locator("#share")).to_be_focused()
        page.click("#start")
        ends(page, "the server cannot be reached", 5000)
        expect(page.locator("[data-check=ws]")).to_contain_text("Not tested")
        expect(page.locator("#share")).to_be_hidden()


def test_too_many_tests_are_no_network_fault(context: BrowserContext, parley: Parley) -> None:
    refusal = "window.fetch = async () => new Response('{}', { status: 429 });"
    with diagnostics(context, parley, script=refusal) as page:
        page.click("#start")
        ends(page, "takes no more tests from here for now", 15_000)
        assert page.locator("#asks").is_hidden()


def test_animations_rest_where_motion_is_unwanted(context: BrowserContext, parley: Parley) -> None:
    with diagnostics(context, parley) as page:
        page.emulate_media(reduced_motion="reduce")
        page.click("#start")
        assert page.evaluate("document.getAnimations().length") == 0
        page.click("#stop")
        ends(page, "The test was stopped", 15_000)


@pytest.mark.coturn
def test_relays_of_several_regions_are_named(context: BrowserContext) -> None:
    """`west` has a relay, and what should be that of `east` does not answer."""
    with start_coturn(secret=SECRET) as west:
        ports = {"east": free_port(), "west": west.port}
        nodes = "".join(
            f'[[turn.nodes]]\nid = "{name}"\nregion = "{name}"\n'
            f'urls = ["turn:127.0.0.1:{port}?transport=udp"]\n'
            for name, port in ports.items()
        )
        config = f"""
[server]
port = 0
drain_s = 0
[cors]
origins = ["https://app.parley.test"]
[probes]
allow_private_peers = true
[turn]
secret = "{west.secret}"
default_region = "west"
probing.enabled = false
{nodes}{Account().toml}"""
        with start_serve(config) as server, diagnostics(context, server) as page:
            page.click("#start")
            ends(page, r"^Calls work from here, but not the relay of every region: east\.$")
            assert (state(page, "turn-udp"), state(page, "quality")) == ("warning", "passed")
            line = page.inner_text("[data-check=turn-udp] .line")
            found = r"Works in 1 of 2 regions, in .+, but not in east \(nothing answers\)\."
            assert re.fullmatch(found, line), line
            page.locator("#details summary").first.click()
            titles = page.locator("#figure-rows th").all_inner_texts()
            assert {"Relay over UDP, west", "Relay over UDP, east"} <= set(titles)
            is_accessible(page)
            picture(page, "regions")
