"""The front page and the diagnostics page in Chromium, and pictures of all pages for people."""

from __future__ import annotations

import json
import re

import pytest
from people import OUTPUT, Person
from playwright.sync_api import BrowserContext, expect
from servers import Parley

pytestmark = pytest.mark.chromium


def test_the_front_page_says_that_the_server_is_well(
    context: BrowserContext, parley: Parley
) -> None:
    page = context.new_page()
    page.goto(parley.url)
    expect(page.locator("#health")).to_have_text("Ready for calls")
    expect(page.locator("#command")).to_have_text(re.compile(r"^curl -H .*/v1/ice-servers$"))


def test_diagnostics_pass_and_the_report_holds_no_addresses(
    context: BrowserContext, parley: Parley
) -> None:
    page = context.new_page()
    page.goto(f"{parley.url}/diagnostics")
    page.click("#start")
    expect(page.locator("#report")).to_be_visible(timeout=60_000)
    expect(page.locator("#verdict-text")).to_have_text("Calls work well from here.")
    text = page.locator("#report-text").text_content() or ""
    report = json.loads(text)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states == {
        "signaling": "passed",
        "ice-servers": "passed",
        "relay-udp": "passed",
        "relay-tcp": "passed",
        "relay-tls": "skipped",
        "direct": "passed",
        "devices": "passed",
    }
    figures = {check["name"]: check["figures"] for check in report["checks"]}
    assert figures["relay-udp"]["received"] >= 0.9 * figures["relay-udp"]["sent"] > 0
    assert not re.search(r"\d+\.\d+\.\d+\.\d+(?!.*Safari)|candidate:|turn:|eyJ", text), text
    with page.expect_download() as download:
        page.click("#download")
    assert json.loads(download.value.path().read_text()) == report


def test_diagnostics_without_udp_advise_tcp(context: BrowserContext, parley: Parley) -> None:
    """A browser that finds nothing over UDP, as behind a firewall."""
    page = context.new_page()
    page.add_init_script(
        """
        const Plain = window.RTCPeerConnection;
        window.RTCPeerConnection = class extends Plain {
          constructor(configuration) {
            const iceServers = (configuration?.iceServers ?? []).map((server) => ({
              ...server, urls: [server.urls].flat().filter((url) => url.includes("transport=tcp")),
            })).filter(({ urls }) => urls.length);
            super({ ...configuration, iceServers });
          }
        };
        """
    )
    page.goto(f"{parley.url}/diagnostics")
    page.click("#start")
    expect(page.locator("#verdict-text")).to_have_text(
        re.compile("blocks UDP; calls will work over TCP"), timeout=60_000
    )


def test_diagnostics_can_be_stopped(context: BrowserContext, parley: Parley) -> None:
    page = context.new_page()
    page.goto(f"{parley.url}/diagnostics")
    page.click("#start")
    expect(page.locator("[data-check=relay-udp]")).to_have_attribute("data-state", "running")
    page.click("#stop")
    expect(page.locator("#report")).to_be_visible(timeout=3000)
    expect(page.locator("[data-check=relay-tcp]")).to_have_attribute("data-state", "skipped")


def test_pages_obey_their_own_content_policy(context: BrowserContext, parley: Parley) -> None:
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in ("/", "/demo", "/diagnostics"):
        page.goto(parley.url + path)
        expect(page.locator("h1").first).to_be_visible()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_its_window(
    context: BrowserContext, parley: Parley, scheme: str, width: int
) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    ada, bo = Person(context, parley.url, "Ada"), Person(context, parley.url, "Bo")
    for person in (ada, bo):
        person.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        person.page.set_viewport_size({"width": width, "height": 844})
    tag = f"{width}-{scheme}"
    page = ada.page

    def fits(name: str) -> None:
        page.screenshot(path=OUTPUT / f"{name}-{tag}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name

    page.goto(parley.url)
    expect(page.locator("#command")).to_contain_text("curl")
    fits("index")
    page.goto(f"{parley.url}/diagnostics")
    page.click("#start")
    expect(page.locator("#report")).to_be_visible(timeout=60_000)
    fits("diagnostics")
    page.goto(f"{parley.url}/demo")
    fits("lobby")
    link = ada.create_room()
    fits("alone")
    bo.join(link)
    bo.call()
    expect(page.locator("#ring")).to_be_visible()
    fits("ring")
    ada.accept()
    ada.sees_status("^Connected directly")
    ada.sees_and_hears()
    fits("in-call")
    bo.page.click("#hangup")
    ada.sees_status("has ended")
    fits("after")
    for person in (ada, bo):
        person.leave()
