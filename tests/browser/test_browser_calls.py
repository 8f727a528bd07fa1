"""Calls between two Chromium tabs on the demo page, with nothing between them but Parley."""

from __future__ import annotations

import re

import pytest
from people import ONLY, Person, connect
from playwright.sync_api import BrowserContext, expect
from servers import Parley

pytestmark = pytest.mark.chromium

SLOW_DESCRIPTIONS = """
const set = RTCPeerConnection.prototype.setRemoteDescription;
RTCPeerConnection.prototype.setRemoteDescription = async function (description) {
  await new Promise((resolve) => setTimeout(resolve, 2000));
  return set.call(this, description);
};
"""
# The wire never reorders, so this does: the first description comes after every candidate. Numbers
# go, or the client would rightly take the late message for a repeated one.
CANDIDATES_FIRST = """
window.overtaken = 0;
window.WebSocket = class extends WebSocket {
  set onmessage(listener) {
    let holds = false;
    this.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      delete message.seq;
      const say = () => listener({ data: JSON.stringify(message) });
      if (message.type === "candidate" && holds) window.overtaken += message.candidates.length;
      if (message.type !== "offer" && message.type !== "answer") return say();
      holds = true;
      setTimeout(() => { holds = false; say(); }, 1500);
    });
  }
};
"""
NO_DEVICES = """
navigator.mediaDevices.getUserMedia = async () => {
  throw new DOMException("", "NotFoundError");
};
"""
HOLD_DEVICES = """() => {
  const held = new Promise((resolve) => { window.giveDevices = resolve; });
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = (wanted) => held.then(() => open(wanted));
}"""


