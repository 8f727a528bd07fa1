/**
 * Parley for browsers and React Native: signaling, perfect negotiation, calls.
 *
 * ```js
 * import { SignalingClient } from "/js/parley.js";
 * const client = new SignalingClient({ url: "wss://example.org/v1/signal", token });
 * await client.connect();
 * await client.join("garden");
 * client.on("call", (call) => call.accept({ stream }));
 * client.call("ada", { stream }).on("ended", ({ reason }) => console.log(reason));
 * ```
 */

/** Removes the listener it was returned for. */
export type Off = () => void;

export interface Emits<Events> {
  on<Name extends keyof Events>(name: Name, listener: (detail: Events[Name]) => void): Off;
  once<Name extends keyof Events>(name: Name, listener: (detail: Events[Name]) => void): Off;
  off<Name extends keyof Events>(name: Name, listener: (detail: Events[Name]) => void): void;
}

/** A request was refused, or the connection to the server is gone. */
export class ParleyError extends Error {
  constructor(code: string, message: string, detail?: { retryable?: boolean; retryAfterMs?: number | null });
  /** An error code of docs/protocol.md, `timeout`, or `undelivered`. */
  readonly code: string;
  /** True when the same request may succeed later without being changed. */
  readonly retryable: boolean;
  readonly retryAfterMs: number | null;
}

export interface SignalingOptions {
  /**
   * `wss://host/v1/signal`. Of several addresses of one deployment the nearest is used, by their
   * `/v1/probes/ping`, and the next one while it fails.
   */
  url: string | string[];
  /** Access token (JWT). */
  token?: string;
  /** Asked for a token before every connection, and when the one in use is about to expire. */
  getToken?: () => string | Promise<string>;
  /** Entered after every welcome. */
  room?: string;
  /** Presence data for `room`. */
  data?: unknown;
  /**
   * `gated`: candidates wait until their description is known to be set. `receipts`: the server
   * tells what becomes of messages (event `receipt`, option `until`).
   */
  features?: string[];
  /**
   * The `ticket` of a client of this device that hangs or is gone without a goodbye: if it was in
   * `room`, the others see it replaced instead of leaving.
   */
  replaces?: Ticket;
  /**
   * `sessionStorage`: a page that is reloaded takes its own place in `room`; the others see one
   * `peer_replaced`. Without it a page that goes says goodbye, and with it the others see a closed
   * tab as not connected until the server's resume window ends.
   */
  storage?: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** How long `connect()` keeps trying; default 15 s. */
  connectTimeoutMs?: number;
  /**
   * Default `auto`: a WebSocket, and HTTP while none gets through. A session moves between them
   * without losing anything.
   */
  transport?: "auto" | Transport;
  /** Over HTTP: read a stream where the platform can, instead of long polling; default true. */
  streams?: boolean;
  /** Announce calls that come during a call (`isWaiting`), instead of answering busy. */
  callWaiting?: boolean;
  /** Where the platform has no globals of these names (React Native). */
  WebSocket?: new (url: string, protocols?: string[]) => any;
  fetch?: typeof fetch;
  RTCPeerConnection?: new (configuration?: RTCConfiguration) => RTCPeerConnection;
  MediaStream?: new () => MediaStream;
  /** Source of jitter, in [0, 1). */
  random?: () => number;
}

/** What names a session and proves that it was one's own. Keep it as secret as a token. */
export interface Ticket {
  session: string;
  secret: string;
}

export type ReceiptStage = "relayed" | "received" | "applied" | "expired" | "dropped";

/** How far a message has come. Stages only go forward, and may be skipped. */
export interface Receipt {
  /** The `id` of the request. */
  ref: number;
  /** Of the message: `offer`, `candidate`, `message` and so on. */
  type: string;
  /** The peer it is for; null: the room. */
  to: string | null;
  stage: ReceiptStage;
  /** Why it expired or was dropped; docs/protocol.md lists the reasons. */
  reason: string | null;
}

export interface RequestOptions {
  /** Time on a connection; default 10 s. */
  timeoutMs?: number;
  /**
   * With the feature `receipts`: resolve only once the message has come so far. Rejects with
   * `undelivered` when it never will.
   */
  until?: "relayed" | "received" | "applied";
}

export type SignalingState = "idle" | "connecting" | "open" | "reconnecting" | "closed";

