/**
 * The diagnostics page: runs the checks one after the other, shows them, and offers the report.
 * @module
 */

import { CHECKS, carrierOf } from "./network-checks.js";
import { byId, element, icon, setIcon } from "./page.js";
import { verdictOf } from "./diagnostics-verdict.js";

/** @typedef {import("./diagnostics-verdict.js").CheckState} CheckState */
/** @typedef {import("./network-checks.js").Outcome} Outcome */

const SYMBOLS = /** @type {Record<CheckState, string>} */ ({
  waiting: "dot", running: "run", passed: "check", warning: "warning", failed: "cross", skipped: "skip",
});
const WORDS = /** @type {Record<CheckState, string>} */ ({
  waiting: "Waiting", running: "Running", passed: "Passed", warning: "Warning", failed: "Failed", skipped: "Skipped",
});
const { region = "", node = "" } = document.documentElement.dataset;
/** @type {AbortController | null} */
let running = null;
let reportUrl = "";

const items = new Map(
  CHECKS.map(({ name, title }) => {
    const symbol = icon("dot");
    const word = element("span", { className: "word" });
    const why = element("p", { className: "why", ariaLive: "polite" });
    const text = element("div", {}, [element("h3", { textContent: title }), why]);
    const item = element("li", { className: "check" }, [symbol, text, word]);
    item.dataset.check = name;
    byId("checks").append(item);
    return [name, { item, symbol, word, why }];
  }),
);

/**
 * @param {string} name
 * @param {CheckState} state
 * @param {string} [reason]
 */
function show(name, state, reason = "") {
  const { item, symbol, word, why } = /** @type {any} */ (items.get(name));
  item.dataset.state = state;
  setIcon(symbol, SYMBOLS[state]);
  word.textContent = WORDS[state];
  why.textContent = reason;
}

async function start() {
  if (running) return;
  running = new AbortController();
  const { signal } = running;
  const began = new Date();
  byId("start").disabled = true;
  byId("stop").disabled = false;
  byId("report").hidden = true;
  showVerdict({ state: "waiting", text: "Testing", advice: "The result appears here, in a sentence." });
  for (const { name } of CHECKS) show(name, "waiting");
  /** @type {import("./network-checks.js").Scene} */
  const scene = { signal, iceServers: [] };
  /** @type {Map<string, Outcome & {durationMs: number}>} */
  const outcomes = new Map();
  for (const check of CHECKS) {
    const outcome = await timed(check, scene, outcomes);
    outcomes.set(check.name, outcome);
    show(check.name, outcome.state, outcome.why);
  }
  finish(began, outcomes, scene.iceServers);
}

/**
 * @param {import("./network-checks.js").Check} check
 * @param {import("./network-checks.js").Scene} scene
 * @param {Map<string, Outcome>} before
 * @returns {Promise<Outcome & {durationMs: number}>}
 */
async function timed({ name, run }, scene, before) {
  if (scene.signal.aborted) return { state: "skipped", why: "Stopped.", durationMs: 0 };
  if (name !== "devices" && name !== "direct" && before.get("signaling")?.state === "failed") {
    return { state: "skipped", why: "Needs the connection to the server.", durationMs: 0 };
  }
  const began = performance.now();
  show(name, "running");
  const { word } = /** @type {any} */ (items.get(name));
  // Not announced: only the end of a check is news to a screen reader.
  const ticking = setInterval(() => {
    word.textContent = `Running ${((performance.now() - began) / 1000).toFixed(1)} s`;
  }, 100);
  try {
    const outcome = await run(scene);
    return { ...outcome, durationMs: performance.now() - began };
  } catch (error) {
    const why = `The test itself failed: ${/** @type {Error} */ (error).message}`;
    return { state: "failed", why, durationMs: performance.now() - began };
  } finally {
    clearInterval(ticking);
  }
}

/**
 * @param {Date} began
 * @param {Map<string, Outcome & {durationMs: number}>} outcomes
 * @param {RTCIceServer[]} iceServers
 */
function finish(began, outcomes, iceServers) {
  const states = Object.fromEntries([...outcomes].map(([name, { state }]) => [name, state]));
  const verdict = verdictOf(states, relayName(iceServers));
  const seconds = (Date.now() - began.getTime()) / 1000;
  showVerdict(verdict);
  byId("where").textContent =
    `Tested ${location.host}, region ${region}, at ${began.toLocaleTimeString()}, for ${seconds.toFixed(1)} s.`;
  const report = {
    format: "parley-network-report/1",
    tested_at: began.toISOString(),
    duration_s: Number(seconds.toFixed(1)),
    region,
    node,
    browser: navigator.userAgent,
    verdict: { state: verdict.state, text: verdict.text },
    checks: [...outcomes].map(([name, { state, why, figures, durationMs }]) => ({
      name, state, why, duration_ms: Math.round(durationMs), figures: rounded(figures),
    })),
  };
  const text = JSON.stringify(report, null, 2);
  URL.revokeObjectURL(reportUrl);
  reportUrl = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  byId("report-text").textContent = text;
  byId("download").href = reportUrl;
  byId("report").hidden = false;
  byId("start").disabled = false;
  byId("start").textContent = "Test again";
  byId("stop").disabled = true;
  running = null;
}

/** @param {Record<string, number>} [figures] */
function rounded(figures = {}) {
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Math.round(value * 10) / 10]));
}

/**
 * @param {RTCIceServer[]} iceServers
 * @returns {string} "host port 3478"
 */
function relayName(iceServers) {
  const url = iceServers.flatMap(({ urls }) => [urls].flat()).find((one) => carrierOf(one) !== null);
  const [, host = "the relay", port = "3478"] = /^turns?:(\[[^\]]+\]|[^:?]+)(?::(\d+))?/.exec(url ?? "") ?? [];
  return `${host}, port ${port}`;
}

/** @param {import("./diagnostics-verdict.js").Verdict} verdict */
function showVerdict({ state, text, advice }) {
  byId("verdict").dataset.state = state;
  byId("verdict-text").textContent = text;
  byId("advice").textContent = advice;
}

for (const { name } of CHECKS) show(name, "waiting");
byId("start").addEventListener("click", () => void start());
byId("stop").addEventListener("click", () => running?.abort());
