/**
 * What the diagnostics page shows: rows, verdict, charts and figures, of a run or of a report.
 * @module
 */

import { Chart } from "./chart.js";
import { ROWS, STATE_WORDS, askOf, inBits, inMs, inPercent, lineOf, lineOfOne, rowOf, stateOfRow, whereOf } from "./diagnostics-words.js";
import { byId, element, icon, setIcon } from "./page.js";

/** @typedef {import("./reasons.js").State} State */
/** @typedef {import("./diagnostics-words.js").Finding} Finding */
/** @typedef {import("./diagnostics-report.js").Outcome} Outcome */
/** @typedef {import("./verdict.js").Verdict} Verdict */
/** @typedef {{item: HTMLElement, symbol: SVGElement, word: HTMLElement, line: HTMLElement, about: string, state: State, since: number}} Row */

/** @type {Record<State, string>} */
const SYMBOLS = {
  waiting: "dot", running: "run", passed: "check", warning: "warning", failed: "cross", skipped: "skip", aborted: "skip",
};
const QUALITY_S = 12;
const UNKNOWN = "–";
const KINDS = {
  bitrate: { title: "Bitrate", unit: "Mbit/s", least: 1000, format: inBits, tick: (/** @type {number} */ kbps) => short(kbps / 1000) },
  trip: { title: "Round trip", unit: "ms", least: 20, format: inMs, tick: short },
  loss: { title: "Loss", unit: "%", least: 0.05, format: inPercent, tick: (/** @type {number} */ ratio) => short(100 * ratio) },
};
const NAMES = /** @type {Record<string, string>} */ ({
  api: "Server", ws: "WebSocket", direct: "Direct connection", "quality-audio": "Sound", "quality-video": "Picture",
});

/** @param {number} value */
function short(value) {
  return `${Math.round(10 * value) / 10}`;
}

export class DiagnosticsView {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  #charts = { bitrate: new Chart(KINDS.bitrate, QUALITY_S), trip: new Chart(KINDS.trip, QUALITY_S), loss: new Chart(KINDS.loss, QUALITY_S) };
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;

