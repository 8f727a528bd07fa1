/**
 * From the results of the network checks to one sentence and what to do about it. Pure.
 * @module
 */

/** @typedef {"waiting" | "running" | "passed" | "warning" | "failed" | "skipped"} CheckState */
/** @typedef {{state: "passed" | "warning" | "failed" | "waiting", text: string, advice: string}} Verdict */

/**
 * @param {Record<string, CheckState>} states by check name
 * @param {string} [relay] host and port of the relay, for the network's owner
 * @returns {Verdict}
 */
export function verdictOf(states, relay = "the relay") {
  const works = (/** @type {string} */ name) => states[name] === "passed" || states[name] === "warning";
  if (!works("signaling")) {
    if (states.signaling !== "failed") {
      return verdict("waiting", "The test was stopped", "Start it again to get a result.");
    }
    return verdict(
      "failed",
      "Calls do not work from here: the server cannot be reached.",
      "Ask the network's owner to allow secure WebSocket connections (TCP port 443) to this site.",
    );
  }
  if (works("relay-udp")) {
    if (works("direct")) {
      return verdict("passed", "Calls work well from here.", "The relay answers over UDP, and direct connections are possible.");
    }
    return verdict("passed", "Calls work from here, through the relay.", "Direct connections are not possible in this browser or network; the relay is enough.");
  }
  if (works("relay-tcp") || works("relay-tls")) {
    return verdict(
      "warning",
      "Your network blocks UDP; calls will work over TCP, with a little more delay.",
      `For better calls ask the network's owner to allow UDP to ${relay}.`,
    );
  }
  if (states["ice-servers"] === "failed") {
    return verdict("failed", "The server gives out no relay now.", "Calls work only where a direct way exists. Tell whoever runs this server.");
  }
  const relayTried = ["relay-udp", "relay-tcp", "relay-tls"].some((name) => states[name] === "failed");
  if (!relayTried) return verdict("waiting", "The test was stopped", "Start it again to get a result.");
  return verdict(
    works("direct") ? "warning" : "failed",
    "The relay cannot be reached from here; most calls will fail.",
    `Ask the network's owner to allow UDP and TCP to ${relay}.`,
  );
}

/**
 * @param {Verdict["state"]} state
 * @param {string} text
 * @param {string} advice
 * @returns {Verdict}
 */
const verdict = (state, text, advice) => ({ state, text, advice });