export type Transport = "websocket" | "http";

export interface Peer {
  peer: string;
  identity: string;
  name: string | null;
  /** Presence data, as that peer gave it. */
  data: any;
  /** Own role toward this peer: the polite side yields when both offer at once. */
  polite: boolean;
  /** False while its connection to the server is lost and may still come back. */
  connected: boolean;
}

export interface RoomSnapshot {
  room: string;
  revision: number;
  /** Everybody else. */
  peers: Peer[];
}

export interface Welcome {
  session: string;
  peer: string;
  identity: string;
  node: string;
  region: string;
  pingIntervalS: number;
  limits: Record<string, number>;
}

export interface IceServers {
  /** Ready for `new RTCPeerConnection({ iceServers })`. */
  iceServers: RTCIceServer[];
  /** Unix seconds. */
  expiresAt: number;
}

export interface SignalingEvents {
  /** `error` says why when the state is `closed` and nobody asked for it. */
  state: { state: SignalingState; error: ParleyError | null };
  /** The session goes on after a lost connection; nothing was missed. */
  resumed: { replayed: number };
  /** The session could not be resumed: calls and connections are over, a new session begins. */
  session_lost: { reason: "resume_expired" | "resume_gap" };
  /** Another connection has taken this session over; this client stays closed. */
  superseded: object;
  /** Without `getToken`: call `refresh` with another token before then. */
  token_expiring: { expiresInS: number };
  /** What carries the session from now on. */
  transport: Transport;
  /** A snapshot: after `join`, and whenever a change was missed. */
  room: RoomSnapshot;
  peer_joined: Peer;
  peer_left: Peer & { reason: string };
  peer_updated: Peer;
  /** The same device under a new peer id. Connections to the one `replaced` are closed. */
  peer_replaced: Peer & { replaced: string };
  /** With the feature `receipts`. */
  receipt: Receipt;
  /** Application data from a peer. */
  message: { from: string; identity: string; data: any };
  ice_servers: IceServers;
  /** Somebody rings. */
  call: Call;
  /** The first offer of a peer for which no PeerConnection exists; create it in the listener. */
  incoming: { peer: string; identity: string; pc: string };
  /** What has no request to report to. */
  error: ParleyError | Error;
  /** Every server message as it came. */
  raw: any;
}

/** One session with the server. Reconnects by itself until `close()`. */
export class SignalingClient implements Emits<SignalingEvents> {
  constructor(options: SignalingOptions);
  readonly state: SignalingState;
  readonly welcome: Welcome | null;
  readonly transport: Transport | null;
  /** Own peer id. */
  readonly peer: string | null;
  readonly room: string | null;
  /** Everybody else in the room, by peer id. */
  readonly peers: ReadonlyMap<string, Peer>;
  /** Of the last ping. */
  readonly roundTripMs: number | null;
  readonly options: Readonly<SignalingOptions>;
  /** Calls that are not over. */
  readonly calls: Call[];

  /** Resolves with the first welcome; rejects when the server says no, or after `connectTimeoutMs`. */
  connect(): Promise<Welcome>;
  join(room: string, data?: unknown): Promise<RoomSnapshot>;
  leave(): Promise<void>;
  /** `until`: see RequestOptions. */
  send(to: string, data: unknown, options?: { until?: "relayed" | "received" }): Promise<void>;
  broadcast(data: unknown): Promise<void>;
  update(data: unknown): Promise<void>;
  /** Fresh credentials from the server. */
  iceServers(wish?: { ttl?: number; region?: string }): Promise<IceServers>;
  /** Those at hand while they are good for a minute, else fresh ones. */
  freshIceServers(): Promise<RTCIceServer[]>;
  /** Round trip in milliseconds. */
  ping(): Promise<number>;
  /** A fresh access token for the session. */
  refresh(token: string): Promise<void>;
  /**
   * The device is on another network (React Native: NetInfo): checks the connection to the server
   * and the paths to the peers, and restores what is lost. `online` events do it by themselves.
   */
  networkChanged(): void;
  /** Looks at once whether the server can be reached, and reconnects if it cannot. */
  checkConnection(): void;
  /** For `replaces` of the next client of this device; null without a session. */
  readonly ticket: Ticket | null;
  /** Resolves when that peer is in the room; false after 10 s. */
  present(peer: string): Promise<boolean>;
  /**
   * Any request of docs/protocol.md; resolves with its `ok`. While the connection is lost it waits
   * for the session to be resumed.
   */
  request(type: string, fields?: Record<string, unknown>, options?: RequestOptions): Promise<any>;
  /** A message that must arrive, and whose answer nobody waits for. */
  post(type: string, fields?: Record<string, unknown>): void;
  /** Any message without an answer; false while not connected. */
  notify(type: string, fields?: Record<string, unknown>): boolean;
  peerConnection(peer: string, options?: PeerConnectionOptions): PeerConnection;
  /** Rings all devices of an identity, of several, or of a peer of the room; the first answer wins. */
  call(to: string | string[] | Peer, options?: CallOptions): Call;
  close(): void;

