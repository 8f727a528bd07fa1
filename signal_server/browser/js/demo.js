/**
 * The call page: a room, the people in it, and one call at a time.
 * @module
 */

import { openMedia, openTrack } from "./demo-media.js";
import { Panel } from "./demo-panel.js";
import { ENDINGS, REFUSALS, curtainWords } from "./demo-words.js";
import { accessToken, byId, copies, element, icon, inMs, randomName, setIcon, signalUrl, wayOf } from "./page.js";
import { SignalingClient } from "./parley.js";

/** @typedef {import("./parley.d.ts").Call} Call */
/** @typedef {import("./parley.d.ts").Peer} Peer */

const JOINED = "Joined the room";
const POLL_MS = 1000;

const panel = new Panel();
/** @type {SignalingClient} */
let client;
/** @type {Call | null} */
let call = null;
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
    client = new SignalingClient({ url: signalUrl(), getToken });
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
  drawPeople();
  drawCall();
}

function leave() {
  client.close();
  location.assign(`/demo${location.hash}`);
}

// People --------------------------------------------------------------------------------------

/** @param {string} identity */
function nameOf(identity) {
  const known = [...client.peers.values()].find((peer) => peer.identity === identity);
  return String(known?.data?.name ?? known?.name ?? identity.replace(/@[^@]*$/, "")).slice(0, 40);
}

/** The others by identity, each with its devices. @returns {Map<string, Peer[]>} */
function others() {
  /** @type {Map<string, Peer[]>} */
  const found = new Map();
  for (const peer of client.peers.values()) {
    if (peer.identity === client.welcome?.identity) continue;
    found.set(peer.identity, [...(found.get(peer.identity) ?? []), peer]);
  }
  return found;
}

function listen() {
  for (const name of /** @type {const} */ (["room", "peer_joined", "peer_left", "peer_updated"])) {
    client.on(name, () => {
      if (name === "peer_joined") farewell = "";
      drawPeople();
      if (!call) drawCall();
    });
  }
  client.on("call", (incoming) => {
    begin(incoming);
    // Not on a button: whoever is typing must not answer by accident.
    byId("ring").focus();
  });
  client.on("state", () => drawStatus());
  client.on("session_lost", () => notify(["The connection to the server was away for too long. You are back in the room."]));
  client.on("error", (error) => notify([error.message]));
}

function drawPeople() {
  const items = [...others()].map(([identity, devices]) => {
    const who = nameOf(identity);
    const isAway = devices.every(({ connected }) => !connected);
    const extra = isAway ? "reconnecting" : devices.length > 1 ? `${devices.length} devices` : "";
    return element("li", {}, [
      element("span", { className: "face", textContent: initial(who), ariaHidden: "true" }),
      element("span", { className: "who" }, [who, element("span", { className: "soft small", textContent: extra && ` ${extra}` })]),
      callButton(identity, `Call ${who}`, "camera", true),
      callButton(identity, `Call ${who} without video`, "phone", false),
    ]);
  });
  byId("people").replaceChildren(...items);
  byId("alone").hidden = items.length > 0;
}

/**
 * @param {string} identity
 * @param {string} label
 * @param {string} symbol
 * @param {boolean} video
 */
function callButton(identity, label, symbol, video) {
  const button = element("button", {
    className: `button square${video ? " primary" : ""}`,
    type: "button",
    title: label,
    ariaLabel: label,
    disabled: call !== null,
    onclick: () => void place(identity, video),
  }, [icon(symbol)]);
  button.dataset.call = video ? "video" : "voice";
  return button;
}

/** @param {string} who */
const initial = (who) => [...who][0]?.toUpperCase() ?? "?";

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
  if (ringing || !others().has(identity)) return closeDevices();
  begin(client.call(identity, { stream: opened, video, iceTransportPolicy: policy() }));
}

/** @param {Call | null} one */
const isRung = (one) => one?.direction === "incoming" && one.state === "ringing";

/** @param {boolean} video */
async function accept(video) {
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
  drawSelf();
  return stream;
}

function closeDevices() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  drawSelf();
}

const policy = () => (relayOnly ? "relay" : "all");

/** @param {Call} started */
function begin(started) {
  const who = nameOf(started.identity);
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
  started.on("ended", ({ reason, error }) => ended(who, reason, error));
  polling = setInterval(() => void poll(), POLL_MS);
  byId("remote-video").requestVideoFrameCallback?.(() => panel.mark("First picture"));
  drawPeople();
  drawCall();
}

/**
 * @param {string} who
 * @param {string} reason
 * @param {Error | null} error
 */
