"""Calls in Chromium that outlive their network: silence, and another address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from people import CHROMIUM, FLAGS, Person, connect, eventually
from playwright.sync_api import BrowserContext, WebSocketRoute, expect, sync_playwright
from rtc import needs_own_network
from servers import Parley, start_parley
from two_networks import SERVER_ADDRESS, FarSide, two_networks

pytestmark = [pytest.mark.chromium, pytest.mark.root, needs_own_network]

SILENCE_S = 20

# What happens, with the time: `happened` holds [milliseconds, what].
RECORDER = """
window.happened = [];
const note = (what) => window.happened.push([performance.now(), what]);
window.WebSocket = class extends WebSocket {
  constructor(...how) {
    super(...how);
    this.addEventListener("message", ({ data }) => {
      if (JSON.parse(data).type === "resumed") note("resumed");
    });
  }
};
let frames = 0, since = 0;
setInterval(async () => {
  let now = 0;
  for (const pc of window.connections) {
    for (const s of (await pc.getStats()).values()) {
      if (s.type === "inbound-rtp" && s.kind === "video") now += s.framesDecoded ?? 0;
    }
  }
  if (now > frames) {
    if (since && performance.now() - since > 1000) note("frames");
    [frames, since] = [now, performance.now()];
  }
}, 100);
addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  const look = () => status.textContent.startsWith("Reconnecting") && note("notices");
  new MutationObserver(look).observe(status, { childList: true });
});
"""


@pytest.fixture(scope="module")
def far() -> Iterator[FarSide]:
    with two_networks() as side:
        yield side


@pytest.fixture(scope="module")
def parley(far: FarSide) -> Iterator[Parley]:
    with start_parley("--host", SERVER_ADDRESS) as started:
        yield started


@pytest.fixture(scope="module")
def contexts(
    far: FarSide, parley: Parley, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BrowserContext, BrowserContext]]:
    """Of a browser on the far side, and of one beside the server."""
    home = tmp_path_factory.mktemp("far")
    flags = [*FLAGS, f"--unsafely-treat-insecure-origin-as-secure={parley.url}"]
    with sync_playwright() as playwright:
        browsers = [
            playwright.chromium.launch(executable_path=program, args=flags, timeout=60_000)
            for program in (far.program(home, CHROMIUM), CHROMIUM)
        ]
        yield browsers[0].new_context(), browsers[1].new_context()
        for browser in browsers:
            browser.close()


@pytest.fixture
def pair(
    contexts: tuple[BrowserContext, BrowserContext], parley: Parley
) -> Iterator[tuple[Person, Person]]:
    ada, bo = (
        Person(context, parley.url, name, RECORDER)
        for context, name in zip(contexts, ("Ada", "Bo"), strict=True)
    )
    bo.join(ada.create_room())
    connect(ada, bo)
    for person in (ada, bo):
        person.sees_and_hears()
    yield ada, bo
    for person in (ada, bo):
        person.page.close()


def test_a_call_outlives_twenty_seconds_of_silence(
    pair: tuple[Person, Person],
    far: FarSide,
    record_property: Callable[[str, object], None],
) -> None:
    ada, bo = pair
    watch = Watch(pair)
    with far.silence():
        ada.page.wait_for_timeout(SILENCE_S * 1000)
    times = watch.until_media(record_property)
    assert times["Ada notices"] < 15
    assert times["Ada resumed"] < SILENCE_S + 12
    assert max(times["Ada frames"], times["Bo frames"]) < SILENCE_S + 15
    hang_up(ada, bo)


@pytest.mark.parametrize("gap_s", [0, 3], ids=["overlap", "gap"])
def test_a_call_moves_to_another_address(
    pair: tuple[Person, Person],
    far: FarSide,
    gap_s: int,
    record_property: Callable[[str, object], None],
) -> None:
    ada, bo = pair
    watch = Watch(pair)
    far.move((lambda: ada.page.wait_for_timeout(gap_s * 1000)) if gap_s else None)
    times = watch.until_media(record_property)
    assert times["Ada notices"] < 15
    assert times["Ada resumed"] < 14
    assert max(times["Ada frames"], times["Bo frames"]) < 20
    assert ada.page.evaluate("connections.length") == 1
    hang_up(ada, bo)


@pytest.mark.parametrize("code", [4000, None], ids=["go-away", "abrupt"])
def test_a_call_does_not_notice_a_connection_that_the_server_ends(
    contexts: tuple[BrowserContext, BrowserContext], parley: Parley, code: int | None
) -> None:
    context, _ = contexts
    routes: list[WebSocketRoute] = []
    ada, bo = (Person(context, parley.url, name) for name in ("Ada", "Bo"))
    ada.page.route_web_socket("**/v1/signal", lambda route: routes.append(passed_on(route)))
    bo.join(ada.create_room())
    connect(ada, bo)
    if code is None:
        routes[-1].close(code=1011)
    else:
        away = {"type": "go_away", "reason": "drain", "reconnect_after_ms": 200}
        routes[-1].send(json.dumps({**away, "deadline_ms": 400}))
        ada.page.wait_for_timeout(0)
        routes[-1].close(code=code)
    eventually(ada.page, lambda: len(routes) == 2, "Ada connects again")
    for person in (ada, bo):
        person.sees_and_hears()
        person.sees_status("^Connected")
        assert person.page.evaluate("connections.length") == 1
    hang_up(ada, bo)
    for person in (ada, bo):
        person.leave()


def test_two_devices_in_two_browsers_ring_and_one_answers(
    contexts: tuple[BrowserContext, BrowserContext], parley: Parley
) -> None:
    far_context, near_context = contexts
    ada, tablet = (Person(near_context, parley.url, name) for name in ("Ada", "Bo"))
    phone = Person(far_context, parley.url, "Bo")
    link = ada.create_room()
    for device in (phone, tablet):
        device.join(link)
    ada.call()
    for device in (phone, tablet):
        expect(device.page.locator("#ring-title")).to_have_text("Ada is calling")
    phone.accept()
    tablet.sees_status("Answered on another of your devices")
    for person in (ada, phone):
        person.sees_status("^Connected directly")
        person.sees_and_hears()
    tablet.is_in_no_connection()
    hang_up(ada, phone)
    ada.call()
    tablet.page.click("#decline")
    ada.sees_status("Bo declined the call")
    phone.sees_status("The call from Ada was declined")
    for person in (ada, phone, tablet):
        person.leave()


def passed_on(route: WebSocketRoute) -> WebSocketRoute:
    route.connect_to_server()
    return route


def hang_up(ada: Person, bo: Person) -> None:
    """The signaling works, too."""
    ada.page.click("#hangup")
    bo.sees_status("The call has ended")


class Watch:
    """Seconds from its making to what the pages note."""

    def __init__(self, pair: tuple[Person, Person]) -> None:
        self._pair = pair
        self._start_ms = [person.page.evaluate("performance.now()") for person in pair]

    def until_media(self, record: Callable[[str, object], None]) -> dict[str, float]:
        """Wait until both see moving pictures again, and the far one is back at the server."""
        page = self._pair[0].page
        wanted = {"Ada notices", "Ada resumed", "Ada frames", "Bo frames"}
        eventually(page, lambda: wanted <= self._times().keys(), f"{wanted}", seconds=45)
        times = self._times()
        for what, seconds in times.items():
            record(f"{what} (s)", seconds)
        return times

    def _times(self) -> dict[str, float]:
        """When it was noted for the first time."""
        found: dict[str, float] = {}
        for person, start_ms in zip(self._pair, self._start_ms, strict=True):
            for at_ms, what in person.page.evaluate("happened"):
                if at_ms > start_ms:
                    found.setdefault(f"{person.name} {what}", round((at_ms - start_ms) / 1000, 2))
        return found