  on<Name extends keyof SignalingEvents>(name: Name, listener: (detail: SignalingEvents[Name]) => void): Off;
  once<Name extends keyof SignalingEvents>(name: Name, listener: (detail: SignalingEvents[Name]) => void): Off;
  off<Name extends keyof SignalingEvents>(name: Name, listener: (detail: SignalingEvents[Name]) => void): void;
}

export interface PeerConnectionOptions {
  /** Name of the connection between the two peers; default "main". */
  pc?: string;
  rtcConfiguration?: RTCConfiguration;
  /** Default: the room's role toward this peer. */
  polite?: boolean;
  /** Awaited between a remote offer and the answer: add or attach tracks here. */
  beforeAnswer?: (rtc: RTCPeerConnection) => unknown;
  /** Attempts in a row before `failed`; default 3. */
  iceRestarts?: number;
  /**
   * Put the client's fresh ICE servers into the configuration when they arrive, for the next ICE
   * session; default: when `rtcConfiguration` has `iceServers`.
   */
  refreshIceServers?: boolean;
}

export interface Path {
  localType: RTCIceCandidateType;
  remoteType: RTCIceCandidateType;
  /** Of the local candidate. */
  protocol: "udp" | "tcp";
  /** How the local side reaches its relay. */
  relayProtocol: "udp" | "tcp" | "tls" | null;
  isRelayed: boolean;
  roundTripMs: number | null;
}

export interface PeerConnectionEvents {
  track: RTCTrackEvent;
  connectionstate: RTCPeerConnectionState;
  /** After each change to `connected`. */
  path: Path;
  description: { direction: "sent" | "received"; type: "offer" | "answer" | "pranswer" };
  candidate: { direction: "sent" | "received"; candidate: string };
  /** The last local candidate has been sent. */
  gathered: object;
  icecandidateerror: RTCPeerConnectionIceErrorEvent;
  /** The other side has set the description of that negotiation. */
  applied: { negotiation: number };
  /** What the other side reports of its connection. */
  peerstate: { state: RTCPeerConnectionState; candidateType: string | null };
  /** ICE restarts did not help. */
  failed: object;
  closed: { reason: string };
  error: ParleyError | Error;
}

/**
 * Perfect negotiation with one peer. Add tracks, transceivers or data channels to `rtc`; offers,
 * answers and candidates travel by themselves.
 */
export class PeerConnection implements Emits<PeerConnectionEvents> {
  constructor(client: SignalingClient, peer: string, options?: PeerConnectionOptions);
  readonly rtc: RTCPeerConnection;
  readonly peer: string;
  readonly pc: string;
  readonly polite: boolean;
  readonly closed: boolean;
  negotiate(): void;
  /** Restores a lost path at once; the client does this. */
  networkChanged(): void;
  /** For the next ICE session; the client does this. */
  useIceServers(iceServers: RTCIceServer[]): void;
  /** A new ICE session with fresh TURN credentials; happens by itself when the path is lost. */
  restartIce(): Promise<void>;
  path(): Promise<Path | null>;
  close(reason?: string): void;
  /** Hands in a relayed message; the client does this. */
  receive(message: any): void;

  on<Name extends keyof PeerConnectionEvents>(name: Name, listener: (detail: PeerConnectionEvents[Name]) => void): Off;
  once<Name extends keyof PeerConnectionEvents>(name: Name, listener: (detail: PeerConnectionEvents[Name]) => void): Off;
  off<Name extends keyof PeerConnectionEvents>(name: Name, listener: (detail: PeerConnectionEvents[Name]) => void): void;
}

