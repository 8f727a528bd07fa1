/** The implementation keeps the promises of network-test.d.ts: checked by the compiler, never run. */

import * as namesModule from "../../probes/browser/js/error-names.js";
import * as testModule from "../../probes/browser/js/opentok-test.js";
import NetworkTest, { ErrorNames, type QualityUpdate } from "../../probes/browser/js/parley-probes.js";

/** @internal Fails to compile unless the implementation can stand in for the declaration. */
function keeps<Declared>(_implementation: Declared): void {}

keeps<typeof NetworkTest>(testModule.NetworkTest);
keeps<typeof ErrorNames>(namesModule.ErrorNames);
keeps<typeof namesModule.ErrorNames>(ErrorNames);

export async function use(OT: object): Promise<unknown> {
  const test = new NetworkTest(OT, { apiKey: "1", sessionId: "2", token: "3" }, { timeout: 6000, audioOnly: true });
  const { success, failedTests } = await test.testConnectivity((results) => results.success);
  const seen = (update: QualityUpdate): number => update.audio.packetsLost + (update.video?.frameRate ?? 0);
  const { audio, video } = await test.testQuality((update) => seen(update), (error, results) => [error?.name, results?.checks]);
  // @ts-expect-error the session info is required
  void new NetworkTest(OT);
  return [success, failedTests[0]?.error.name === ErrorNames.API_CONNECTIVITY_ERROR, audio.mos, video.recommendedResolution];
}
