"""A page with a probe client in it, and deployments whose relay is a real coturn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coturn import Coturn
from deployments import Deployment
from playwright.sync_api import BrowserContext, Page
from servers import Parley, Server, start_parley

SECRET = "the-secret-of-coturn-and-parley-only"
PROBES = """
import NetworkTest, { ErrorNames, ProbeClient } from "/js/parley-probes.js";
class Counted extends RTCPeerConnection {
  static opened = 0;
  static closed = 0;
  constructor(...given) { super(...given); Counted.opened += 1; }
  close() { if (this.signalingState !== "closed") Counted.closed += 1; super.close(); }
}
window.Counted = Counted;
window.client = (options = {}) =>
  new ProbeClient({ baseUrl: location.origin, RTCPeerConnection: Counted, ...options });
window.ErrorNames = ErrorNames;
window.token = (await (await fetch("/v1/probes/sessions", { method: "POST" })).json()).token;
// What NetworkTest opens it has to end, too.
window.tracks = [];
const mediaDevices = {
  enumerateDevices: () => navigator.mediaDevices.enumerateDevices(),
  getUserMedia: async (wish) => {
    const stream = await navigator.mediaDevices.getUserMedia(wish);
    tracks.push(...stream.getTracks());
    return stream;
  },
};
window.network = ({ platform, sessionId = location.origin, ...options } = {}) => new NetworkTest(
  { initSession() {} }, { apiKey: "any", sessionId, token: window.token },
  { platform: { RTCPeerConnection: Counted, mediaDevices, ...platform }, ...options });
window.failure = (promise) => promise.then(
  () => null, ({ name, reason, message }) => ({ name, reason, message }));
window.camera = async () =>
  (await navigator.mediaDevices.getUserMedia({ video: true })).getVideoTracks()[0];
window.probes = window.client();
window.atStep = (wanted, act) => {
  let isThere = false;
  return ({ transports }) => {
    const isHere = ({ state, step }) => state === "running" && step === wanted;
    if (isThere || !transports.some(isHere)) return;
    isThere = true;
    act();
  };
};
window.isReady = true;
"""


@contextmanager
def page_of(context: BrowserContext, parley: Server | Deployment) -> Iterator[Page]:
    """A page with `probes`, a client of that server; fails if anything is left behind."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{parley.url}/healthz")
    page.add_script_tag(content=PROBES, type="module")
    page.wait_for_function("window.isReady")
    yield page
    counts = page.evaluate("[Counted.opened, Counted.closed]")
    tracks = page.evaluate("tracks.map(({ kind, readyState }) => [kind, readyState])")
    page.close()
    assert complaints == []
    assert counts[0] == counts[1], f"{counts} connections were opened and closed"
    assert [kind for kind, state in tracks if state == "live"] == []


@contextmanager
def behind(coturn: Coturn, *transports: str, secret: str | None = None) -> Iterator[Parley]:
    """A deployment whose relay is that coturn."""
    urls = [f"turn:127.0.0.1:{coturn.port}?transport={one}" for one in transports or ("udp", "tcp")]
    arguments = [word for url in urls for word in ("--turn-url", url)]
    with start_parley(*arguments, "--turn-secret", secret or coturn.secret) as parley:
        yield parley


def states(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["transport"]: (one["state"], one["reason"]) for one in result["transports"]}
