import assert from "node:assert/strict";
import { test } from "node:test";

import { carrierOf, onlyCarrier } from "../../signal_server/browser/js/network-checks.js";
import { pathOf } from "../../signal_server/browser/js/path.js";
import { verdictOf } from "../../signal_server/browser/js/diagnostics-verdict.js";

const ALL = {
  signaling: "passed", "ice-servers": "passed", "relay-udp": "passed", "relay-tcp": "passed",
  "relay-tls": "skipped", direct: "passed", devices: "passed",
};

test("the verdict follows from the checks", () => {
  const cases = [
    [{}, "passed", /work well/],
    [{ direct: "warning", devices: "warning" }, "passed", /work well/],
    [{ direct: "skipped" }, "passed", /through the relay/],
    [{ "relay-udp": "failed" }, "warning", /blocks UDP/],
    [{ "relay-udp": "failed", "relay-tcp": "failed", "relay-tls": "passed" }, "warning", /blocks UDP/],
    [{ "relay-udp": "failed", "relay-tcp": "failed" }, "warning", /relay cannot be reached/],
    [{ "relay-udp": "failed", "relay-tcp": "failed", direct: "failed" }, "failed", /relay cannot be reached/],
    [{ "ice-servers": "failed", "relay-udp": "skipped", "relay-tcp": "skipped" }, "failed", /no relay now/],
    [{ signaling: "failed" }, "failed", /server cannot be reached/],
    [{ signaling: "skipped" }, "waiting", /stopped/],
    [{ "relay-udp": "skipped", "relay-tcp": "skipped" }, "waiting", /stopped/],
  ];
  for (const [change, state, words] of cases) {
    const verdict = verdictOf({ ...ALL, ...change }, "relay.example, port 3478");
    assert.equal(verdict.state, state, JSON.stringify(change));
    assert.match(verdict.text, words);
    assert.ok(verdict.advice.length > 0);
  }
});

test("the advice names what to ask the network's owner for", () => {
  const { advice } = verdictOf({ ...ALL, "relay-udp": "failed" }, "relay.example, port 3478");
  assert.match(advice, /UDP to relay\.example, port 3478/);
});

test("ICE server addresses say how the relay is reached", () => {
  const carriers = ["turn:a", "turn:a:1?transport=udp", "turn:a:1?transport=tcp", "turns:a:1?transport=tcp", "stun:a"];
  assert.deepEqual(carriers.map(carrierOf), ["udp", "udp", "tcp", "tls", null]);
});

test("servers are cut down to one carrier, with their credentials", () => {
  const servers = [
    { urls: ["turn:a", "turn:a?transport=tcp"], username: "u", credential: "c" },
    { urls: "stun:b" },
  ];
  assert.deepEqual(onlyCarrier(servers, "tcp"), [{ urls: ["turn:a?transport=tcp"], username: "u", credential: "c" }]);
  assert.deepEqual(onlyCarrier(servers, "tls"), []);
});

test("the path is the transport's selected pair, else the nominated one", () => {
  const candidates = [
    { id: "L", type: "local-candidate", candidateType: "relay", protocol: "udp", relayProtocol: "tcp" },
    { id: "R", type: "remote-candidate", candidateType: "srflx", protocol: "udp" },
  ];
  const pair = { id: "P", type: "candidate-pair", localCandidateId: "L", remoteCandidateId: "R", currentRoundTripTime: 0.034 };
  const report = (...entries) => new Map([...candidates, ...entries].map((entry) => [entry.id, entry]));
  const expected = {
    localType: "relay", remoteType: "srflx", protocol: "udp", relayProtocol: "tcp", isRelayed: true, roundTripMs: 34,
  };
  assert.deepEqual(pathOf(report(pair, { id: "T", type: "transport", selectedCandidatePairId: "P" })), expected);
  assert.deepEqual(pathOf(report({ ...pair, nominated: true, state: "succeeded" })), expected);
  assert.equal(pathOf(report(pair)), null);
});
