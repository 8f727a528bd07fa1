/** The implementation keeps the promises of parley-probes.d.ts: checked by the compiler, never run. */

import * as clientModule from "../../probes/browser/js/probe-client.js";
import type { Reason as SharedReason, State as SharedState } from "../../probes/browser/js/reasons.js";
import * as verdictModule from "../../probes/browser/js/verdict.js";
import * as promised from "../../probes/browser/js/parley-probes.js";

/** @internal Fails to compile unless the implementation can stand in for the declaration. */
function keeps<Declared>(_implementation: Declared): void {}

keeps<typeof promised.ProbeClient>(clientModule.ProbeClient);
keeps<promised.Reason[]>([] as SharedReason[]);
keeps<SharedReason[]>([] as promised.Reason[]);
keeps<promised.State[]>([] as SharedState[]);
keeps<typeof promised.verdictOf>(verdictModule.verdictOf);
keeps<promised.CheckResult[]>([] as verdictModule.CheckResult[]);
keeps<verdictModule.CheckResult[]>([] as promised.CheckResult[]);

export async function use(client: promised.ProbeClient, track: MediaStreamTrack): Promise<string> {
  client.on("test-completed", ({ test, results }) => [test, results.result]).off("test-completed", () => {});
  const { result, transports, checks } = await client.testNetworkConnectivity(track, { transports: ["tcp"] });
  const quality = await client.testPeerToPeerCallQuality({ videoTrack: track, duration: 5 });
  if (quality.result === "failed") return quality.errorMsg;
  const call = promised.ProbeClient.createCallObject();
  call.on("track-started", ({ participant, track: opened, type }) => [participant.local, opened.id, type]).on("error", () => {});
  await call.startCamera({ startAudioOff: true });
  call.participants().local.tracks.video.persistentTrack?.stop();
  const { networkState } = await client.getNetworkStats();
  // @ts-expect-error an event that does not exist
  client.on("no_such_event", () => {});
  return `${result} ${transports[0]?.roundTripMs} ${quality.data.avgRecvBitsPerSecond} ${networkState} ${promised.verdictOf(checks).text}`;
}