export interface CallMedia {
  audio: boolean;
  video: boolean;
}

export interface CallOptions {
  /** What to send; without it the call only receives. */
  stream?: MediaStream | null;
  /** Whether sound is wanted; default true. */
  audio?: boolean;
  /** Whether this side will send video; default: whether the stream has a video track. */
  video?: boolean;
  /** `relay` sends everything through the TURN relay. */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Default: asked from the server. */
  iceServers?: RTCIceServer[];
  /** How long an invitation waits for an answer; default: the server's. */
  lifetimeS?: number;
  /** Goes with the invitation. */
  data?: unknown;
  /** Where the call takes place; default: this room if somebody called is in it, else one of its own. */
  room?: string | null;
}

/**
 * `calling` until a device rings, `ringing` there and here, `connecting` once answered, `active`
 * when media can flow. Losing the connection to the server does not change it.
 */
export type CallState = "calling" | "ringing" | "connecting" | "active" | "ended";

export type EndReason =
  | "user_hangup"
  | "declined"
  | "busy"
  | "no_answer"
  | "canceled"
  | "answered_elsewhere"
  | "unreachable"
  | "ice_failed"
  | "media_failed"
  | "kicked"
  | "server";

export interface CallEvents {
  state: CallState;
  /** A device of the called shows the call. */
  ringing: { device: string; identity: string };
  /** `device` has answered; `media` is what both want. */
  accepted: { device: string; identity: string; media: CallMedia };
  connection: PeerConnection;
  /** Each time the other side's stream gets a track. */
  remotestream: MediaStream;
  /** What the other side sends from now on. */
  media: CallMedia;
  /** The call goes on, with less: for example without ICE servers. */
  warning: Error;
  /** `error` says why the server refused. */
  ended: { reason: EndReason | string; error: Error | null };
}

/** What is known of a call when it begins. */
export interface CallFacts {
  direction: "incoming" | "outgoing";
  identity: string;
  id?: string;
  peer?: string;
  room?: string;
  media?: CallMedia;
  isWaiting?: boolean;
  data?: unknown;
}

/** A call between this device and one other. */
export class Call implements Emits<CallEvents> {
  constructor(client: SignalingClient, facts: CallFacts, options: CallOptions);
  /** Null until the server has named an outgoing call. */
  readonly id: string | null;
  /** The other device; null until one has answered an outgoing call. */
  readonly peer: string | null;
  /** Of the other party. */
  readonly identity: string;
  readonly room: string | null;
  readonly direction: "incoming" | "outgoing";
  readonly state: CallState;
  readonly endReason: string | null;
  /** Incoming: this identity is in another call. */
  readonly isWaiting: boolean;
  /** What came with the invitation. */
  readonly data: any;
  /** What this side sends. */
  readonly media: CallMedia;
  readonly isMuted: boolean;
  /** What the other side sends; in an incoming call: what it asks for. */
  readonly remoteMedia: CallMedia;
  readonly remoteStream: MediaStream | null;
  readonly connection: PeerConnection | null;
  /** Answer. A call that this device is in ends. */
  accept(options?: CallOptions): Promise<void>;
  /** Refuse, for all devices of this identity. */
  decline(): void;
  /** Refuse on this device; others go on ringing. */
  busy(): void;
  /** End the call, or stop calling. */
  hangup(): void;
  mute(muted: boolean): void;
  /** Camera or microphone on and off during the call, without a new negotiation. */
  replaceTrack(kind: "audio" | "video", track: MediaStreamTrack | null): Promise<void>;
  /** `relay`: the rest of the call goes through the relay. The media pauses for a moment. */
  setIceTransportPolicy(policy: RTCIceTransportPolicy): Promise<void>;

  on<Name extends keyof CallEvents>(name: Name, listener: (detail: CallEvents[Name]) => void): Off;
  once<Name extends keyof CallEvents>(name: Name, listener: (detail: CallEvents[Name]) => void): Off;
  off<Name extends keyof CallEvents>(name: Name, listener: (detail: CallEvents[Name]) => void): void;
}

/** Milliseconds before reconnection attempt `attempt` (0 first): full jitter, at most 10 s. */
export function reconnectDelay(attempt: number, random?: () => number): number;
/** Whether a client should connect again after this WebSocket close code. */
export function shouldReconnect(code: number): boolean;
