/**
 * Parley for browsers and React Native: signaling, perfect negotiation, calls.
 *
 * ```js
 * import { SignalingClient } from "/js/parley.js";
 * const client = new SignalingClient({ url: "wss://example.org/v1/signal", token });
 * await client.connect();
 * const { peers } = await client.join("garden");
 * client.on("call", (call) => call.accept({ stream }));
 * if (peers.length) client.call(peers[0].peer, { stream });
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
  /** An error code of docs/protocol.md, or `timeout`. */
  readonly code: string;
  /** True when the same request may succeed later without being changed. */
  readonly retryable: boolean;
  readonly retryAfterMs: number | null;
}

export interface SignalingOptions {
  /** `wss://host/v1/signal`. */
  url: string;
  /** Access token (JWT). */
  token?: string;
  /** Asked for a token before every connection; use it when tokens expire. */
  getToken?: () => string | Promise<string>;
  /** Entered after every welcome. */
  room?: string;
  /** Presence data for `room`. */
  data?: unknown;
  /** `gated`: candidates wait until their description is known to be set. */
  features?: string[];
  /** How long `connect()` keeps trying; default 15 s. */
  connectTimeoutMs?: number;
  /** Where the platform has no globals of these names (React Native). */
  WebSocket?: new (url: string, protocols?: string[]) => any;
  RTCPeerConnection?: new (configuration?: RTCConfiguration) => RTCPeerConnection;
  MediaStream?: new () => MediaStream;
  /** Source of jitter, in [0, 1). */
  random?: () => number;
}

export type SignalingState = "idle" | "connecting" | "open" | "reconnecting" | "closed";

export interface Peer {
  peer: string;
  identity: string;
  name: string | null;
  /** Presence data, as that peer gave it. */
  data: any;
  /** Own role toward this peer: the polite side yields when both offer at once. */
  polite: boolean;
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
  /** A snapshot: after `join`, and whenever a change was missed. */
  room: RoomSnapshot;
  peer_joined: Peer;
  peer_left: Peer & { reason: string };
  peer_updated: Peer;
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
  /** Own peer id. */
  readonly peer: string | null;
  readonly room: string | null;
  /** Everybody else in the room, by peer id. */
  readonly peers: ReadonlyMap<string, Peer>;
  /** Of the last ping. */
  readonly roundTripMs: number | null;
  readonly options: Readonly<SignalingOptions>;

  /** Resolves with the first welcome; rejects when the server says no, or after `connectTimeoutMs`. */
  connect(): Promise<Welcome>;
  join(room: string, data?: unknown): Promise<RoomSnapshot>;
  leave(): Promise<void>;
  send(to: string, data: unknown): Promise<void>;
  broadcast(data: unknown): Promise<void>;
  update(data: unknown): Promise<void>;
  /** Fresh credentials from the server. */
  iceServers(wish?: { ttl?: number; region?: string }): Promise<IceServers>;
  /** Those at hand while they are good for a minute, else fresh ones. */
  freshIceServers(): Promise<RTCIceServer[]>;
  /** Round trip in milliseconds. */
  ping(): Promise<number>;
  /** Any request of docs/protocol.md; resolves with its `ok`. */
  request(type: string, fields?: Record<string, unknown>, options?: { timeoutMs?: number }): Promise<any>;
  /** Any message without an answer; false while not connected. */
  notify(type: string, fields?: Record<string, unknown>): boolean;
  peerConnection(peer: string, options?: PeerConnectionOptions): PeerConnection;
  call(peer: string, options?: CallOptions): Call;
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
  /** Whether the invitation asks for video; default: whether the stream has a video track. */
  video?: boolean;
  /** `relay` sends everything through the TURN relay. */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Default: asked from the server. */
  iceServers?: RTCIceServer[];
  /** How long an invitation waits for an answer; default 45 s. */
  ringMs?: number;
}

export type CallState = "calling" | "ringing" | "connecting" | "active" | "ended";

export interface CallEvents {
  state: CallState;
  connection: PeerConnection;
  /** Each time the other side's stream gets a track. */
  remotestream: MediaStream;
  /** What the other side sends from now on. */
  media: CallMedia;
  /** The call goes on, with less: for example without ICE servers. */
  warning: Error;
  /**
   * `reason`: user_hangup, declined, busy, no_answer, canceled, unreachable or ice_failed.
   */
  ended: { reason: string };
}

/** A call with one peer of the room. */
export class Call implements Emits<CallEvents> {
  constructor(
    client: SignalingClient,
    peer: string,
    id: string,
    direction: "incoming" | "outgoing",
    options: CallOptions,
  );
  readonly id: string;
  readonly peer: string;
  readonly identity: string | null;
  readonly direction: "incoming" | "outgoing";
  readonly state: CallState;
  readonly endReason: string | null;
  /** What this side sends. */
  readonly media: CallMedia;
  readonly isMuted: boolean;
  /** What the other side sends; in an incoming call: what it asks for. */
  readonly remoteMedia: CallMedia;
  readonly remoteStream: MediaStream | null;
  readonly connection: PeerConnection | null;
  accept(options?: CallOptions): Promise<void>;
  decline(reason?: string): void;
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
