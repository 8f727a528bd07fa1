"""The front page in Chromium, what all pages obey, and pictures of the others for people."""

from __future__ import annotations

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


def test_pages_obey_their_own_content_policy(context: BrowserContext, parley: Parley) -> None:
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in ("/", "/demo", "/diagnostics"):
        page.goto(parley.url + path)
        expect(page.locator("h1").first).to_be_visible()
    assert complaints == []


@pytest.mark.parametrize("path", ["/", "/demo", "/diagnostics"])
def test_icons_do_not_go_away_with_the_server(
    context: BrowserContext, parley: Parley, path: str
) -> None:
    page = context.new_page()
    page.goto(parley.url + path)
    expect(page.locator("#icon-check")).to_be_attached()
    context.set_offline(True)
    page.evaluate(
        """async () => {
          const { icon } = await import("/js/page.js");
          document.querySelector("h1").append(icon("check"), icon("warning"));
        }"""
    )
    for use in page.locator("h1 use").all():
        assert use.evaluate("use => use.getBBox().width") > 0
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUTPUT / f"offline{path.replace('/', '-')}.png")
    context.set_offline(False)


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
