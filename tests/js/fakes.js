/** Stand-ins for what the platform gives: a WebSocket and an RTCPeerConnection that keep its rules. */

export class FakeSocket {
  /** @type {FakeSocket[]} */
  static all = [];
  static get last() {
    return FakeSocket.all.at(-1);
  }

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, sent: [], closedWith: null });
    FakeSocket.all.push(this);
  }

  send(text) {
    if (this.readyState !== 1) throw new Error("not open");
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  say(message) {
    this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }

  drop(code) {
    this.readyState = 3;
    this.onclose?.({ code });
  }

  /** The last message of that type that the client sent. */
  lastSent(type) {
    return this.sent.findLast((message) => message.type === type);
  }

  welcome(fields = {}) {
    this.open();
    this.say({
      type: "welcome", session: "s1", peer: "me", identity: "ada", node: "n", region: "local",
      resume: { secret: "x", window_s: 60 }, ping_interval_s: 10, limits: {}, ...fields,
    });
  }
}

/** Lets everything that is ready run. */
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

let descriptions = 0;

/** Keeps signalingState, rollback and the addIceCandidate rules of webrtc-pc; moves no media. */
export class FakeRtc extends EventTarget {
  signalingState = "stable";
  connectionState = "new";
  localDescription = null;
  currentRemoteDescription = null;
  pendingRemoteDescription = null;
  added = [];
  log = [];
  restarts = 0;
  delay = async () => {};
  #generation = 0;

  constructor(configuration = {}) {
    super();
    this.configuration = configuration;
  }

  get remoteDescription() {
    return this.pendingRemoteDescription ?? this.currentRemoteDescription;
  }

  needNegotiation() {
    this.dispatchEvent(new Event("negotiationneeded"));
  }

  async setLocalDescription(description) {
    await this.delay();
    if (description?.type === "rollback") {
      this.log.push("local rollback");
      this.signalingState = "stable";
      this.localDescription = null;
      return;
    }
    const type = this.signalingState === "have-remote-offer" ? "answer" : "offer";
    this.log.push(`local ${type}`);
    const ufrag = `u${++descriptions}g${this.#generation}`;
    this.localDescription = { type, sdp: `v=0\r\nm=audio\r\na=ice-ufrag:${ufrag}\r\n` };
    if (type === "answer") this.#settleRemote();
    this.signalingState = type === "offer" ? "have-local-offer" : "stable";
  }

  async setRemoteDescription(description) {
    await this.delay();
    const { type } = description;
    if (type === "offer") {
      if (this.signalingState === "have-local-offer") this.log.push("rollback");
      this.signalingState = "have-remote-offer";
      this.pendingRemoteDescription = description;
    } else {
      if (this.signalingState !== "have-local-offer") throw new DOMException("", "InvalidStateError");
      this.pendingRemoteDescription = description;
      this.#settleRemote();
      this.signalingState = "stable";
    }
    this.log.push(`remote ${type}`);
  }

  async addIceCandidate(candidate) {
    if (!this.remoteDescription) throw new DOMException("no description", "InvalidStateError");
    const sdps = [this.currentRemoteDescription, this.pendingRemoteDescription].map((d) => d?.sdp ?? "");
    const { usernameFragment } = candidate;
    if (usernameFragment && !sdps.some((sdp) => sdp.includes(usernameFragment))) {
      throw new DOMException("unknown ufrag", "OperationError");
    }
    this.added.push(candidate);
  }

  restartIce() {
    this.restarts++;
    this.#generation++;
    this.needNegotiation();
  }

  getConfiguration() {
    return this.configuration;
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  become(connectionState) {
    this.connectionState = connectionState;
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  gather(candidate) {
    this.dispatchEvent(Object.assign(new Event("icecandidate"), { candidate }));
  }

  async getStats() {
    return new Map();
  }

  close() {
    this.signalingState = "closed";
  }

  #settleRemote() {
    this.currentRemoteDescription = this.pendingRemoteDescription;
    this.pendingRemoteDescription = null;
  }
}

/** A client as PeerConnection sees it, whose messages land in `sent` and, with `wire`, at a peer. */
export class FakeClient {
  peers = new Map();
  options = { RTCPeerConnection: FakeRtc };
  sent = [];
  wire = (_message) => ({});

  async request(type, fields) {
    const message = { type, ...fields };
    this.sent.push(message);
    const ok = this.wire(message);
    if (ok instanceof Error) throw ok;
    return ok;
  }

  notify(type, fields) {
    const message = { type, ...fields };
    this.sent.push(message);
    this.wire(message);
    return true;
  }

  async freshIceServers() {
    return [{ urls: ["turn:relay.example"] }];
  }

  types() {
    return this.sent.map(({ type }) => type);
  }
}
