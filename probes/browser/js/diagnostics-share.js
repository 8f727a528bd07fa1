/**
 * Sharing a report: shown first, sent when the visitor says so, taken back when they change their
 * mind. The token for that stays in this browser.
 * @module
 */

import { reportOf } from "./diagnostics-report.js";
import { byId, copies } from "./page.js";
import { probeError } from "./settle.js";

/** @typedef {import("./diagnostics-report.js").Outcome} Outcome */
/** @typedef {{id: string, url: string, expires_at: number, delete_token: string}} Receipt */

const KEPT = "parley-shared-reports";
const MAX_KEPT = 20;
const never = new AbortController().signal;

export class Sharing {
  #api;
  /** @type {Outcome | null} */
  #outcome = null;
  /** @type {Receipt | null} */
  #receipt = null;
  #fileUrl = "";

  /** @param {import("./probe-api.js").ProbeApi} api */
  constructor(api) {
    this.#api = api;
    byId("share").addEventListener("click", () => this.#ask());
    byId("with-addresses").addEventListener("change", () => this.#preview());
    byId("cancel").addEventListener("click", () => byId("share-dialog").close());
    byId("confirm").addEventListener("click", () => void this.#share());
    byId("take-back").addEventListener("click", () => void this.#takeBack());
    copies(byId("copy-link"), () => byId("link").value, byId("link"));
  }

  /** A fresh result. @param {Outcome} outcome */
  offer(outcome) {
    this.#outcome = outcome;
    this.#receipt = null;
    this.#file(JSON.stringify(reportOf(outcome), null, 2));
    byId("share").hidden = !outcome.canShare;
    byId("shared").hidden = true;
    byId("report-lead").textContent = "So far it is only on this page.";
    say("");
    byId("report").hidden = false;
  }

  /** A report that somebody shared. @param {string} id @param {unknown} report */
  opened(id, report) {
    this.#file(JSON.stringify(report, null, 2));
    byId("share").hidden = true;
    byId("report-title").textContent = "The report as a file";
    byId("report-lead").textContent = "Everything that the sender shared.";
    const mine = kept()[id];
    if (mine) {
      this.#receipt = { id, url: location.href, ...mine };
      byId("report-lead").textContent = "You shared it from this browser.";
      this.#showLink();
    }
    byId("report").hidden = false;
  }

  /** @param {string} text */
  #file(text) {
    URL.revokeObjectURL(this.#fileUrl);
    this.#fileUrl = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    byId("download").href = this.#fileUrl;
  }

  #report() {
    return reportOf(/** @type {Outcome} */ (this.#outcome), { withAddresses: byId("with-addresses").checked });
  }

  #ask() {
    byId("with-addresses").checked = false;
    this.#preview();
    byId("share-dialog").showModal();
    byId("report-text").scrollTop = 0;
  }

  #preview() {
    byId("report-text").textContent = JSON.stringify(this.#report(), null, 2);
  }

  async #share() {
    const report = this.#report();
    byId("share-dialog").close();
    byId("share").disabled = true;
    say("Sending");
    try {
      this.#receipt = await this.#sent(report);
      keep(this.#receipt);
      this.#showLink();
      // There is no clipboard on pages without https.
      const isCopied = await navigator.clipboard?.writeText(this.#receipt.url).then(() => true, () => false);
      const until = new Date(1000 * this.#receipt.expires_at).toLocaleDateString("en-GB", { dateStyle: "long" });
      say(`${isCopied ? "The link is copied" : "Copy the link above"}. The report is kept until ${until} at most.`, "good");
      byId("share").hidden = true;
      byId("report-lead").textContent = "Everybody who has the link can read it.";
      byId("link").select();
    } catch (error) {
      say(refusalOf(probeError(error)), "bad");
    }
    byId("share").disabled = false;
    if (!this.#receipt) byId("share").focus();
  }

  /** @param {unknown} report @returns {Promise<Receipt>} */
  async #sent(report) {
    const post = async () => {
      const { token } = await this.#api.session(never);
      return this.#api.call("POST", "/v1/probes/reports", { body: report, token });
    };
    return post().catch((error) => {
      if (probeError(error).code !== 401) throw error;
      // The session has expired while the page lay open.
      this.#api.forgetSession();
      return post();
    });
  }

  #showLink() {
    const { url } = /** @type {Receipt} */ (this.#receipt);
    byId("link").value = url;
    byId("shared").hidden = false;
  }

  async #takeBack() {
    if (!this.#receipt) return;
    const { id, delete_token: token } = this.#receipt;
    byId("take-back").disabled = true;
    try {
      await this.#api.call("DELETE", `/v1/probes/reports/${encodeURIComponent(id)}`, { token });
      this.#forgotten(id);
    } catch (error) {
      const { code } = probeError(error);
      if (code === 404) this.#forgotten(id);
      else say("The server cannot be reached; the report is still there.", "bad");
    }
    byId("take-back").disabled = false;
    if (this.#receipt) byId("take-back").focus();
  }

  /** @param {string} id */
  #forgotten(id) {
    keep(null, id);
    this.#receipt = null;
    byId("shared").hidden = true;
    byId("share").hidden = this.#outcome === null;
    byId("report-lead").textContent = "It is no longer on the server.";
    say("Taken back: the link does not work any more.", "good");
    (this.#outcome ? byId("share") : byId("download")).focus();
  }
}

/** @param {import("./settle.js").ProbeError} error */
function refusalOf({ reason, code }) {
  if (code === 503) return "This server keeps no reports. Download it instead.";
  if (code === 413) return "The report is too large for the server. Download it instead.";
  if (reason === "rate_limited") return "Enough reports were shared from here for now. Download it instead.";
  return "The server cannot be reached now. Download the report instead, or try again.";
}

/** @param {string} text @param {"" | "good" | "bad"} [tone] */
function say(text, tone = "") {
  byId("share-status").textContent = text;
  byId("share-status").dataset.tone = tone;
}

/** What this browser may take back, by report. @returns {Record<string, {expires_at: number, delete_token: string}>} */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

/** @param {Receipt | null} receipt @param {string} [gone] */
function keep(receipt, gone = "") {
  const now = Date.now() / 1000;
  const known = Object.entries(kept()).filter(([id, { expires_at: ends }]) => id !== gone && ends > now);
  if (receipt) known.push([receipt.id, { expires_at: receipt.expires_at, delete_token: receipt.delete_token }]);
  try {
    localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(known.slice(-MAX_KEPT))));
  } catch {
    // Storage is blocked: taking back works until the page is left.
  }
}
