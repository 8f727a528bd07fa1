/**
 * The error names of opentok-network-test-js, and which part of a deployment each one speaks of.
 * SESSON is how the original spells it.
 * @module
 */

/** @typedef {import("./reasons.js").Reason} Reason */
/** @typedef {"api" | "messaging" | "media" | "logging" | "OpenTok.js"} FailureType */
/** @typedef {keyof typeof ErrorNames} ErrorKey */

export const ErrorNames = Object.freeze({
  NETWORK_TEST_ERROR: "NetworkTestError",
  MISSING_OPENTOK_INSTANCE: "MissingOpenTokInstanceError",
  INCOMPLETE_SESSON_CREDENTIALS: "IncompleteSessionCredentialsError",
  MISSING_SESSON_CREDENTIALS: "MissingSessionCredentialsError",
  INVALID_ON_UPDATE_CALLBACK: "InvalidOnUpdateCallback",
  CONNECTIVITY_ERROR: "ConnectivityError",
  API_CONNECTIVITY_ERROR: "APIConnectivityError",
  CONNECT_TO_SESSION_ERROR: "ConnectToSessionError",
  CONNECT_TO_SESSION_TOKEN_ERROR: "ConnectToSessionTokenError",
  CONNECT_TO_SESSION_ID_ERROR: "ConnectToSessionSessionIdError",
  CONNECT_TO_SESSION_NETWORK_ERROR: "ConnectToSessionNetworkError",
  MEDIA_DEVICE_ERROR: "MediaDeviceError",
  FAILED_TO_OBTAIN_MEDIA_DEVICES: "FailedToObtainMediaDevices",
  NO_VIDEO_CAPTURE_DEVICES: "NoVideoCaptureDevicesError",
  NO_AUDIO_CAPTURE_DEVICES: "NoAudioCaptureDevicesError",
  PUBLISH_TO_SESSION_ERROR: "PublishToSessionError",
  INIT_PUBLISHER_ERROR: "InitPublisherError",
  FAILED_MESSAGING_SERVER_TEST: "FailedMessagingServerTestError",
  FAILED_TO_CREATE_LOCAL_PUBLISHER: "FailedToCreateLocalPublisher",
  PUBLISH_TO_SESSION_NOT_CONNECTED: "PublishToSessionNotConnectedError",
  PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR: "PublishToSessionPermissionOrTimeoutError",
  PUBLISH_TO_SESSION_NETWORK_ERROR: "PublishToSessionNetworkError",
  SUBSCRIBE_TO_SESSION_ERROR: "SubscribeToSessionError",
  LOGGING_SERVER_CONNECTION_ERROR: "LoggingServerConnectionError",
  QUALITY_TEST_ERROR: "QualityTestError",
  UNSUPPORTED_BROWSER: "UnsupportedBrowser",
  SUBSCRIBER_GET_STATS_ERROR: "SubscriberGetStatsError",
  MISSING_SUBSCRIBER_ERROR: "MissingSubscriberError",
  PERMISSION_DENIED_ERROR: "PermissionDeniedError",
  UNSUPPORTED_RESOLUTION_ERROR: "UnsupportedResolutionError",
});

