/**
 * Which of several deployments answers fastest.
 * @module
 */

const PINGS = 3;
const LIMIT_MS = 2_000;
/** Whoever needs so much longer than the first to answer is not the nearest. */
const PATIENCE = 3;
const LEAST_MS = 100;

/**
 * @param {string[]} urls of their WebSockets
 * @param {typeof fetch} fetch
 * @returns {Promise<string[]>} nearest first; those that do not answer come last, as they were
 */
export async function nearestFirst(urls, fetch) {
  const stop = new AbortController();
  const found = urls.map((url) => ({ url, ms: Infinity }));
  /** @type {any[]} */
  const timers = [];
  await new Promise((resolve) => {
    const within = (/** @type {number} */ ms) => timers.push(setTimeout(resolve, ms));
    within(LIMIT_MS);
    const all = found.map(async (one) => {
      const began = now();
      one.ms = await roundTripMs(one.url, fetch, stop.signal);
      if (one.ms < Infinity) within(Math.max(LEAST_MS, PATIENCE * (now() - began)));
    });
    void Promise.all(all).then(resolve);
  });
  for (const timer of timers) clearTimeout(timer);
  stop.abort();
  return found.sort((a, b) => (a.ms === b.ms ? 0 : a.ms - b.ms)).map(({ url }) => url);
}

/**
 * @param {string} url
 * @param {typeof fetch} fetch
 * @param {AbortSignal} signal
 * @returns {Promise<number>} the median; Infinity where nobody answers
 */
async function roundTripMs(url, fetch, signal) {
  const samples = [];
  try {
    const to = new URL("probes/ping", url.replace(/^ws/, "http")).href;
    while (samples.length < PINGS) {
      const began = now();
      const answer = await fetch(to, { signal, cache: "no-store" });
      if (!answer.ok) return Infinity;
      await answer.text();
      samples.push(now() - began);
    }
  } catch {
    return Infinity;
  }
  return samples.sort((a, b) => a - b)[PINGS >> 1] ?? Infinity;
}

const now = () => globalThis.performance?.now() ?? Date.now();
