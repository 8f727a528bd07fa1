/**
 * From the results of checks to one sentence, what it means, and what to ask for: the same words as
 * probes/verdict.py.
 * @module
 */

/** @typedef {import("./reasons.js").State} State */
/** @typedef {import("./reasons.js").Reason} Reason */
/** @typedef {"udp" | "tcp" | "tls"} Transport */
/**
 * @typedef {object} CheckResult
 * @property {string} name api, turn, ws, direct, quality-audio, quality-video or devices
 * @property {State} state
 * @property {Reason} [reason]
 * @property {Transport | null} [transport] of a turn check
 * @property {string | null} [region]
 * @property {string | null} [target] `host:port` that was tried
 */
/** @typedef {{protocol: string, target: string}} Ask */
/** @typedef {{state: State, text: string, meaning: string, asks: Ask[]}} Verdict */

const NAMES = /** @type {const} */ ({ udp: "UDP", tcp: "TCP", tls: "TLS" });
const TRANSPORTS = /** @type {const} */ (["udp", "tcp", "tls"]);
const CREDENTIALS = new Set(["credential_rejected", "credential_expired", "no_credentials"]);
/** Faults of the deployment, which no network's owner can mend. */
const OURS = new Set([...CREDENTIALS, "allocation_quota", "peer_denied", "relay_silent", "tls_certificate"]);
/** Why a quality check says nothing of the quality, where no device is to blame. */
const UNMEASURED = new Set(["relay_silent", "timeout", "unreachable", "internal"]);
/** Why a region says nothing of WebSockets, unless HTTP is answered at the same place. */
const NOT_THERE = new Set(["unreachable", "connection_refused", "dns", "tls_certificate"]);
const OF_NETWORK = new Set(["bandwidth_too_low", "high_loss", "high_delay"]);

/** @param {CheckResult} result */
const works = ({ state }) => state === "passed" || state === "warning";
/** @param {CheckResult} result */
const ran = ({ state }) => state !== "skipped";
/** @param {CheckResult | undefined} result */
const ofNetwork = (result) => OF_NETWORK.has(result?.reason ?? "");

/**
 * @param {State} state
 * @param {string} text
 * @param {string} meaning
 * @param {Ask[]} [asks]
 * @returns {Verdict}
 */
const verdict = (state, text, meaning, asks = []) => ({ state, text, meaning, asks });

/**
 * @param {CheckResult[]} results
 * @returns {Verdict}
 */
export function verdictOf(results) {
  if (results.some(({ state }) => state === "aborted")) {
    return verdict("aborted", "The test was stopped.", "Start it again to get a result.");
  }
  return (
    gone(results) ??
    server(results) ??
    signalingDown(results) ??
    relay(results) ??
    signalingPartly(results) ??
    relayPartly(results) ??
    quality(results) ??
    relayFault(results) ??
    good(results)
  );
}

/** @param {CheckResult[]} results */
function gone(results) {
  const names = new Set(results.filter(({ reason }) => reason === "server_gone").map(({ name }) => name));
  const others = results.some((result) => result.name === "ws" && works(result));
  if (!names.size || (names.size === 1 && names.has("ws") && others)) return null;
  return verdict(
    "failed",
    "The server stopped answering during the test.",
    "It may have been restarted; start the test again in a moment.",
  );
}

/** @param {CheckResult[]} results */
function server(results) {
  const api = results.filter(({ name }) => name === "api");
  if (!api.length || api.some(works)) return null;
  if (api[0]?.reason === "rate_limited") {
    return verdict(
      "failed",
      "The server takes no more tests from here for now.",
      "Too many tests were started from this network; try again in a few minutes.",
    );
  }
  return verdict(
    "failed",
    "Calls do not work from here: the server cannot be reached.",
    "Nothing else can be tested before the server answers.",
    asksFor(api, "HTTPS"),
  );
}

