/** The implementation keeps the promises of parley.d.ts: checked by the compiler, never run. */

import * as callModule from "../../signal_server/browser/js/call.js";
import * as errorsModule from "../../signal_server/browser/js/errors.js";
import * as peerModule from "../../signal_server/browser/js/peer-connection.js";
import * as reconnectModule from "../../signal_server/browser/js/reconnect.js";
import * as signalingModule from "../../signal_server/browser/js/signaling.js";
import type * as promised from "../../signal_server/browser/js/parley.js";

/** @internal Fails to compile unless the implementation can stand in for the declaration. */
function keeps<Declared>(_implementation: Declared): void {}

keeps<typeof promised.SignalingClient>(signalingModule.SignalingClient);
keeps<typeof promised.PeerConnection>(peerModule.PeerConnection);
keeps<typeof promised.Call>(callModule.Call);
keeps<typeof promised.ParleyError>(errorsModule.ParleyError);
keeps<typeof promised.reconnectDelay>(reconnectModule.reconnectDelay);
keeps<typeof promised.shouldReconnect>(reconnectModule.shouldReconnect);

export async function use(client: promised.SignalingClient, stream: MediaStream): Promise<number> {
  const off = client.on("peer_joined", ({ peer, data }) => client.send(peer, data));
  const { peers } = await client.join("garden", { name: "Ada" });
  for (const to of ["ada", ["ada", "bob"], ...peers]) {
    client.call(to, { stream, iceTransportPolicy: "relay", lifetimeS: 30 }).on("ended", ({ reason }) => reason.length);
  }
  client.on("receipt", ({ ref, type, to, stage, reason }) => [ref + 1, type.length, to, stage === "applied", reason]);
  client.on("peer_replaced", ({ peer, replaced }) => client.peerConnection(peer, { pc: replaced, refreshIceServers: false }));
  await client.send("p_1", {}, { until: "received" });
  void new signalingModule.SignalingClient({ url: "", room: "garden", replaces: client.ticket ?? undefined });
  // @ts-expect-error an event that does not exist
  client.on("no_such_event", () => {});
  // @ts-expect-error the url is required
  void new signalingModule.SignalingClient({ token: "t" });
  off();
  return client.ping();
}
