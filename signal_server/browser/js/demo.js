/**
 * The call page: a room, the people in it, and one call at a time.
 * @module
 */

import { openMedia, openTrack } from "./demo-media.js";
import { Panel } from "./demo-panel.js";
import { drawPeople, nameOf, others } from "./demo-people.js";
import { callWords, drawRing, drawSelf, drawStage, drawTools, isRung, roomWords } from "./demo-stage.js";
import { REFUSALS, endingWords } from "./demo-words.js";
import { accessToken, byId, copies, holdIcons, randomName, signalUrl } from "./page.js";
import { SignalingClient } from "./parley.js";

/** @typedef {import("./parley.d.ts").Call} Call */

const JOINED = "Joined the room";
const POLL_MS = 1000;

const panel = new Panel();
/** @type {SignalingClient} */
let client;
/** @type {Call | null} */
let call = null;
/** Rings while `call` is under way. @type {Call | null} */
let waiting = null;
/** @type {MediaStream | null} */
let stream = null;
let roomName = "";
/** How the last call ended; said until something happens here. */
let farewell = "";
let relayOnly = false;
/** @type {ReturnType<typeof setInterval> | undefined} */
let polling;

// Lobby ---------------------------------------------------------------------------------------

/** @param {string} room */
async function enter(room) {
  roomName = room;
  setBusy(true);
  byId("lobby-error").hidden = true;
  const given = byId("name").value.trim();
  const name = given || "Guest";
  // The same name twice in a room is one person with two devices. Without a name: somebody else.
  const identity = `${given || `guest-${randomName(6)}`}@${room}`;
  try {
    const getToken = () => accessToken(identity, room);
    await getToken();
    client = new SignalingClient({ url: signalUrl(), getToken, callWaiting: true });
    listen();
    await client.connect();
    await client.join(room, { name });
  } catch (error) {
    client?.close();
    showLobbyError(/** @type {Error} */ (error));
    return;
  } finally {
    setBusy(false);
  }
  panel.mark(JOINED);
  showRoom();
}

/** @param {boolean} busy */
function setBusy(busy) {
  byId("create-button").disabled = busy;
  byId("join-button").disabled = busy;
}

/** @param {Error & {code?: string}} error */
function showLobbyError(error) {
  byId("lobby-error").hidden = false;
  byId("lobby-error").lastElementChild.textContent = REFUSALS[error.code ?? ""] ?? error.message;
}

function showRoom() {
  const link = new URL(`/demo?${new URLSearchParams({ room: roomName })}`, location.href);
  history.replaceState(null, "", link.pathname + link.search + location.hash);
  byId("link").value = link.href;
  byId("qr").src = `/demo/qr.svg?${new URLSearchParams({ url: link.href })}`;
  byId("lobby").hidden = true;
  byId("room").hidden = false;
  byId("room").focus();
  document.title = `${roomName} · Parley`;
  drawList();
  drawCall();
}

function leave() {
  client.close();
  location.assign(`/demo${location.hash}`);
}

// People --------------------------------------------------------------------------------------

function listen() {
  for (const name of /** @type {const} */ (["room", "peer_joined", "peer_left", "peer_updated"])) {
    client.on(name, () => {
      if (name === "peer_joined") farewell = "";
      drawList();
      if (!call) drawCall();
    });
  }
  client.on("call", (incoming) => {
    if (waiting) return incoming.busy();
    if (call) wait(incoming);
    else begin(incoming);
    // Not on a button: whoever is typing must not answer by accident.
    byId("ring").focus();
  });
  client.on("state", () => drawStatus());
  client.on("session_lost", () => notify(["The connection to the server was away for too long. You are back in the room."]));
  client.on("error", (error) => notify([error.message]));
}

// Calls ---------------------------------------------------------------------------------------

/**
 * @param {string} identity
 * @param {boolean} video
 */
async function place(identity, video) {
  const opened = await devices(video);
  const ringing = /** @type {Call | null} */ (call);
  // Both wanted to call at the same moment: that is a call.
  if (ringing?.identity === identity && isRung(ringing)) {
    return ringing.accept({ stream: opened, video, iceTransportPolicy: policy() });
  }
  if (ringing || !others(client).has(identity)) return closeDevices();
  begin(client.call(identity, { stream: opened, video, iceTransportPolicy: policy() }));
}

/** @param {Call} incoming */
function wait(incoming) {
  waiting = incoming;
  incoming.once("ended", () => {
    if (waiting === incoming) waiting = null;
    drawCall();
  });
  drawCall();
}

/** The call that can be answered now. @returns {Call | null} */
const rung = () => (isRung(call) ? call : waiting);

/** The waiting call is the only one. */
function advance() {
  const next = waiting;
  waiting = null;
  if (next) begin(next);
}

function decline() {
  if (rung() === call) return call?.decline();
  waiting?.busy();
}

/** @param {boolean} video */
async function accept(video) {
  // Its end brings the waiting one forward.
  if (waiting && rung() === waiting) call?.hangup();
  const ringing = call;
  byId("ring").hidden = true;
  const opened = await devices(video);
  // Gone meanwhile, or answered on another device.
  if (call !== ringing || !ringing || !isRung(ringing)) return call ? undefined : closeDevices();
  await ringing.accept({ stream: opened, video, iceTransportPolicy: policy() });
}

/** @param {boolean} video */
async function devices(video) {
  const opened = await openMedia({ video });
  stream = opened.stream;
  const left = stream.getTracks().length ? [] : ["You can see and hear the others, but not be seen or heard."];
  notify([...opened.missing, ...left]);
  drawDevices();
  return stream;
}

