/**
 * Tests of a network before a call, against a deployment of Parley.
 *
 * ```js
 * import { ProbeClient } from "/js/parley-probes.js";
 * const probes = new ProbeClient({ baseUrl: "https://calls.example.org" });
 * const { result, reason, transports } = await probes.testNetworkConnectivity(videoTrack);
 * ```
 *
 * Names and results are those of daily-js, with more fields. Every promise settles once, also when
 * the server or the network goes away, and leaves no connection, timer or camera behind. What a
 * test finds is in its result; it rejects only for a wrong argument, or when it is not its turn.
 */

/** Words of a result; docs/probes.md explains them. "" is none. */
export type Reason =
  | "" | "unreachable" | "connection_refused" | "dns" | "tls_certificate" | "http_status" | "rate_limited"
  | "server_gone" | "timeout" | "not_offered" | "no_credentials" | "credential_rejected" | "credential_expired"
  | "allocation_quota" | "peer_denied" | "hairpin" | "relay_silent" | "packet_loss" | "upgrade_refused"
  | "frames_blocked" | "wrong_region" | "wrong_nonce" | "bandwidth_too_low" | "high_loss" | "high_delay"
  | "no_camera" | "no_microphone" | "permission_denied" | "device_in_use" | "unsupported" | "aborted" | "internal";
export type State = "waiting" | "running" | "passed" | "warning" | "failed" | "skipped" | "aborted";
export type TransportName = "udp" | "tcp" | "tls";
export type TestName = "network-connectivity" | "websocket-connectivity" | "call-quality" | "p2p-call-quality";

export interface ProbeOptions {
  /** `https://host` of the deployment; default: where this module comes from. */
  baseUrl?: string;
  /** Sent as Bearer when a probe session is begun, for deployments behind a gateway that wants one. */
  token?: string;
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  RTCPeerConnection?: typeof RTCPeerConnection;
  /** Where `startCamera` gets camera and microphone from, and `testCallQuality` a camera if there is no track. */
  mediaDevices?: Pick<MediaDevices, "getUserMedia">;
}

/** One entry of any test, for `verdictOf`. */
export interface CheckResult {
  /** api, turn, ws, direct, quality-audio, quality-video or devices. */
  name: string;
  state: State;
  reason?: Reason;
  /** Of a turn or a quality check. */
  transport?: TransportName | null;
  region?: string | null;
  /** `host:port` that was tried. */
  target?: string | null;
}

/** One sentence, what it means for a call, and what to ask the network's owner for. */
export interface Verdict {
  state: State;
  text: string;
  meaning: string;
  asks: { protocol: string; target: string }[];
}

export interface NetworkConnectivityOptions {
  signal?: AbortSignal | null;
  /** Default: all three. */
  transports?: TransportName[];
  /** Whose relays: one of the probe session's `turn_regions`. Default: those that a call would get. */
  region?: string;
  /** Called with every change; the array is a copy. */
  onProgress?: (progress: { transports: TransportResult[] }) => void;
  /** At most, and by default, 30,000. */
  timeoutMs?: number;
}

/** What came of the relay over one transport. */
export interface TransportResult {
  name: "turn";
  transport: TransportName;
  /** `skipped`: not offered. `warning`: it carries packets, and `reason` says what is not right. */
  state: State;
  reason: Reason;
  /** How far it has come. */
  step: null | "connecting" | "packets" | "server";
  /** Which answered. */
  region: string | null;
  /** `host:port` of the relay. */
  target: string | null;
  /**
   * The other end: this page itself, or the deployment's own peer, where the relay refuses itself
   * (`hairpin`) or the way is too long to go twice. null: there was no connection.
   */
  via: null | "loop" | "server";
  /** Until the data channel was open. */
  connectMs: number | null;
  /** Median, there and back through the relay. */
  roundTripMs: number | null;
  /** 0 to 1, of the packets that were sent and should have come back. */
  lossRatio: number | null;
  sent: number;
  received: number;
  /** ICE error code, for example 401; 0: none. */
  code: number;
  durationMs: number;
}

export interface NetworkConnectivity {
  /** `passed`: at least one transport carries packets. */
  result: "passed" | "failed" | "aborted";
  /**
   * "" when a transport carries them without any warning. `server_gone`: packets may pass, but the
   * deployment's server does not answer any more.
   */
  reason: Reason;
  /** Those that were begun; empty when the server could not be reached. */
  transports: TransportResult[];
  region: string | null;
  node: string | null;
  /** The base URL. */
  server: string;
  verdict: Verdict;
  /** The transports, and the API where that did not answer. */
  checks: CheckResult[];
  durationMs: number;
}

export interface Region {
  id: string;
  ws_url: string;
  http_url: string;
}

export interface WebsocketConnectivityOptions {
  signal?: AbortSignal | null;
  /** Ids of the deployment's regions, or whole regions; default: all. */
  regions?: (string | Region)[];
  onProgress?: (progress: { regions: RegionResult[] }) => void;
}

