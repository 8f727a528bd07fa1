/**
 * OpenTok's network test against a deployment of Parley.
 *
 * ```js
 * import NetworkTest, { ErrorNames } from "/js/parley-probes.js";
 * const test = new NetworkTest(OT, { apiKey, sessionId: "https://calls.example.org", token });
 * const { success, failedTests } = await test.testConnectivity();
 * const { audio, video } = await test.testQuality((update) => console.log(update));
 * ```
 *
 * Names and results are those of opentok-network-test-js, with more fields. Media goes through the
 * relay to the deployment's own peer and back. Every promise settles once, also when the server or
 * the network goes away, and leaves no connection, timer, camera or server peer behind.
 */

import type { CheckResult, Reason, TransportName } from "./parley-probes.js";

/** Either `baseUrl`, or the three of the original. */
export interface SessionInfo {
  /** `https://host` of the deployment; then nothing else is needed. */
  baseUrl?: string;
  /** The account's SID, or anything. */
  apiKey?: string;
  /** `https://host` of the deployment, or a name: then it is where this module comes from. */
  sessionId?: string;
  /** An access token with the grant `probe`; the server is asked whether it is good. */
  token?: string;
}

export interface NetworkTestOptions {
  /** Default false. Without a camera the quality test is audio-only by itself. */
  audioOnly?: boolean;
  /** Milliseconds, 5,000 to 30,000, from when media flows; anything else is ignored. */
  timeout?: number;
  /** Ids of devices. */
  audioSource?: string;
  /** `null`: audio only. */
  videoSource?: string | null;
  /** 1920x1080, or the quality test rejects with UNSUPPORTED_RESOLUTION_ERROR. Default: 1280x720 if there is. */
  fullHd?: boolean;
  /** Taken for the original's sake: one layer is sent, ICE servers are the deployment's, proxies the browser's. */
  scalableVideo?: boolean;
  initSessionOptions?: object;
  proxyServerUrl?: string;
  /** Ends both tests at once; `stop()` ends them in the original's way. */
  signal?: AbortSignal | null;
  fetch?: typeof fetch;
  /** Stand-ins for what the browser gives. */
  platform?: Partial<{
    mediaDevices: MediaDevices;
    permissions: Permissions;
    RTCPeerConnection: typeof RTCPeerConnection;
    WebSocket: typeof WebSocket;
  }>;
}

/** `name` is one of ErrorNames. */
export interface TestError extends Error {
  /** Why, in a word of docs/probes.md; "" where the name says it all. */
  reason: Reason;
}

export interface ConnectivityResults {
  success: boolean;
  /** At most one of the chain, with `media` beside `messaging`, and one of logging. */
  failedTests: { type: "api" | "messaging" | "media" | "logging" | "OpenTok.js"; error: TestError }[];
  /** `stop()` or the signal ended it: what was not tested is not in `failedTests`. */
  stopped?: boolean;
}

export interface TrackUpdate {
  /** Unix milliseconds. */
  timestamp: number;
  /** Counters from the beginning of the phase. */
  bytesReceived: number;
  packetsReceived: number;
  /** On either way, there and back. */
  packetsLost: number;
  bytesSent: number;
}

/** Once a second. */
export interface QualityUpdate {
  audio: TrackUpdate;
  /** null while the test is audio-only. */
  video: (TrackUpdate & { frameRate: number }) | null;
  timestamp: number;
  phase: "audio-video" | "audio-only";
  /** Milliseconds; null: the browser does not tell. */
  roundTripTime: number | null;
  availableOutgoingBitrate: number | null;
}

type Rating = "excellent" | "good" | "fair" | "poor" | "bad";

/** Rates are of the last five seconds, the score is the mean of all. */
export interface AudioResults {
  /** The score is 2.4 or better. */
  supported: boolean;
  reason?: string;
  /**
   * What is not good about it: `high_loss` or `high_delay` on a line where nothing has to wait, else
   * `bandwidth_too_low`; "" is nothing.
   */
  cause: Reason;
  /** Bits per second that came back. */
  bitrate: number;
  /** 0 to 1, of the worse way. */
  packetLossRatio: number;
  /** 1 to 4.5. */
  mos: number;
  rating: Rating;
  roundTripTime: number | null;
}

/** Only `supported`, `reason` and the lowest score where no video was tested. */
export interface VideoResults {
  supported: boolean;
  reason?: string;
  /** As of sound. */
  cause?: Reason;
  bitrate?: number;
  frameRate?: number;
  packetLossRatio?: number;
  /** 1 to 4.5. */
  mos: number;
  rating?: Rating;
  /** null: video is not supported. */
  recommendedResolution?: string | null;
  recommendedFrameRate?: number | null;
  /** By the newer ladder and the sender's estimate of the link; null: too little, or not told. */
  recommendedByAvailable?: string | null;
  availableOutgoingBitrate?: number | null;
  /** What held the encoder back at the end; null: nothing, or not told. */
  qualityLimitationReason?: string | null;
}