def test_two_tabs_call_each_other_hang_up_and_call_again(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    bo.shot("1-before")
    ada.call()
    expect(bo.page.locator("#ring-title")).to_have_text("Ada is calling")
    bo.shot("2-ringing")
    bo.accept()
    ada.sees_status(r"^Connected directly over UDP, \d+ ms$")
    for person in pair:
        person.sees_and_hears()
    ada.shot("3-in-call")

    bo.page.click("#hangup")
    ada.sees_status("The call has ended")
    expect(ada.page.locator("#remote-video")).to_be_hidden()
    ada.shot("4-after")
    for person in pair:
        person.is_in_no_connection()

    connect(bo, ada)
    for person in pair:
        person.sees_and_hears()


def test_mute_and_camera_off_and_on_again(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    connect(ada, bo)
    ada.page.click("#mic")
    expect(bo.page.locator("#remote-muted")).to_be_visible()
    assert ada.page.locator("#mic").get_attribute("aria-pressed") == "true"
    ada.page.click("#mic")
    expect(bo.page.locator("#remote-muted")).to_be_hidden()

    ada.page.click("#camera")
    expect(bo.page.locator("#remote-video")).to_be_hidden()
    expect(bo.page.locator("#curtain-text")).to_have_text("Camera off")
    offers = ada.page.evaluate("window.connections.at(-1).localDescription.sdp")
    ada.page.click("#camera")
    bo.sees_and_hears()
    # No new negotiation: the description is the one from before.
    assert ada.page.evaluate("window.connections.at(-1).localDescription.sdp") == offers


def test_a_voice_call_turns_video_on_without_a_new_call(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    ada.call(video=False)
    expect(bo.page.locator("#ring-title")).to_have_text("Ada is calling, without video")
    bo.accept(video=False)
    ada.sees_status("^Connected")
    bo.receives_more("audio")
    assert bo.measure()["frames"] == 0
    expect(bo.page.locator("#remote-video")).to_be_hidden()
    bo.shot("5-voice-call")
    ada.page.click("#camera")
    bo.sees_and_hears()
    bo.page.click("#camera")
    ada.sees_and_hears()
    assert ada.page.evaluate("window.connections.length") == 1


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_forced_relay_carries_the_call(
    context: BrowserContext, parley: Parley, transport: str
) -> None:
    ada = Person(context, parley.url, "Ada", ONLY % transport)
    bo = Person(context, parley.url, "Bo", ONLY % transport)
    bo.join(ada.create_room())
    for person in (ada, bo):
        person.page.click("#relay")
    connect(ada, bo)
    over = transport.upper()
    for person in (ada, bo):
        person.sees_status(rf"^Connected through the relay over {over}, \d+ ms$")
        person.sees_and_hears()
        measured = person.measure()
        assert (measured["local"], measured["relay"]) == ("relay", transport)
    ada.page.click("#panel summary")
    expect(ada.page.locator("#path-rows")).to_contain_text(f"relay, to the relay over {over}")
    ada.shot(f"6-relay-details-{transport}")
    for person in (ada, bo):
        person.leave()


def test_the_relay_can_be_forced_and_released_during_a_call(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    connect(ada, bo)
    ada.sees_status("^Connected directly")
    ada.page.click("#relay")
    ada.sees_status("^Connected through the relay over (UDP|TCP)")
    bo.sees_and_hears()
    ada.page.click("#relay")
    ada.sees_status("^Connected directly")
    ada.sees_and_hears()


def test_decline_and_cancel_are_told_to_the_other(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    ada.call()
    bo.page.click("#decline")
    ada.sees_status("Bo declined the call")
    ada.call()
    expect(bo.page.locator("#ring")).to_be_visible()
    ada.page.click("#hangup")
    bo.sees_status("The call was canceled")
    expect(bo.page.locator("#ring")).to_be_hidden()


def test_both_ring_each_other_and_get_one_call(pair: tuple[Person, Person]) -> None:
    for person in pair:
        person.page.evaluate(HOLD_DEVICES)
        person.call()
    # Both have clicked before either invitation can leave.
    for person in pair:
        person.page.evaluate("giveDevices()")
    for person in pair:
        person.sees_status("^Connected directly")
        person.sees_and_hears()
        assert person.measure()["live"] == 1


def test_leaving_ends_the_call_for_the_other(pair: tuple[Person, Person]) -> None:
    ada, bo = pair
    connect(ada, bo)
    bo.page.click("#leave")
    ada.sees_status("Bo is not there any more|The call has ended")
    expect(ada.page.locator("#people li")).to_have_count(0)


@pytest.mark.parametrize("slow", ["Ada", "Bo"])
def test_a_description_that_takes_seconds_to_set(
    context: BrowserContext, parley: Parley, slow: str
) -> None:
    ada, bo = (
        Person(context, parley.url, name, SLOW_DESCRIPTIONS if name == slow else "")
        for name in ("Ada", "Bo")
    )
    bo.join(ada.create_room())
    connect(ada, bo)
    for person in (ada, bo):
        person.sees_and_hears()
    for person in (ada, bo):
        person.leave()


def test_candidates_that_arrive_before_the_description(
    context: BrowserContext, parley: Parley
) -> None:
    ada = Person(context, parley.url, "Ada", CANDIDATES_FIRST)
    bo = Person(context, parley.url, "Bo", CANDIDATES_FIRST)
    bo.join(ada.create_room())
    connect(ada, bo)
    assert bo.page.evaluate("window.overtaken") > 0
    for person in (ada, bo):
        person.sees_and_hears()
    for person in (ada, bo):
        person.leave()


def test_without_devices_one_still_sees_the_other(context: BrowserContext, parley: Parley) -> None:
    ada, bo = Person(context, parley.url, "Ada", NO_DEVICES), Person(context, parley.url, "Bo")
    bo.join(ada.create_room())
    connect(ada, bo)
    expect(ada.page.locator("#notice")).to_contain_text("No camera was found")
    expect(ada.page.locator("#notice")).to_contain_text("You can see and hear the others")
    ada.sees_and_hears()
    expect(bo.page.locator("#remote-video")).to_be_hidden()
    ada.shot("7-without-devices")
    for person in (ada, bo):
        person.leave()


def test_errors_in_the_lobby_are_words(context: BrowserContext, parley: Parley) -> None:
    page = context.new_page()
    page.goto(f"{parley.url}/demo?room=garden#token=wrong")
    page.click("#join-button")
    error = page.locator("#lobby-error")
    expect(error).to_have_text(re.compile("Your link is not accepted"))
    expect(page.locator("#room")).to_be_hidden()
