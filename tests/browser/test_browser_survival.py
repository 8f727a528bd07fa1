"""Calls in Chromium that outlive connections to the server, transports, and the wrong device."""

from __future__ import annotations

import subprocess
import urllib.parse

import pytest
from people import Person, eventually
from playwright.sync_api import BrowserContext, expect
from rtc import needs_own_network
from servers import Parley

pytestmark = pytest.mark.chromium

# What the server says, by type, and every WebSocket that was opened.
LISTENER = """
window.sockets = [];
window.heard = [];
window.WebSocket = class extends WebSocket {
  constructor(...how) {
    super(...how);
    window.sockets.push(this);
    this.addEventListener("message", ({ data }) => window.heard.push(JSON.parse(data).type));
  }
};
"""
# Also what the next script needs: whether WebSockets are blocked can change.
BLOCKED = """
window.blocked = true;
const Open = window.WebSocket;
window.WebSocket = class {
  constructor(...how) {
    if (!window.blocked) return new Open(...how);
    this.readyState = 0;
    setTimeout(() => { this.readyState = 3; this.onclose?.({ code: 1006 }); });
  }
  close() {}
};
"""
# The upgrade succeeds, and no frame comes through.
MUTE = """
window.WebSocket = class {
  constructor() {
    this.readyState = 0;
    setTimeout(() => { this.readyState = 1; this.onopen?.({}); });
  }
  send() {}
  close() { this.readyState = 3; }
};
"""
# Time from HTTP back to a WebSocket, which doubles with each attempt.
HURRY = """
const later = window.setTimeout;
window.setTimeout = (run, ms, ...more) => later(run, ms % 30000 ? ms : ms / 20, ...more);
"""
# Gives up after the shortest time that the server takes.
IMPATIENT = """
const plainly = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) {
  const message = JSON.parse(text);
  if (message.type === "call_invite") message.lifetime_s = 5;
  plainly.call(this, JSON.stringify(message));
};
"""
NO_STREAMS = """
const ask = window.fetch;
window.fetch = async (to, init) => {
  if (String(to).includes("/events")) throw new TypeError("held back");
  return ask(to, init);
};
"""


def connect(ada: Person, bo: Person) -> None:
    ada.call()
    bo.accept()
    for person in (ada, bo):
        person.sees_status(r"^Connected (directly|through)")
        person.sees_and_hears()


def goes_on(*people: Person) -> None:
    """With the connections that there were."""
    for person in people:
        person.sees_and_hears()
        person.sees_status(r"^Connected (directly|through)")
        assert person.page.evaluate("connections.length") == 1


def resumes(person: Person, times: int) -> None:
    eventually(
        person.page,
        lambda: bool(
            person.page.evaluate("heard.filter((type) => type === 'resumed').length") >= times
        ),
        f"{person.name} resumes for the {times}. time",
    )


def hang_up(ada: Person, bo: Person) -> None:
    """The signaling still works in both directions."""
    ada.page.click("#hangup")
    bo.sees_status("The call has ended")
    connect_again = bo.page.locator("[data-call=video]").first
    expect(connect_again).to_be_enabled()


@needs_own_network
@pytest.mark.root
def test_killed_sockets_are_resumed_and_the_call_goes_on(
    context: BrowserContext, parley: Parley
) -> None:
    ada = Person(context, parley.url, "Ada", LISTENER)
    bo = Person(context, parley.url, "Bo", LISTENER)
    bo.join(ada.create_room())
    connect(ada, bo)
    port = urllib.parse.urlsplit(parley.url).port
    for times in (1, 2):
        subprocess.run(["ss", "-K", "dport", "=", f":{port}"], check=True, capture_output=True)
        for person in (ada, bo):
            resumes(person, times)
        goes_on(ada, bo)
    assert "welcome" not in ada.page.evaluate("heard.slice(heard.indexOf('resumed'))")
    hang_up(ada, bo)
    for person in (ada, bo):
        person.leave()


def test_a_connection_that_is_closed_in_the_page_is_resumed(
    context: BrowserContext, parley: Parley
) -> None:
    ada = Person(context, parley.url, "Ada", LISTENER)
    bo = Person(context, parley.url, "Bo", LISTENER)
    bo.join(ada.create_room())
    connect(ada, bo)
    # As the client itself leaves a connection that it does not trust any more.
    ada.page.evaluate("sockets.at(-1).close(4001)")
    resumes(ada, 1)
    goes_on(ada, bo)
    hang_up(ada, bo)
    for person in (ada, bo):
        person.leave()


@pytest.mark.parametrize(
    ("obstacle", "way"),
    [(BLOCKED, "events"), (BLOCKED + NO_STREAMS, "messages"), (MUTE, "events")],
    ids=["blocked", "blocked-without-streams", "mute"],
)
def test_without_websockets_the_call_works_over_http(
    context: BrowserContext, parley: Parley, obstacle: str, way: str
) -> None:
    ada = Person(context, parley.url, "Ada", obstacle)
    bo = Person(context, parley.url, "Bo", LISTENER)
    asked: list[str] = []
    ada.page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    bo.join(ada.create_room())
    connect(ada, bo)
    assert any(f"/{way}?" in one for one in asked if one.startswith("GET"))
    hang_up(ada, bo)
    connect_back(bo, ada)
    for person in (ada, bo):
        person.leave()


