"""One server and one Chromium for the browser tests, in a network with nothing but loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from people import CHROMIUM, FLAGS, Person
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from rtc import isolated_network
from servers import Parley, start_parley

expect.set_options(timeout=30_000)
"""A busy machine may need it; what is there is seen at once."""


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip("needs Chromium")
    with isolated_network(), start_parley() as started:
        yield started


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """Of Chromium; a module may have others."""
    return FLAGS


@pytest.fixture(scope="module")
def browser(parley: Parley, flags: list[str]) -> Iterator[Browser]:
    """Depends on the server, so that it starts in the same network namespace."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=flags, timeout=60_000
        )
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    fresh = browser.new_context(viewport={"width": 1280, "height": 900})
    yield fresh
    fresh.close()


@pytest.fixture
def pair(context: BrowserContext, parley: Parley) -> Iterator[tuple[Person, Person]]:
    """Two people in one room, not yet in a call."""
    ada, bo = Person(context, parley.url, "Ada"), Person(context, parley.url, "Bo")
    bo.join(ada.create_room())
    yield ada, bo
    ada.leave()
    bo.leave()