function closeDevices() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  drawDevices();
}

const policy = () => (relayOnly ? "relay" : "all");

/** @param {Call} started */
function begin(started) {
  const who = nameOf(client, started.identity);
  call = started;
  farewell = "";
  panel.begin([JOINED]);
  panel.mark(started.direction === "outgoing" ? "Rang" : "Was rung");
  started.on("state", (state) => {
    if (state === "connecting") panel.mark("Accepted");
    drawCall();
  });
  started.on("connection", (connection) => {
    panel.watch(connection);
    connection.on("path", (path) => {
      panel.showPath(path);
      drawStatus(path);
    });
    connection.on("error", (error) => notify([error.message]));
  });
  started.on("remotestream", (remote) => {
    byId("remote-video").srcObject = remote;
  });
  started.on("media", drawCall);
  started.on("warning", () => notify(["No relay is available; the call works only where a direct way exists."]));
  started.on("ended", ({ reason, error }) => ended(endingWords(started.direction, reason, who), error));
  polling = setInterval(() => void poll(), POLL_MS);
  byId("remote-video").requestVideoFrameCallback?.(() => panel.mark("First picture"));
  drawList();
  drawCall();
}

/**
 * @param {string} words
 * @param {Error | null} error
 */
function ended(words, error) {
  clearInterval(polling);
  call = null;
  closeDevices();
  byId("remote-video").srcObject = null;
  notify(error ? [error.message] : []);
  farewell = words;
  if (waiting) return advance();
  drawList();
  drawCall();
}

async function poll() {
  const { connection } = call ?? {};
  if (!connection || connection.closed) return;
  const [path, report] = await Promise.all([connection.path(), connection.rtc.getStats()]);
  if (connection.closed) return;
  panel.showPath(path);
  panel.showMedia(report);
  drawStatus(path);
}

// The toolbar ---------------------------------------------------------------------------------

async function toggleMicrophone() {
  if (!call) return;
  if (stream && !stream.getAudioTracks().length) return turnOn("audio");
  call.mute(!call.isMuted);
  drawDevices();
}

async function toggleCamera() {
  if (!call || !stream) return;
  const [track] = stream.getVideoTracks();
  if (!track) return turnOn("video");
  stream.removeTrack(track);
  track.stop();
  await call.replaceTrack("video", null);
  drawDevices();
}

/** @param {"audio" | "video"} kind */
async function turnOn(kind) {
  const current = call;
  try {
    const track = await openTrack(kind);
    if (!call || call !== current || !stream) return track.stop();
    stream.addTrack(track);
    await call.replaceTrack(kind, track);
    notify([]);
  } catch (error) {
    notify([/** @type {Error} */ (error).message]);
  }
  drawDevices();
}

async function toggleRelay() {
  relayOnly = !relayOnly;
  drawDevices();
  if (call?.connection) await call.setIceTransportPolicy(policy());
}

// Drawing -------------------------------------------------------------------------------------

function drawCall() {
  const who = call ? nameOf(client, call.identity) : "";
  drawStage(call, who, others(client).size);
  const ringing = rung();
  drawRing(ringing, ringing ? nameOf(client, ringing.identity) : "", ringing === call ? "" : who);
  drawDevices();
  drawStatus();
}

function drawList() {
  drawPeople(client, call === null, (identity, video) => void place(identity, video));
}

function drawDevices() {
  drawSelf(stream);
  drawTools(call, stream, relayOnly);
}

/** @param {import("./parley.d.ts").Path | null} [path] */
function drawStatus(path) {
  if (client.state === "closed") return say("Disconnected from the server. Reload the page to come back.");
  if (client.state === "reconnecting") return say(call ? "Reconnecting to the server. The call goes on." : "Reconnecting.");
  if (call) return say(callWords(call, nameOf(client, call.identity), path));
  return say(farewell || roomWords(others(client).size));
}

/** @param {string} words */
function say(words) {
  const status = byId("status");
  if (status.textContent !== words) status.textContent = words;
}

/** @param {string[]} words nothing hides the notice */
function notify(words) {
  byId("notice").hidden = words.length === 0;
  byId("notice").lastElementChild.textContent = words.join(" ");
}

// Wiring --------------------------------------------------------------------------------------

void holdIcons();
const linked = new URLSearchParams(location.search).get("room");
if (linked) {
  byId("lobby-title").textContent = "You are invited to a call";
  byId("lobby-lead").textContent = `The room is called ${linked}. Say who you are, and join.`;
  byId("room-name").value = linked;
  byId("create").hidden = true;
  byId("join-button").classList.add("primary");
}
byId("create").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  void enter(`${randomName(4)}-${randomName(4)}-${randomName(4)}`);
});
byId("join").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  void enter(byId("room-name").value);
});
byId("accept").addEventListener("click", () => void accept(true));
byId("accept-voice").addEventListener("click", () => void accept(false));
byId("decline").addEventListener("click", decline);
byId("mic").addEventListener("click", () => void toggleMicrophone());
byId("camera").addEventListener("click", () => void toggleCamera());
byId("relay").addEventListener("click", () => void toggleRelay());
byId("hangup").addEventListener("click", () => call?.hangup());
byId("leave").addEventListener("click", leave);
// Without a goodbye the others would see somebody who may still come back.
addEventListener("pagehide", () => client?.close());
addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
/** @type {any} */ (navigator).connection?.addEventListener("change", () => client?.networkChanged());
copies(byId("copy-link"), () => byId("link").value, byId("link"));