def connect_back(bo: Person, ada: Person) -> None:
    """The one behind the obstacle is called and hangs up."""
    bo.call()
    ada.accept()
    for person in (ada, bo):
        person.sees_status(r"^Connected (directly|through)")
    ada.page.click("#hangup")
    bo.sees_status("The call has ended")


def test_during_a_call_the_session_moves_to_a_websocket(
    context: BrowserContext, parley: Parley
) -> None:
    ada = Person(context, parley.url, "Ada", LISTENER + BLOCKED + HURRY)
    bo = Person(context, parley.url, "Bo")
    bo.join(ada.create_room())
    connect(ada, bo)
    assert ada.page.evaluate("sockets.length") == 0
    ada.page.evaluate("blocked = false")
    resumes(ada, 1)
    goes_on(ada, bo)
    ada.page.click("#mic")
    expect(bo.page.locator("#remote-muted")).to_be_visible()
    hang_up(ada, bo)
    for person in (ada, bo):
        person.leave()


def test_two_devices_ring_and_the_one_that_answers_has_the_call(
    context: BrowserContext, parley: Parley
) -> None:
    ada, phone, tablet = (Person(context, parley.url, name) for name in ("Ada", "Bo", "Bo"))
    link = ada.create_room()
    phone.join(link)
    tablet.join(link)
    expect(ada.page.locator("#people li")).to_have_count(1)
    expect(ada.page.locator("#people li")).to_contain_text("2 devices")
    ada.call()
    for device in (phone, tablet):
        expect(device.page.locator("#ring-title")).to_have_text("Ada is calling")
    ada.sees_status("Ringing Bo")
    tablet.accept(video=False)
    phone.sees_status("Answered on another of your devices")
    expect(phone.page.locator("#ring")).to_be_hidden()
    ada.sees_status("^Connected directly")
    tablet.sees_and_hears()
    ada.receives_more("audio")
    expect(ada.page.locator("#remote-video")).to_be_hidden()
    phone.is_in_no_connection()
    for person in (ada, phone, tablet):
        person.leave()


def test_declined_on_one_device_is_declined_on_all(context: BrowserContext, parley: Parley) -> None:
    ada, phone, tablet = (Person(context, parley.url, name) for name in ("Ada", "Bo", "Bo"))
    link = ada.create_room()
    phone.join(link)
    tablet.join(link)
    ada.call()
    for device in (phone, tablet):
        expect(device.page.locator("#ring")).to_be_visible()
    phone.page.click("#decline")
    ada.sees_status("Bo declined the call")
    for device in (phone, tablet):
        device.sees_status("The call from Ada was declined")
        expect(device.page.locator("#ring")).to_be_hidden()
    for person in (ada, phone, tablet):
        person.leave()


def test_somebody_in_a_call_may_stay_in_it_or_take_the_other(
    context: BrowserContext, parley: Parley
) -> None:
    ada, bo, cleo = (Person(context, parley.url, name) for name in ("Ada", "Bo", "Cleo"))
    link = ada.create_room()
    bo.join(link)
    connect(ada, bo)
    cleo.join(link)
    cleo.page.click("[aria-label='Call Bo']")
    expect(bo.page.locator("#ring-title")).to_have_text("Cleo is calling")
    expect(bo.page.locator("#ring-text")).to_have_text("Accepting ends your call with Ada.")
    bo.shot("8-call-waiting")
    bo.page.click("#decline")
    cleo.sees_status("Bo is in another call")
    expect(bo.page.locator("#ring")).to_be_hidden()
    goes_on(ada, bo)

    cleo.page.click("[aria-label='Call Bo']")
    bo.accept()
    ada.sees_status("The call has ended")
    for person in (bo, cleo):
        person.sees_status("^Connected")
        person.sees_and_hears()
    for person in (ada, bo, cleo):
        person.leave()


def test_a_waiting_call_rings_on_when_the_first_one_ends(
    context: BrowserContext, parley: Parley
) -> None:
    ada, bo, cleo = (Person(context, parley.url, name) for name in ("Ada", "Bo", "Cleo"))
    link = ada.create_room()
    bo.join(link)
    connect(ada, bo)
    cleo.join(link)
    cleo.page.click("[aria-label='Call Bo']")
    expect(bo.page.locator("#ring-text")).to_be_visible()
    ada.page.click("#hangup")
    expect(bo.page.locator("#ring-text")).to_be_hidden()
    expect(bo.page.locator("#ring-title")).to_have_text("Cleo is calling")
    bo.accept(video=False)
    cleo.sees_status("^Connected")
    for person in (ada, bo, cleo):
        person.leave()


def test_a_call_that_nobody_answers_is_missed(context: BrowserContext, parley: Parley) -> None:
    ada = Person(context, parley.url, "Ada", IMPATIENT)
    phone, tablet = (Person(context, parley.url, "Bo") for _ in range(2))
    link = ada.create_room()
    phone.join(link)
    tablet.join(link)
    ada.call()
    ada.sees_status("Bo does not answer")
    for device in (phone, tablet):
        device.sees_status("You missed a call from Ada")
        expect(device.page.locator("#ring")).to_be_hidden()
    for person in (ada, phone, tablet):
        person.leave()