function ended(who, reason, error) {
  clearInterval(polling);
  call = null;
  closeDevices();
  byId("remote-video").srcObject = null;
  notify(error ? [error.message] : []);
  farewell = (ENDINGS[reason] ?? ENDINGS.user_hangup)?.(who) ?? "";
  drawPeople();
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
  drawTools();
}

async function toggleCamera() {
  if (!call || !stream) return;
  const [track] = stream.getVideoTracks();
  if (!track) return turnOn("video");
  stream.removeTrack(track);
  track.stop();
  await call.replaceTrack("video", null);
  drawSelf();
  drawTools();
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
  drawSelf();
  drawTools();
}

async function toggleRelay() {
  relayOnly = !relayOnly;
  drawTools();
  if (call?.connection) await call.setIceTransportPolicy(policy());
}

// Drawing -------------------------------------------------------------------------------------

function drawCall() {
  const state = call?.state ?? null;
  const who = call ? nameOf(call.identity) : "";
  const ringsHere = isRung(call);
  const isUp = state === "connecting" || state === "active";
  const seesVideo = isUp && call?.remoteMedia.video === true;
  byId("ring").hidden = !ringsHere;
  byId("ring-title").textContent = call?.remoteMedia.video ? `${who} is calling` : `${who} is calling, without video`;
  byId("ring-avatar").textContent = initial(who);
  byId("remote-video").hidden = !seesVideo;
  byId("curtain").hidden = seesVideo || ringsHere;
  byId("nameplate").hidden = !isUp;
  byId("remote-name").textContent = who;
  byId("remote-muted").toggleAttribute("hidden", call?.remoteMedia.audio !== false);
  byId("avatar").classList.toggle("ringing", state === "calling" || state === "ringing");
  byId("avatar").replaceChildren(call ? initial(who) : icon("person"));
  const [title, text] = curtainWords(state, who, others().size);
  byId("curtain-title").textContent = title;
  byId("curtain-text").textContent = text;
  drawSelf();
  drawTools();
  drawStatus();
}

function drawSelf() {
  const camera = stream?.getVideoTracks()[0] ?? null;
  const video = byId("local-video");
  byId("self").hidden = !stream;
  if (video.srcObject !== stream) video.srcObject = stream;
  video.hidden = !camera;
  byId("self-text").hidden = camera !== null;
}

function drawTools() {
  const isUp = call?.state === "connecting" || call?.state === "active";
  const hasMicrophone = (stream?.getAudioTracks().length ?? 0) > 0;
  const hasCamera = (stream?.getVideoTracks().length ?? 0) > 0;
  const isSilent = isUp && (!hasMicrophone || call?.isMuted === true);
  drawTool("mic", isUp, isSilent, isSilent ? "mic-off" : "mic", isSilent ? "Unmute" : "Mute");
  const isDark = isUp && !hasCamera;
  drawTool("camera", isUp, isDark, isDark ? "camera-off" : "camera", isDark ? "Camera on" : "Camera off");
  drawTool("relay", true, relayOnly, "shield", relayOnly ? "Relay forced" : "Force relay");
  byId("hangup").disabled = !call || isRung(call);
}

/**
 * @param {string} id
 * @param {boolean} enabled
 * @param {boolean} pressed
 * @param {string} symbol
 * @param {string} label
 */
function drawTool(id, enabled, pressed, symbol, label) {
  const button = byId(id);
  button.disabled = !enabled;
  button.setAttribute("aria-pressed", String(pressed));
  setIcon(button.querySelector(".icon"), symbol);
  button.querySelector("span").textContent = label;
}

/** @param {import("./parley.d.ts").Path | null} [path] */
function drawStatus(path) {
  if (client.state === "closed") return say("Disconnected from the server. Reload the page to come back.");
  if (client.state === "reconnecting") return say(call ? "Reconnecting to the server. The call goes on." : "Reconnecting.");
  switch (call?.state) {
    case "calling":
      return say(`Calling ${nameOf(call.identity)}.`);
    case "ringing":
      return say(isRung(call) ? `${nameOf(call.identity)} is calling.` : `Ringing ${nameOf(call.identity)}.`);
    case "connecting":
      return say("Connecting.");
    case "active":
      if (path) say(`Connected ${wayOf(path)}${path.roundTripMs === null ? "" : `, ${inMs(path.roundTripMs)}`}`);
      else if (!byId("status").textContent.startsWith("Connected")) say("Connected");
      return undefined;
    default: {
      const count = others().size;
      if (farewell) return say(farewell);
      return say(count === 0 ? "Waiting for somebody to join." : count === 1 ? "One other person is here." : `${count} others are here.`);
    }
  }
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
byId("decline").addEventListener("click", () => call?.decline());
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