/** @param {CheckResult[]} results */
function signalingDown(results) {
  const regions = results.filter((result) => result.name === "ws" && ran(result));
  if (!regions.length || regions.some(works)) return null;
  const isTold = results.some(({ name }) => name === "api");
  if (!isTold && regions.every(({ reason }) => NOT_THERE.has(reason ?? ""))) {
    return verdict(
      "failed",
      "No WebSocket connection can be made from here.",
      "Either this network blocks them, or the server cannot be reached at all; nothing else was tested.",
      asksFor(regions, "HTTPS"),
    );
  }
  const answering = new Set(results.filter(({ name }) => name === "api").map(({ target }) => target ?? null));
  if (regions.every(({ reason, target }) => NOT_THERE.has(reason ?? "") && !answering.has(target ?? null))) {
    return verdict(
      "failed",
      "Calls do not work from here: no region can be reached.",
      "The server that answers tests is there, and none that sets up calls.",
      asksFor(regions, "HTTPS"),
    );
  }
  return verdict(
    "warning",
    "This network blocks WebSocket connections.",
    "Calls are set up over plain HTTPS instead, a little slower; that works with Parley's own client, and not with others.",
    asksFor(regions, "HTTPS"),
  );
}

/** @param {CheckResult[]} results */
function relay(results) {
  const turns = results.filter((result) => result.name === "turn" && ran(result));
  if (!turns.length) return null;
  const working = new Set(turns.filter(works).map(({ transport }) => transport));
  const failed = turns.filter(({ transport }) => !working.has(transport));
  if (!working.size) return noRelay(results, failed);
  const overUdp = failed.filter(({ transport }) => transport === "udp");
  if (overUdp.length) {
    const ours = overUdp.some(({ reason }) => OURS.has(reason ?? ""));
    const cause = ours ? "The relay cannot be used over UDP" : "This network blocks UDP";
    return verdict(
      "warning",
      `${cause}; calls work over ${working.has("tcp") ? "TCP" : "TLS"}, with a little more delay.`,
      "Sound and picture wait for lost packets, so a bad moment is felt longer.",
      ours ? [] : asksFor(overUdp),
    );
  }
  if (turns.filter(works).every(({ reason }) => reason === "hairpin")) {
    return verdict(
      "warning",
      "The relay does not carry calls between two people who both need it.",
      toOperator("Other calls work."),
    );
  }
  const isLossy = turns.some(({ transport, reason }) => transport === "udp" && reason === "packet_loss");
  if (isLossy || turns.every(({ state }) => state === "warning")) {
    return verdict(
      "warning",
      "The relay can be reached, but packets get lost on the way.",
      "Expect broken sound and frozen pictures at times; a cable or another network helps.",
    );
  }
  return null;
}

/** @param {CheckResult[]} results a fault of the deployment over one way while another works */
function relayFault(results) {
  const faulty = new Set(
    results
      .filter(({ transport, state, reason }) => transport && state === "failed" && OURS.has(reason ?? ""))
      .map(({ transport }) => transport),
  );
  const names = TRANSPORTS.filter((name) => faulty.has(name)).map((name) => NAMES[name]);
  if (!names.length) return null;
  return verdict(
    "warning",
    `Calls work from here, but the relay cannot be used over ${listed(names)}.`,
    toOperator("People in stricter networks may need it."),
  );
}

/**
 * @param {CheckResult[]} results
 * @param {CheckResult[]} failed
 */
function noRelay(results, failed) {
  const direct = results.some((result) => result.name === "direct" && works(result));
  const state = direct ? "warning" : "failed";
  const meaning = direct ? "Calls work only with people who can be reached directly." : "Most calls from here will fail.";
  const reasons = failed.map(({ reason }) => reason ?? "");
  if (reasons.every((reason) => reason === "unsupported")) {
    return verdict("failed", "This browser cannot make calls.", "It lacks WebRTC, or an extension turned it off; try another browser.");
  }
  if (reasons.every((reason) => CREDENTIALS.has(reason))) {
    return verdict(state, "The relay does not accept the server's credentials.", toOperator(meaning));
  }
  if (reasons.every((reason) => OURS.has(reason) || reason === "hairpin")) {
    return verdict(state, "The relay answers, but does not carry anything.", toOperator(meaning));
  }
  return verdict(state, "The relay cannot be reached from here.", meaning, asksFor(failed));
}