export interface RegionResult {
  name: "ws";
  id: string;
  /** The same as `id`. */
  region: string;
  state: State;
  reason: Reason;
  target: string | null;
  node: string | null;
  connectMs: number | null;
  roundTripMs: number | null;
  pongs: number;
  durationMs: number;
}

export interface WebsocketConnectivity {
  /** `warning`: some regions, not all. */
  result: "passed" | "failed" | "warning" | "aborted";
  reason: Reason;
  abortedRegions: string[];
  failedRegions: string[];
  passedRegions: string[];
  /** Empty when the list could not be had, and none was known from before. */
  regions: RegionResult[];
  /** The regions, or the API where the list could not be had. */
  checks: CheckResult[];
  server: string;
  durationMs: number;
}

export interface QualityOptions {
  /** Live; it goes on living. */
  videoTrack?: MediaStreamTrack;
  /** Seconds, 1 to 30; default 15. */
  duration?: number;
  signal?: AbortSignal | null;
  /** Once a second. */
  onProgress?: (second: QualitySecond) => void;
}

/** null: the browser does not tell. */
export interface QualitySecond {
  secondsElapsed: number;
  roundTripMs: number | null;
  /** What the round trip is longer than on the empty line. */
  queueMs: number | null;
  sendLoss: number | null;
  recvLoss: number | null;
  availableBps: number | null;
  sendBps: number | null;
  recvBps: number | null;
  limitedBy: string | null;
}

/**
 * Averages lean towards the newest seconds; null: the browser does not tell. Firefox has no estimate of
 * what is available: there it is what its encoder was allowed.
 */
export interface QualityData {
  /** Seconds. */
  maxRoundTripTime: number | null;
  /** Seconds. */
  avgRoundTripTime: number | null;
  avgAvailableOutgoingBitrate: number | null;
  avgSendBitsPerSecond: number | null;
}
export interface PeerToPeerQualityData extends QualityData {
  /** 0 to 1. */
  avgRecvPacketLoss: number | null;
  avgRecvBitsPerSecond: number | null;
}
export interface CallQualityData extends QualityData {
  /** 0 to 1. */
  avgSendPacketLoss: number | null;
}

interface QualityEnd {
  secondsElapsed: number;
  reason: Reason;
  region?: string | null;
  node?: string | null;
  server?: string;
  /** Of `testCallQuality`: media went over UDP, or over what there was instead. */
  transport?: TransportName;
}
export type QualityOf<Data> =
  | (QualityEnd & { result: "good" | "warning" | "bad"; data: Data })
  | (QualityEnd & { result: "aborted"; data: Partial<Data> })
  | (QualityEnd & { result: "failed"; errorMsg: string; error: { type: Reason; msg: string } });
/** `maxRTT` in seconds, `packetLoss` 0 to 1. */
export type ConnectionQuality = Omit<PeerToPeerCallQuality, "data"> & { data: { maxRTT: number | null; packetLoss: number | null } };
export type PeerToPeerCallQuality = QualityOf<PeerToPeerQualityData>;
export type CallQuality = QualityOf<CallQualityData>;

export type NetworkStateReason = "sendPacketLoss" | "recvPacketLoss" | "roundTripTime" | "availableOutgoingBitrate";
/** Times are in seconds and losses 0 to 1, as in WebRTC's statistics; null: not told, or nothing was sent. */
export interface LatestStats {
  /** Unix milliseconds. */
  timestamp: number;
  recvBitsPerSecond: number | null;
  sendBitsPerSecond: number | null;
  availableOutgoingBitrate: number | null;
  networkRoundTripTime: number | null;
  videoRecvBitsPerSecond: number | null;
  videoSendBitsPerSecond: number | null;
  audioRecvBitsPerSecond: number | null;
  audioSendBitsPerSecond: number | null;
  videoRecvPacketLoss: number | null;
  videoSendPacketLoss: number | null;
  audioRecvPacketLoss: number | null;
  audioSendPacketLoss: number | null;
  totalSendPacketLoss: number | null;
  totalRecvPacketLoss: number | null;
  videoRecvJitter: number | null;
  videoSendJitter: number | null;
  audioRecvJitter: number | null;
  audioSendJitter: number | null;
}
/** Worst and average are of the last 30 seconds. */
export interface NetworkStatsData {
  latest: LatestStats;
  worstVideoRecvPacketLoss: number;
  worstVideoSendPacketLoss: number;
  worstAudioRecvPacketLoss: number;
  worstAudioSendPacketLoss: number;
  worstVideoRecvJitter: number;
  worstVideoSendJitter: number;
  worstAudioRecvJitter: number;
  worstAudioSendJitter: number;
  averageNetworkRoundTripTime: number;
}
export interface NetworkStats {
  networkState: "good" | "warning" | "bad" | "unknown";
  /** Of the worst grade that was found. */
  networkStateReasons: NetworkStateReason[];
  stats: Record<string, never> | NetworkStatsData;
  /** The state in Daily's older words. */
  threshold: "good" | "low" | "very-low";
  quality: number;
}

