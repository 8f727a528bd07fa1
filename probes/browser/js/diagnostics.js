/**
 * The diagnostics page: runs the checks at the press of a button, or shows a report from a link.
 * @module
 */

import { readReport, browserOf } from "./diagnostics-report.js";
import { DiagnosticsRun } from "./diagnostics-run.js";
import { Sharing } from "./diagnostics-share.js";
import { DiagnosticsView } from "./diagnostics-view.js";
import { ROWS, STATE_WORDS, askOf, rowOf } from "./diagnostics-words.js";
import { byId, copies, element, holdIcons } from "./page.js";
import { ProbeApi } from "./probe-api.js";
import { probeError } from "./settle.js";
import { syntheticMedia } from "./synthetic-media.js";
import { verdictOf } from "./verdict.js";

/** @typedef {import("./verdict.js").Verdict} Verdict */
/** @typedef {import("./reasons.js").State} State */

/** Between two sentences to a screen reader. */
const QUIET_MS = 4_000;
const api = new ProbeApi({});
const view = new DiagnosticsView();
const sharing = new Sharing(api);
/** @type {DiagnosticsRun | null} */
let running = null;
/** @type {Verdict["asks"]} */
let asks = [];
/** Ends of checks that were not announced yet. @type {Map<string, string>} */
const news = new Map();

/** @type {import("./diagnostics-run.js").Platform} */
const platform = {
  RTCPeerConnection: globalThis.RTCPeerConnection,
  WebSocket: globalThis.WebSocket,
  mediaDevices: navigator.mediaDevices,
  syntheticMedia,
  isHidden: () => document.hidden,
  browser: browserOf(navigator.userAgent),
};

async function start() {
  if (running) return;
  view.begin();
  const run = new DiagnosticsRun(api, platform, {
    onRow: (id, findings) => note(id, view.row(id, findings)),
    onSecond: (second) => view.second(second),
  });
  running = run;
  toggle(true);
  const announcing = setInterval(announce, QUIET_MS);
  const outcome = await run.go({ openDevices: byId("open-devices").checked });
  clearInterval(announcing);
  news.clear();
  byId("announcer").textContent = "";
  const verdict = verdictOf(outcome.findings);
  asks = verdict.asks;
  view.finish(outcome, verdict);
  sharing.offer(outcome);
  running = null;
  toggle(false);
}

/** @param {boolean} isRunning */
function toggle(isRunning) {
  const hadFocus = [byId("start"), byId("stop")].includes(document.activeElement);
  byId("start").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("stop").disabled = false;
  byId("open-devices").disabled = isRunning;
  if (!isRunning) byId("start-word").textContent = "Test again";
  if (hadFocus) byId(isRunning ? "stop" : "start").focus({ preventScroll: true });
}

/** @param {string} id @param {State} state */
function note(id, state) {
  const title = ROWS.find((row) => row.id === id)?.title ?? id;
  if (state !== "waiting" && state !== "running") news.set(title, STATE_WORDS[state].toLowerCase());
}

/** Several ends in one sentence: a screen reader has more to do than to listen to us. */
function announce() {
  if (!news.size) return;
  byId("announcer").textContent = `${[...news].map(([title, word]) => `${title} ${word}`).join(", ")}.`;
  news.clear();
}

/** @param {string} id */
async function showReport(id) {
  byId("begin").replaceChildren(element("a", { className: "button primary", href: "/diagnostics", textContent: "Test my own network" }));
  byId("title").textContent = "A network test";
  byId("lead").textContent = "Somebody shared this result with you.";
  view.missing("Loading", "The report comes from the server.");
  try {
    const report = await api.call("GET", `/v1/probes/reports/${encodeURIComponent(id)}`);
    const read = readReport(report);
    if (!read) return view.missing("This report cannot be read.", "It was made by another version of Parley, or changed on the way.");
    const rows = ROWS.map((row) => ({ id: row.id, findings: read.findings.filter((finding) => rowOf(finding) === row.id) }));
    for (const row of rows) view.row(row.id, row.findings.length ? row.findings : [{ name: row.id, state: "skipped" }]);
    for (const second of read.seconds) view.second(second);
    asks = read.verdict.asks;
    view.finish(read, read.verdict);
    sharing.opened(id, report);
  } catch (error) {
    byId("lead").textContent = "Somebody shared a link to it with you.";
    const { code } = probeError(error);
    if (code === 404) view.missing("This report does not exist, or not any more.", "Reports are kept for a while, and their senders can take them back.");
    else view.missing("The report cannot be loaded.", "The server cannot be reached now; try again in a moment.");
    for (const part of ["checks-card", "quality"]) byId(part).hidden = true;
  }
}

void holdIcons();
copies(byId("copy-asks"), () => `For calls to work, please allow:\n${asks.map(({ protocol, target }) => `- ${askOf(protocol, target)}`).join("\n")}`);
const shared = new URLSearchParams(location.search).get("report");
if (shared !== null) void showReport(shared);
else {
  // The second click of a double click is not a wish to stop.
  byId("start").addEventListener("click", () => void start());
  byId("stop").addEventListener("click", (/** @type {MouseEvent} */ { detail }) => {
    if (detail > 1) return;
    byId("stop").disabled = true;
    running?.stop();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden || !running) return;
    running.hidden();
    view.notice("Keep this page in view while the test runs: browsers slow down pages in the background.");
  });
  // The server's end of a connection would wait for a page that is gone.
  addEventListener("pagehide", () => running?.stop());
}