/** @param {string} meaning */
const toOperator = (meaning) => `${meaning} Tell whoever runs this server; nothing is wrong with this network.`;

/** @param {CheckResult[]} results */
function signalingPartly(results) {
  const failed = results.filter((result) => result.name === "ws" && ran(result) && !works(result));
  if (!failed.length) return null;
  const names = failed.map(({ region }) => region ?? "?").sort().join(", ");
  return verdict(
    "warning",
    `Calls work from here, but not every region can be reached: ${names}.`,
    "Clients move to a region that answers; people far away may notice more delay.",
    asksFor(failed, "HTTPS"),
  );
}

/** @param {CheckResult[]} results a region whose relay works over no transport, while another's does */
function relayPartly(results) {
  const turns = results.filter((result) => result.name === "turn" && ran(result));
  const working = new Set(turns.filter(works).map(({ region }) => region ?? null));
  const failed = turns.filter(({ region }) => !working.has(region ?? null));
  if (!failed.length) return null;
  const names = [...new Set(failed.map(({ region }) => region ?? "?"))].sort().join(", ");
  const meaning = "Other regions carry calls instead; people far away may notice more delay.";
  const ours = failed.every(({ reason }) => OURS.has(reason ?? ""));
  return verdict(
    "warning",
    `Calls work from here, but not the relay of every region: ${names}.`,
    ours ? `${meaning} Tell whoever runs this server.` : meaning,
    asksFor(failed),
  );
}

/** @param {CheckResult[]} results */
function quality(results) {
  const audio = results.findLast(({ name }) => name === "quality-audio");
  const video = results.findLast(({ name }) => name === "quality-video");
  if (audio?.state === "failed" && ofNetwork(audio)) {
    return verdict(
      "failed",
      "This connection is too weak for a call.",
      "Even speech would break up; try another network, or come closer to the router.",
    );
  }
  if (video?.state === "failed" && ofNetwork(video)) {
    return verdict(
      "warning",
      "This connection carries speech, but no video.",
      "Turn the camera off before a call, or try another network.",
    );
  }
  if ([audio, video].some((result) => result?.state === "warning" && ofNetwork(result))) {
    return verdict(
      "warning",
      "Calls work from here, with reduced quality.",
      "Expect a smaller picture or short interruptions when the network is busy.",
    );
  }
  if ([audio, video].some((result) => UNMEASURED.has(result?.reason ?? ""))) {
    return verdict(
      "warning",
      "Calls are likely to work from here, but their quality could not be measured.",
      "Start the test again; if that does not help, tell whoever runs this server.",
    );
  }
  return null;
}

/** @param {CheckResult[]} results */
function good(results) {
  if (!results.some(works)) return verdict("failed", "Nothing could be tested.", "Start the test again, or reload the page.");
  const carriers = new Set(results.filter((result) => result.name === "turn" && works(result)).map(({ transport }) => transport));
  const names = TRANSPORTS.filter((name) => carriers.has(name)).map((name) => NAMES[name]);
  const relayed = names.length ? `The relay answers over ${listed(names)}` : "";
  if (results.some((result) => result.name.startsWith("quality-") && works(result))) {
    return verdict("passed", "Calls work well from here.", relayed ? `${relayed}.` : "Sound and picture pass as they should.");
  }
  if (relayed) return verdict("passed", "Calls can connect from here.", `${relayed}; how good a call would be was not measured.`);
  return verdict("passed", "What was tested works from here.", "Neither the relay nor the quality of calls was tested.");
}

/** @param {string[]} names */
const listed = (names) => (names.length === 1 ? `${names[0]}` : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

/**
 * @param {CheckResult[]} results
 * @param {string} [protocol]
 * @returns {Ask[]} each way out once; a failure of the deployment's own is nobody's to allow
 */
function asksFor(results, protocol) {
  /** @type {Map<string, Ask>} */
  const found = new Map();
  for (const { transport, target, reason } of results) {
    if (!target || OURS.has(reason ?? "")) continue;
    const name = protocol ?? (transport === "udp" ? "UDP" : "TCP");
    found.set(`${name} ${target}`, { protocol: name, target });
  }
  return [...found.values()];
}
