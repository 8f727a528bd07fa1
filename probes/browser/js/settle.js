/**
 * Promises that settle once and leave nothing behind: no timer, no listener, no request.
 * @module
 */

/** @typedef {import("./reasons.js").Reason} Reason */
/**
 * @typedef {object} Steps
 * @property {(value?: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(target: EventTarget, name: string, listener: (event: any) => void) => void} listen
 * @property {(ms: number, act: () => void) => void} after a deadline; while the page stands still its time does, too
 * @property {(act: () => void) => void} release called when the promise settles
 */

/** Deadlines look so often how much time passed; what a page cannot do or hear is no fault of the network. */
const STEP_MS = 500;
/** Timers of a hidden tab are up to a second late. */
const LATE_MS = 1_000;

/** Why something did not come about, in a word of reasons.js. */
export class ProbeError extends Error {
  /**
   * @param {Reason} reason
   * @param {string} [message]
   * @param {number} [code] an ICE error code or HTTP status; 0: none
   */
  constructor(reason, message = reason, code = 0) {
    super(message);
    this.name = "ProbeError";
    this.reason = reason;
    this.code = code;
  }
}

/** @param {unknown} error @returns {ProbeError} */
export function probeError(error) {
  if (error instanceof ProbeError) return error;
  return new ProbeError("internal", error instanceof Error ? error.message : String(error));
}

/**
 * @template Value
 * @param {AbortSignal} signal rejects with its reason
 * @param {(steps: Steps) => void} begin
 * @returns {Promise<Value>}
 */
export function settled(signal, begin) {
  return new Promise((resolve, reject) => {
    /** @type {(() => void)[]} */
    const undo = [];
    let isDone = false;
    const finish = (/** @type {(value: any) => void} */ how) => (/** @type {any} */ value) => {
      if (isDone) return;
      isDone = true;
      for (const act of undo.splice(0)) act();
      how(value);
    };
    /** @type {Steps} */
    const steps = {
      resolve: finish(resolve),
      reject: finish(reject),
      listen(target, name, listener) {
        if (isDone) return;
        target.addEventListener(name, listener);
        undo.push(() => target.removeEventListener(name, listener));
      },
      after(ms, act) {
        if (isDone) return;
        let [leftMs, atMs] = [ms, performance.now()];
        const step = () => {
          const nowMs = performance.now();
          leftMs -= Math.min(nowMs - atMs, STEP_MS + LATE_MS);
          atMs = nowMs;
          if (leftMs > 0) timer = setTimeout(step, Math.min(leftMs, STEP_MS));
          else act();
        };
        let timer = setTimeout(step, Math.min(leftMs, STEP_MS));
        undo.push(() => clearTimeout(timer));
      },
      release(act) {
        if (isDone) act();
        else undo.push(act);
      },
    };
    if (signal.aborted) {
      steps.reject(signal.reason);
      return;
    }
    steps.listen(signal, "abort", () => steps.reject(signal.reason));
    try {
      begin(steps);
    } catch (error) {
      steps.reject(/** @type {Error} */ (error));
    }
  });
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export const pause = (ms, signal) =>
  settled(signal, ({ resolve, release }) => {
    const timer = setTimeout(resolve, ms);
    release(() => clearTimeout(timer));
  });

/**
 * The whole second to wait for after this one; those in which the page stood still are left out.
 * @param {number} number
 * @param {number} elapsedMs
 */
export const secondAfter = (number, elapsedMs) => Math.max(number, Math.floor(elapsedMs / 1000)) + 1;

/** One running test: its bounds in time, and whoever may end it. */
export class Run {
  /** Why it was ended before its time. @type {"" | "aborted" | "stopped" | "timeout"} */
  ended = "";
  #controller = new AbortController();
  /** @type {(() => void)[]} */
  #releases = [];
  #began = performance.now();

  /** @param {{signal?: AbortSignal | null, limitMs?: number}} bounds without a limit its time has not begun */
  constructor({ signal, limitMs }) {
    if (limitMs !== undefined) this.begin(limitMs);
    if (!signal) return;
    const abort = () => this.end("aborted");
    signal.addEventListener("abort", abort);
    this.#releases.push(() => signal.removeEventListener("abort", abort));
    if (signal.aborted) abort();
  }

  /** @param {number} limitMs from now on */
  begin(limitMs) {
    this.#began = performance.now();
    const timer = setTimeout(() => this.end("timeout"), limitMs);
    this.#releases.push(() => clearTimeout(timer));
  }

  /** Aborts with a ProbeError as its reason. */
  get signal() {
    return this.#controller.signal;
  }

  get elapsedMs() {
    return performance.now() - this.#began;
  }

  /** @param {"aborted" | "stopped" | "timeout"} why */
  end(why) {
    if (this.ended) return;
    this.ended = why;
    this.#controller.abort(new ProbeError(why === "timeout" ? "timeout" : "aborted"));
  }

  /** Takes its timer and listener away. */
  release() {
    for (const act of this.#releases.splice(0)) act();
  }
}

/**
 * Calls what a user handed in; what it throws is reported and stays away from the test.
 * @param {((value: any) => void) | undefined} callback
 * @param {unknown} value
 */
export function tell(callback, value) {
  try {
    callback?.(value);
  } catch (error) {
    const scope = /** @type {any} */ (globalThis);
    if (typeof scope.reportError === "function") scope.reportError(error);
    else console.error(error);
  }
}