export interface TestCompleted {
  action: "test-completed";
  test: TestName;
  results: NetworkConnectivity | WebsocketConnectivity | PeerToPeerCallQuality | CallQuality;
}

export type DeviceNames = { deviceId: string; label: string } | Record<string, never>;
export interface StartCameraOptions {
  startVideoOff?: boolean;
  startAudioOff?: boolean;
}
export interface LocalTrack {
  /** `blocked`: asked for, and not given. */
  state: "playable" | "off" | "blocked";
  track?: MediaStreamTrack;
  persistentTrack?: MediaStreamTrack;
}
export interface LocalParticipant {
  local: true;
  session_id: string;
  user_name: string;
  video: boolean;
  audio: boolean;
  tracks: { video: LocalTrack; audio: LocalTrack };
}
export interface TrackEvent {
  action: "track-started" | "track-stopped";
  participant: LocalParticipant;
  track: MediaStreamTrack;
  type: "video" | "audio";
}
export interface CameraError {
  action: "camera-error";
  error: { type: "permissions" | "not-found" | "cam-mic-in-use" | "constraints" | "undefined-mediadevices" | "unknown"; msg: string };
  errorMsg: { errorMsg: string; audioOk: boolean; videoOk: boolean };
}
export interface ProbeEvents {
  "test-completed": TestCompleted;
  "track-started": TrackEvent;
  "track-stopped": TrackEvent;
  "started-camera": { action: "started-camera" };
  "camera-error": CameraError;
  /** Daily's word for a call that is over; no test has such an end. */
  error: never;
}

/**
 * testNetworkConnectivity, testPeerToPeerCallQuality and testCallQuality fill the line: of different
 * ones, each waits for those before it, and its time begins after that. A test that runs already
 * rejects. testWebsocketConnectivity runs beside them. Two clients do not know each other.
 */
export class ProbeClient {
  constructor(options?: ProbeOptions);
  /** daily-js' factory; the last one that was made and not destroyed is `getCallInstance()`. */
  static createCallObject(options?: ProbeOptions): ProbeClient;
  static getCallInstance(): ProbeClient | undefined;

  on<Name extends keyof ProbeEvents>(name: Name, listener: (event: ProbeEvents[Name]) => void): this;
  once<Name extends keyof ProbeEvents>(name: Name, listener: (event: ProbeEvents[Name]) => void): this;
  off<Name extends keyof ProbeEvents>(name: Name, listener: (event: ProbeEvents[Name]) => void): this;

  /**
   * Opens camera and microphone for the tests, and for whoever shows them. Never rejects: what cannot
   * be opened is `camera-error`, and `{}` here.
   */
  startCamera(options?: StartCameraOptions): Promise<{ camera: DeviceNames; mic: DeviceNames; speaker: DeviceNames }>;
  participants(): { local: LocalParticipant };
  /** Off closes the camera; its track ends. */
  setLocalVideo(isOn: boolean): this;
  setLocalAudio(isOn: boolean): this;

  /**
   * Whether packets pass through the relay: 50 in one second, over each transport at the same time,
   * and once more alone where they get lost.
   * Rejects with "Video track error" for anything but a live video track, or none.
   */
  testNetworkConnectivity(videoTrack?: MediaStreamTrack | null, options?: NetworkConnectivityOptions): Promise<NetworkConnectivity>;
  /** The promise resolves with `aborted` and what is known; nothing happens when no test runs. */
  abortTestNetworkConnectivity(): void;

  /** Whether frames pass to every region, and each is the region that it should be. */
  testWebsocketConnectivity(options?: WebsocketConnectivityOptions): Promise<WebsocketConnectivity>;
  /** Keeps what is done. */
  abortTestWebsocketConnectivity(): void;

  /** Video through the relay, from this page to itself. Rejects with "Video track error" without a live track. */
  testPeerToPeerCallQuality(options?: QualityOptions): Promise<PeerToPeerCallQuality>;
  /** Resolves with what the seconds so far say, or `aborted` before the first. */
  stopTestPeerToPeerCallQuality(): void;
  /** Daily's older name of it, with less to tell. */
  testConnectionQuality(options?: QualityOptions): Promise<ConnectionQuality>;
  stopTestConnectionQuality(): void;

  /** Video through the relay to the deployment's own peer: the given track, that of `startCamera`, or a camera of its own. */
  testCallQuality(options?: QualityOptions): Promise<CallQuality>;
  stopTestCallQuality(): void;

  /**
   * Of any connection, or of the quality test that runs. The first call for a connection takes a
   * sample and tells `unknown`; ask about every two seconds.
   */
  getNetworkStats(pc?: RTCPeerConnection): Promise<NetworkStats>;

  /** Aborts what runs. */
  destroy(): Promise<void>;
}

/** One verdict of several tests: `verdictOf([...network.checks, ...sockets.checks, ...quality.checks])`. */
export function verdictOf(results: CheckResult[]): Verdict;

export type * from "./network-test.js";
export { ErrorNames, NetworkTest, NetworkTest as default } from "./network-test.js";
