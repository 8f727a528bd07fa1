/**
 * The technical panel of the call page: path, candidates by type, timeline, media.
 * @module
 */

import { byId, element, inMs } from "./page.js";

const TYPES = ["host", "srflx", "prflx", "relay"];

export class Panel {
  /** @type {Map<string, {sent: number, received: number}>} */
  #candidates = new Map();
  /** @type {{step: string, at: number}[]} */
  #timeline = [];

  /** @param {string} step */
  mark(step) {
    if (this.#timeline.some((entry) => entry.step === step)) return;
    this.#timeline.push({ step, at: performance.now() });
    this.#drawTimeline();
  }

  /** A new call begins; what happened before it, since joining, stays. @param {string[]} keep */
  begin(keep) {
    this.#timeline = this.#timeline.filter(({ step }) => keep.includes(step));
    this.#candidates.clear();
    this.#drawTimeline();
    this.#drawCandidates();
    this.showPath(null);
    fill("media-rows", []);
  }

  /** @param {import("./parley.d.ts").PeerConnection} connection */
  watch(connection) {
    connection.on("description", ({ direction, type }) => {
      this.mark(`${type === "offer" ? "Offer" : "Answer"} ${direction}`);
    });
    connection.on("candidate", ({ direction, candidate }) => {
      const type = / typ (\w+)/.exec(candidate)?.[1] ?? "host";
      const count = this.#candidates.get(type) ?? { sent: 0, received: 0 };
      count[direction]++;
      this.#candidates.set(type, count);
      this.mark(`First candidate ${direction}`);
      this.#drawCandidates();
    });
    connection.on("connectionstate", (state) => {
      if (state === "connected") this.mark("Connected");
    });
  }

  /** @param {import("./parley.d.ts").Path | null} path */
  showPath(path) {
    const relay = path?.relayProtocol ? `, to the relay over ${path.relayProtocol.toUpperCase()}` : "";
    fill("path-rows", [
      ["This side", path ? `${path.localType}${relay}` : "–"],
      ["Other side", path?.remoteType ?? "–"],
      ["Between them", path?.protocol.toUpperCase() ?? "–"],
      ["Round trip", path?.roundTripMs == null ? "–" : inMs(path.roundTripMs)],
    ]);
  }

  /** @param {RTCStatsReport} report */
  showMedia(report) {
    /** @type {[string, string][]} */
    const rows = [];
    report.forEach((entry) => {
      if (entry.type !== "inbound-rtp") return;
      const lost = `${entry.packetsLost ?? 0} lost`;
      if (entry.kind === "audio") rows.push(["Sound", `${entry.packetsReceived ?? 0} packets, ${lost}`]);
      else {
        const size = entry.frameWidth ? `${entry.frameWidth}×${entry.frameHeight}, ` : "";
        rows.push(["Picture", `${size}${entry.framesPerSecond ?? 0} per second, ${lost}`]);
      }
    });
    fill("media-rows", rows.sort());
  }

  #drawCandidates() {
    const rows = TYPES.map((type) => {
      const { sent, received } = this.#candidates.get(type) ?? { sent: 0, received: 0 };
      return [type, `${sent}`, `${received}`];
    });
    fill("candidate-rows", rows);
  }

  #drawTimeline() {
    fill(
      "timeline-rows",
      this.#timeline.map(({ step, at }, index) => {
        const before = this.#timeline[index - 1];
        return [step, before ? `+ ${inMs(at - before.at)}` : "start"];
      }),
    );
  }
}

/**
 * @param {string} id of a table body
 * @param {string[][]} rows
 */
function fill(id, rows) {
  const made = rows.map(([first = "", ...rest]) =>
    element("tr", {}, [
      element("th", { scope: "row", textContent: first }),
      ...rest.map((value) => element("td", { className: "figure", textContent: value })),
    ]),
  );
  byId(id).replaceChildren(...made);
}