const MESSAGES = /** @type {Partial<Record<ErrorKey, string>>} */ ({
  MISSING_OPENTOK_INSTANCE: "The first argument must be the OT object, or the session info must have a baseUrl.",
  INCOMPLETE_SESSON_CREDENTIALS: "The session info needs an apiKey, a sessionId and a token, or a baseUrl.",
  MISSING_SESSON_CREDENTIALS: "The second argument must be the session info.",
  INVALID_ON_UPDATE_CALLBACK: "The update callback must be a function of one parameter.",
  CONNECTIVITY_ERROR: "The connectivity test failed.",
  API_CONNECTIVITY_ERROR: "The server's API cannot be reached.",
  CONNECT_TO_SESSION_ERROR: "The server's WebSocket does not answer.",
  CONNECT_TO_SESSION_TOKEN_ERROR: "The server does not accept the token.",
  CONNECT_TO_SESSION_ID_ERROR: "The session id is not the URL of a server, and not a name either.",
  CONNECT_TO_SESSION_NETWORK_ERROR: "The connection to the server is gone.",
  FAILED_TO_OBTAIN_MEDIA_DEVICES: "No camera and no microphone can be used.",
  NO_VIDEO_CAPTURE_DEVICES: "No camera was found.",
  NO_AUDIO_CAPTURE_DEVICES: "No microphone was found.",
  PUBLISH_TO_SESSION_ERROR: "No connection through the relay to the server.",
  INIT_PUBLISHER_ERROR: "The camera or the microphone cannot be opened.",
  FAILED_MESSAGING_SERVER_TEST: "Media was not tested, because messaging failed.",
  FAILED_TO_CREATE_LOCAL_PUBLISHER: "The camera or the microphone cannot be opened.",
  PUBLISH_TO_SESSION_NOT_CONNECTED: "The server does not know the session any more.",
  PUBLISH_TO_SESSION_PERMISSION_OR_TIMEOUT_ERROR: "The question for camera and microphone was not answered in time.",
  PUBLISH_TO_SESSION_NETWORK_ERROR: "The server went away while publishing.",
  SUBSCRIBE_TO_SESSION_ERROR: "The stream does not come back.",
  LOGGING_SERVER_CONNECTION_ERROR: "Log entries do not get through.",
  QUALITY_TEST_ERROR: "The quality test was ended before there was a result.",
  UNSUPPORTED_BROWSER: "This browser has no WebRTC, or the page is not from a secure origin.",
  SUBSCRIBER_GET_STATS_ERROR: "The browser gives no statistics of the stream.",
  MISSING_SUBSCRIBER_ERROR: "The server sends nothing back.",
  PERMISSION_DENIED_ERROR: "Camera or microphone may not be used.",
  UNSUPPORTED_RESOLUTION_ERROR: "The camera does not have this resolution.",
});

const TYPES = /** @type {Partial<Record<string, FailureType>>} */ ({
  [ErrorNames.API_CONNECTIVITY_ERROR]: "api",
  [ErrorNames.CONNECT_TO_SESSION_NETWORK_ERROR]: "api",
  [ErrorNames.CONNECT_TO_SESSION_ERROR]: "messaging",
  [ErrorNames.CONNECT_TO_SESSION_TOKEN_ERROR]: "messaging",
  [ErrorNames.CONNECT_TO_SESSION_ID_ERROR]: "messaging",
  [ErrorNames.PUBLISH_TO_SESSION_ERROR]: "media",
  [ErrorNames.SUBSCRIBE_TO_SESSION_ERROR]: "media",
  [ErrorNames.MISSING_SUBSCRIBER_ERROR]: "media",
  [ErrorNames.FAILED_MESSAGING_SERVER_TEST]: "media",
  [ErrorNames.LOGGING_SERVER_CONNECTION_ERROR]: "logging",
});

/** What both tests fail with: `name` is one of ErrorNames. */
export class NetworkTestError extends Error {
  /**
   * @param {ErrorKey} key
   * @param {Reason} [reason] why, in a word of reasons.js
   * @param {string} [message]
   */
  constructor(key, reason = "", message = MESSAGES[key] ?? ErrorNames[key]) {
    super(message);
    this.name = ErrorNames[key];
    this.reason = reason;
  }
}

/** @param {NetworkTestError} error @returns {FailureType} */
export const typeOf = ({ name }) => TYPES[name] ?? "OpenTok.js";

/**
 * Keeps an error that has a name of ours; anything else gets that of `key`.
 * @param {unknown} error
 * @param {ErrorKey} key
 */
export function named(error, key) {
  if (error instanceof NetworkTestError) return error;
  const { reason = "internal", message = "" } = /** @type {{reason?: Reason, message?: string}} */ (error ?? {});
  return new NetworkTestError(key, reason, reason === "internal" && message ? message : undefined);
}