  constructor() {
    byId("plots").append(...Object.values(this.#charts).map(({ element: box }) => box));
    for (const { id, title, about } of ROWS) {
      const symbol = icon("dot");
      const word = element("span", { className: "word" });
      const line = element("p", { className: "line" });
      const text = element("div", {}, [element("h3", { textContent: title }), line]);
      const item = element("li", { className: "check" }, [symbol, text, word]);
      item.dataset.check = id;
      byId("checks").append(item);
      this.#rows.set(id, { item, symbol, word, line, about, state: "waiting", since: 0 });
    }
    this.clear();
  }

  clear() {
    for (const row of this.#rows.values()) this.#show(row, "waiting", row.about);
    for (const chart of Object.values(this.#charts)) chart.clear();
    for (const id of ["details", "report", "asks", "notice"]) byId(id).hidden = true;
    byId("quality").hidden = false;
    byId("where").textContent = "";
  }

  /** Shows that checks run, until the verdict. */
  begin() {
    this.clear();
    this.#head("running", "Testing", "The answer appears here, in a sentence.");
    byId("progress").value = 0;
    byId("progress").hidden = false;
    this.#ticking = setInterval(() => this.#tick(), 100);
  }

  /**
   * @param {string} id
   * @param {Finding[]} findings
   * @returns {State} that the row is in now
   */
  row(id, findings) {
    const row = /** @type {Row} */ (this.#rows.get(id));
    const state = stateOfRow(findings);
    this.#show(row, state, lineOf(id, findings) || row.about);
    byId("progress").value = [...this.#rows.values()].filter(({ state: one }) => one !== "waiting" && one !== "running").length;
    return state;
  }

  /** @param {import("./diagnostics-report.js").Second} second */
  second({ at_s: at, bitrate_kbps: bitrate, round_trip_ms: trip, loss_ratio: loss }) {
    this.#charts.bitrate.add(at, bitrate);
    this.#charts.trip.add(at, trip);
    this.#charts.loss.add(at, loss);
  }

  /** @param {Outcome} outcome @param {Verdict} verdict */
  finish(outcome, verdict) {
    clearInterval(this.#ticking);
    byId("progress").hidden = true;
    this.#head(verdict.state, verdict.text, verdict.meaning);
    const asks = verdict.asks.map(({ protocol, target }) => element("li", { textContent: askOf(protocol, target) }));
    byId("ask-list").replaceChildren(...asks);
    byId("asks").hidden = !asks.length;
    byId("where").textContent = whereOf(outcome);
    byId("figure-rows").replaceChildren(...outcome.findings.filter(({ name }) => NAMES[name] || name === "turn").map(figureRow));
    byId("details").hidden = false;
    byId("quality").hidden = !outcome.seconds.length;
    if (outcome.wasHidden) this.notice("The page was in the background for a part of the test. Browsers slow it down there: times may look longer than they are.");
  }

  /** @param {string} text */
  notice(text) {
    byId("notice").querySelector("span").textContent = text;
    byId("notice").hidden = false;
  }

  /** @param {State} state @param {string} text @param {string} meaning */
  #head(state, text, meaning) {
    byId("verdict").dataset.state = state;
    setIcon(byId("verdict").querySelector(".icon"), SYMBOLS[state]);
    byId("verdict-text").textContent = text;
    byId("meaning").textContent = meaning;
  }

  /** @param {string} text @param {string} meaning */
  missing(text, meaning) {
    this.#head("skipped", text, meaning);
  }

  /** @param {Row} row @param {State} state @param {string} line */
  #show(row, state, line) {
    if (row.state !== state) row.since = performance.now();
    row.state = state;
    row.item.dataset.state = state;
    setIcon(row.symbol, SYMBOLS[state]);
    row.line.textContent = line;
    row.word.textContent = STATE_WORDS[state];
  }

  #tick() {
    for (const { state, since, word } of this.#rows.values()) {
      if (state === "running") word.textContent = `Running ${((performance.now() - since) / 1000).toFixed(1)} s`;
    }
  }
}

/** @param {Finding} finding */
function figureRow(finding) {
  const { name, state, target, figures = {} } = finding;
  const known = (/** @type {number | undefined} */ value, /** @type {(value: number) => string} */ format) => (value === undefined ? UNKNOWN : format(value));
  const isMedia = name.startsWith("quality-") && figures.mos;
  const why = isMedia ? `MOS ${figures.mos?.toFixed(1)}, ${inBits(figures.bitrate_kbps ?? 0)}` : state === "passed" ? "" : lineOfOne(rowOf(finding), finding);
  const result = [STATE_WORDS[state], why].filter(Boolean).join(": ");
  const cells = /** @type {[string, string, boolean][]} */ ([
    ["Host", target ?? UNKNOWN, false],
    ["Result", result, false],
    ["Connects in", known(figures.connect_ms, inMs), true],
    ["Round trip", known(figures.round_trip_ms, inMs), true],
    ["Lost", known(figures.loss_ratio, inPercent), true],
  ]);
  const head = element("th", { scope: "row", textContent: titleOf(finding) });
  head.setAttribute("role", "rowheader");
  const row = element("tr", {}, [head, ...cells.map(([label, text, isFigure]) => {
    const cell = element("td", { textContent: text, className: isFigure ? "figure" : "" });
    cell.setAttribute("role", "cell");
    cell.dataset.label = label;
    if (text === UNKNOWN) cell.dataset.unknown = "";
    return cell;
  })]);
  row.setAttribute("role", "row");
  return row;
}

/** @param {Finding} finding */
function titleOf(finding) {
  const { name, region, transport } = finding;
  if (name === "turn") return `${ROWS.find(({ id }) => id === rowOf(finding))?.title}${region ? `, ${region}` : ""}`;
  if (name === "ws" && region) return `WebSocket, ${region}`;
  return transport ? `${NAMES[name]} over ${transport.toUpperCase()}` : NAMES[name];
}
