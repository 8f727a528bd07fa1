/**
 * OpenTok's network test against a deployment of Parley: code for opentok-network-test-js runs
 * unchanged but for the import and the session info. Types and documentation in network-test.d.ts.
 * @module
 */

import { CONNECTIVITY_LIMIT_MS, testConnectivity } from "./connectivity-run.js";
import { named, NetworkTestError } from "./error-names.js";
import { ProbeApi } from "./probe-api.js";
import { capture, platformOf, stopTracks } from "./publisher.js";
import { QUALITY_LIMIT_MS, qualityError, testQuality } from "./quality-run.js";
import { Run, tell } from "./settle.js";
import { baseUrlOf, checkArguments } from "./test-session.js";

/** @typedef {import("./network-test.d.ts").SessionInfo} SessionInfo */
/** @typedef {import("./network-test.d.ts").NetworkTestOptions} NetworkTestOptions */
/** @typedef {import("./network-test.d.ts").ConnectivityResults} ConnectivityResults */
/** @typedef {import("./network-test.d.ts").QualityResults} QualityResults */
/** @typedef {import("./network-test.d.ts").QualityUpdate} QualityUpdate */

export class NetworkTest {
  #api;
  #sessionInfo;
  #options;
  /** Connectivity tests that run. @type {Set<Run>} */
  #connecting = new Set();
  /** Ends each quality test that runs. @type {Set<() => void>} */
  #measuring = new Set();

  /**
   * @param {unknown} OT
   * @param {SessionInfo} sessionInfo
   * @param {NetworkTestOptions} [options]
   */
  constructor(OT, sessionInfo, options) {
    checkArguments(OT, sessionInfo);
    this.#options = options ?? {};
    this.#sessionInfo = { ...sessionInfo };
    this.#api = new ProbeApi({ baseUrl: baseUrlOf(sessionInfo), token: sessionInfo.token, fetch: this.#options.fetch });
  }

  /**
   * @param {(results: ConnectivityResults) => void} [onComplete]
   * @returns {Promise<ConnectivityResults>}
   */
  async testConnectivity(onComplete) {
    const run = new Run({ signal: this.#options.signal, limitMs: CONNECTIVITY_LIMIT_MS });
    this.#connecting.add(run);
    const results = await testConnectivity(this.#scene(run));
    this.#connecting.delete(run);
    run.release();
    if (typeof onComplete === "function") tell(onComplete, results);
    return results;
  }

  /**
   * @param {((update: QualityUpdate) => void) | null} [updateCallback]
   * @param {(error: Error | undefined, results?: QualityResults) => void} [onComplete]
   * @returns {Promise<QualityResults>}
   */
  testQuality(updateCallback, onComplete) {
    // As in the original: anything false is none, and the error is thrown, not a rejection.
    if (updateCallback && (typeof updateCallback !== "function" || updateCallback.length !== 1)) {
      throw new NetworkTestError("INVALID_ON_UPDATE_CALLBACK");
    }
    const measured = this.#measure(updateCallback || undefined);
    if (typeof onComplete === "function") {
      measured.then(
        (results) => tell(() => onComplete(undefined, results), null),
        (error) => tell(() => onComplete(error), null),
      );
    }
    return measured;
  }

  /**
   * @param {number} width
   * @param {number} height
   * @returns {Promise<void>}
   */
  async checkCameraSupport(width, height) {
    const run = new Run({ signal: this.#options.signal, limitMs: CONNECTIVITY_LIMIT_MS });
    const sources = { videoSource: this.#options.videoSource, size: { width, height } };
    try {
      stopTracks(await capture(this.#scene(run).platform, { audio: false, video: true }, sources, "INIT_PUBLISHER_ERROR", run.signal));
    } catch (error) {
      throw named(error, "INIT_PUBLISHER_ERROR");
    } finally {
      run.release();
    }
  }

  stop() {
    for (const run of this.#connecting) run.end("stopped");
    for (const end of this.#measuring) end();
  }

  /**
   * @param {((update: QualityUpdate) => void)} [onUpdate]
   * @returns {Promise<QualityResults>}
   */
  async #measure(onUpdate) {
    const run = new Run({ signal: this.#options.signal, limitMs: QUALITY_LIMIT_MS });
    let isStopped = false;
    const end = () => (isStopped = true);
    this.#measuring.add(end);
    try {
      return await testQuality({ ...this.#scene(run), onUpdate, isStopped: () => isStopped });
    } catch (error) {
      throw qualityError(error);
    } finally {
      this.#measuring.delete(end);
      run.release();
    }
  }

  /** @param {Run} run */
  #scene(run) {
    const platform = { ...platformOf(), ...this.#options.platform };
    return { platform, api: this.#api, sessionInfo: this.#sessionInfo, options: this.#options, run };
  }
}
