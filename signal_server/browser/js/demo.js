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
let relayOnly = false;
/** @type {ReturnType<typeof setInterval> | undefined} */
let polling;

// Lobby ---------------------------------------------------------------------------------------

/** @param {string} room */
async function enter(room) {
  roomName = room;
  setBusy(true);
  byId("lobby-error").hidden = true;
  const identity = `guest-${randomName(6)}`;
  const name = byId("name").value.trim() || "Guest";
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

/** @param {string} peer */
function nameOf(peer) {
  const known = client.peers.get(peer);
  return String(known?.data?.name ?? known?.name ?? known?.identity ?? "Guest").slice(0, 40);
}

function listen() {
  for (const name of /** @type {const} */ (["room", "peer_joined", "peer_left", "peer_updated"])) {
    client.on(name, () => {
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
  client.on("error", (error) => notify([error.message]));
}

function drawPeople() {
  const items = [...client.peers.values()].map(({ peer }) => {
    const who = nameOf(peer);
    return element("li", {}, [
      element("span", { className: "face", textContent: initial(who), ariaHidden: "true" }),
      element("span", { className: "who", textContent: who }),
      callButton(peer, `Call ${who}`, "camera", true),
      callButton(peer, `Call ${who} without video`, "phone", false),
    ]);
  });
  byId("people").replaceChildren(...items);
  byId("alone").hidden = items.length > 0;
}

/**
 * @param {string} peer
 * @param {string} label
 * @param {string} symbol
 * @param {boolean} video
 */
function callButton(peer, label, symbol, video) {
  const button = element("button", {
    className: `button square${video ? " primary" : ""}`,
    type: "button",
    title: label,
    ariaLabel: label,
    disabled: call !== null,
    onclick: () => void place(peer, video),
  }, [icon(symbol)]);
  button.dataset.call = video ? "video" : "voice";
  return button;
}

/** @param {string} who */
const initial = (who) => [...who][0]?.toUpperCase() ?? "?";

// Calls ---------------------------------------------------------------------------------------

/**
 * @param {string} peer
 * @param {boolean} video
 */
async function place(peer, video) {
  const opened = await devices(video);
  const ringing = /** @type {Call | null} */ (call);
  // Both wanted to call at the same moment: that is a call.
  if (ringing?.peer === peer && ringing.state === "ringing") {
    return ringing.accept({ stream: opened, iceTransportPolicy: policy() });
  }
  if (ringing || !client.peers.has(peer)) return closeDevices();
  begin(client.call(peer, { stream: opened, video, iceTransportPolicy: policy() }));
}

/** @param {boolean} video */
async function accept(video) {
  const ringing = call;
  byId("ring").hidden = true;
  const opened = await devices(video);
  if (call !== ringing || !ringing || ringing.state !== "ringing") return;
  await ringing.accept({ stream: opened, iceTransportPolicy: policy() });
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
  const who = nameOf(started.peer);
  call = started;
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
  started.on("ended", ({ reason }) => ended(who, reason));
  polling = setInterval(() => void poll(), POLL_MS);
  byId("remote-video").requestVideoFrameCallback?.(() => panel.mark("First picture"));
  drawPeople();
  drawCall();
}

/**
 * @param {string} who
 * @param {string} reason
 */
function ended(who, reason) {
  clearInterval(polling);
  call = null;
  closeDevices();
  byId("remote-video").srcObject = null;
  byId("notice").hidden = true;
  drawPeople();
  drawCall();
  say((ENDINGS[reason] ?? ENDINGS.user_hangup)?.(who) ?? "");
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
  const who = call ? nameOf(call.peer) : "";
  const isUp = state === "connecting" || state === "active";
  const seesVideo = isUp && call?.remoteMedia.video === true;
  byId("ring").hidden = state !== "ringing";
  byId("ring-title").textContent = call?.remoteMedia.video ? `${who} is calling` : `${who} is calling, without video`;
  byId("ring-avatar").textContent = initial(who);
  byId("remote-video").hidden = !seesVideo;
  byId("curtain").hidden = seesVideo || state === "ringing";
  byId("nameplate").hidden = !isUp;
  byId("remote-name").textContent = who;
  byId("remote-muted").toggleAttribute("hidden", call?.remoteMedia.audio !== false);
  byId("avatar").classList.toggle("ringing", state === "calling");
  byId("avatar").replaceChildren(call ? initial(who) : icon("person"));
  const [title, text] = curtainWords(state, who, client.peers.size);
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
  byId("hangup").disabled = !call || call.state === "ringing";
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
  if (client.state === "reconnecting") return say("The connection to the server was lost; trying again.");
  if (client.state === "closed") return say("Disconnected from the server. Reload the page to come back.");
  switch (call?.state) {
    case "calling":
      return say(`Ringing ${nameOf(call.peer)}.`);
    case "ringing":
      return say(`${nameOf(call.peer)} is calling.`);
    case "connecting":
      return say("Connecting.");
    case "active":
      if (path) say(`Connected ${wayOf(path)}${path.roundTripMs === null ? "" : `, ${inMs(path.roundTripMs)}`}`);
      else if (!byId("status").textContent.startsWith("Connected")) say("Connected");
      return undefined;
    default: {
      const others = client.peers.size;
      return say(others === 0 ? "Waiting for somebody to join." : others === 1 ? "One other person is here." : `${others} others are here.`);
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
copies(byId("copy-link"), () => byId("link").value, byId("link"));