export interface QualityResults {
  audio: AudioResults;
  video: VideoResults;
  /** Media went over UDP, or over what there was instead. */
  transport: TransportName;
  /** The same for `verdictOf`. */
  checks: CheckResult[];
}

export class NetworkTest {
  /**
   * @param OT OpenTok's, or anything with an `initSession`; not used. May be null with a `baseUrl`.
   * Throws MISSING_OPENTOK_INSTANCE, MISSING_SESSON_CREDENTIALS or INCOMPLETE_SESSON_CREDENTIALS.
   */
  constructor(OT: unknown, sessionInfo: SessionInfo, options?: NetworkTestOptions);

  /** Never rejects. Takes a second or two, at most a minute. */
  testConnectivity(onComplete?: (results: ConnectivityResults) => void): Promise<ConnectivityResults>;

  /**
   * Ends when the link is known, after 5 s or more, after `timeout`, or after 30 s (10 s audio-only).
   * Throws INVALID_ON_UPDATE_CALLBACK; rejects with a TestError.
   */
  testQuality(
    updateCallback?: ((update: QualityUpdate) => void) | null,
    onComplete?: (error: Error | undefined, results?: QualityResults) => void,
  ): Promise<QualityResults>;

  /** Rejects with UNSUPPORTED_RESOLUTION_ERROR if the camera does not have exactly that. */
  checkCameraSupport(width: number, height: number): Promise<void>;

  /** A quality test ends with what is known, not before 5 s; a connectivity test at once. */
  stop(): void;
}

/** `SESSON` is how the original spells it. */
export const ErrorNames: {
  readonly NETWORK_TEST_ERROR: "NetworkTestError";
  readonly MISSING_OPENTOK_INSTANCE: "MissingOpenTokInstanceError";
  readonly INCOMPLETE_SESSON_CREDENTIALS: "IncompleteSessionCredentialsError";
  readonly MISSING_SESSON_CREDENTIALS: "MissingSessionCredentialsError";
  readonly INVALID_ON_UPDATE_CALLBACK: "InvalidOnUpdateCallback";
  readonly CONNECTIVITY_ERROR: "ConnectivityError";
  readonly API_CONNECTIVITY_ERROR: "APIConnectivityError";
  readonly CONNECT_TO_SESSION_ERROR: "ConnectToSessionError";
  readonly CONNECT_TO_SESSION_TOKEN_ERROR: "ConnectToSessionTokenError";
  readonly CONNECT_TO_SESSION_ID_ERROR: "ConnectToSessionSessionIdError";
  readonly CONNECT_TO_SESSION_NETWORK_ERROR: "ConnectToSessionNetworkError";
  readonly MEDIA_DEVICE_ERROR: "MediaDeviceError";
  readonly FAILED_TO_OBTAIN_MEDIA_DEVICES: "FailedToObtainMediaDevices";
  readonly NO_VIDEO_CAPTURE_DEVICES: "NoVideoCaptureDevicesError";
  readonly NO_AUDIO_CAPTURE_DEVICES: "NoAudioCaptureDevicesError";
  readonly PUBLISH_TO_SESSION_ERROR: "PublishToSessionError";
  readonly INIT_PUBLISHER_ERROR: "InitPublisherError";
  readonly FAILED_MESSAGING_SERVER_TEST: "FailedMessagingServerTestError";
  readonly FAILED_TO_CREATE_LOCAL_PUBLISHER: "FailedToCreateLocalPublisher";
  readonly PUBLISH_TO_SESSION_NOT_CONNECTED: "PublishToSessionNotConnectedError";
  readonly PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR: "PublishToSessionPermissionOrTimeoutError";
  readonly PUBLISH_TO_SESSION_NETWORK_ERROR: "PublishToSessionNetworkError";
  readonly SUBSCRIBE_TO_SESSION_ERROR: "SubscribeToSessionError";
  readonly LOGGING_SERVER_CONNECTION_ERROR: "LoggingServerConnectionError";
  readonly QUALITY_TEST_ERROR: "QualityTestError";
  readonly UNSUPPORTED_BROWSER: "UnsupportedBrowser";
  readonly SUBSCRIBER_GET_STATS_ERROR: "SubscriberGetStatsError";
  readonly MISSING_SUBSCRIBER_ERROR: "MissingSubscriberError";
  readonly PERMISSION_DENIED_ERROR: "PermissionDeniedError";
  readonly UNSUPPORTED_RESOLUTION_ERROR: "UnsupportedResolutionError";
};

export { NetworkTest as default };
