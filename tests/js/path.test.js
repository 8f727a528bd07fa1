import assert from "node:assert/strict";
import { test } from "node:test";

import { pathOf } from "../../signal_server/browser/js/path.js";

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
