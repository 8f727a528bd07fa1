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

  /** Answers the last request of that type. */
  ok(type, fields = {}) {
    this.say({ type: "ok", id: this.lastSent(type).id, ...fields });
  }

  /** The last message of that type that the client sent. */
  lastSent(type) {
    return this.sent.findLast((message) => message.type === type);
  }

  /** The session that the client wants goes on. */
  resumed(fields = {}) {
    this.open();
    const { session, last_seq } = this.lastSent("hello").resume;
    this.say({
      type: "resumed", session, peer: "me", identity: "ada", node: "n", region: "local",
      resume: { secret: "y", window_s: 60 }, from_seq: last_seq + 1, replayed: 0,
      ping_interval_s: 10, limits: {}, rooms: [], calls: [], ...fields,
    });
  }

  welcome(fields = {}) {
    this.open();
    this.say({
      type: "welcome", session: "s1", peer: "me", identity: "ada", node: "n", region: "local",
      resume: { secret: "x", window_s: 60 }, ping_interval_s: 10, limits: {}, ...fields,
    });
  }
}

/** What a server does with the calls of devices `{socket, identity}`, by device name. */
export class FakeCalls {
  calls = [];
  #devices;

  constructor(devices) {
    this.#devices = devices;
  }

  /** Returns what the ok carries. */
  handle(sender, { type, ...message }) {
    if (type === "call_invite") return this.#invite(sender, message);
    const call = this.calls.find(({ id }) => id === message.call);
    if (!call || call.isOver) return {};
    if (type === "call_ringing") this.#tell(call.caller, call, "call_ringing", this.#device(sender));
    if (type === "call_accept") this.#accept(call, sender, message.media);
    if (type === "call_cancel") this.#end(call, "canceled", sender);
    if (type === "call_hangup") this.#end(call, message.reason ?? "user_hangup", sender);
    if (type === "call_reject" && !call.callee) {
      call.legs.delete(sender);
      if (message.reason === "declined" || call.legs.size === 0) this.#end(call, message.reason, sender);
    }
    return {};
  }

  say(name, message) {
    queueMicrotask(() => this.#devices[name].socket.say(message));
  }

  #device(name) {
    return { device: name, identity: this.#devices[name].identity };
  }

  #invite(caller, { to, media, data }) {
    const legs = Object.keys(this.#devices).filter((name) => to.includes(this.#devices[name].identity));
    const call = { id: `c${this.calls.length + 1}`, caller, media, legs: new Set(legs), isOver: false };
    const rival = this.calls.find((one) => !one.isOver && one.legs.has(caller) && call.legs.has(one.caller));
    this.calls.push(call);
    if (rival) {
      call.legs.clear();
      queueMicrotask(() => {
        this.#end(call, "answered_elsewhere", null, rival.id);
        this.#accept(rival, caller, rival.media);
      });
      return { call: call.id };
    }
    const from = this.#devices[caller];
    for (const name of legs) {
      const waiting = this.calls.some((one) => one.callee === name && !one.isOver);
      this.#tell(name, call, "call_invite", { from: caller, identity: from.identity, room: "garden", media, lifetime_s: 45, waiting, data });
    }
    return { call: call.id };
  }

  #accept(call, callee, media) {
    const [from, to] = [this.#devices[call.caller], this.#devices[callee]];
    const pair = { from: call.caller, device: callee, room: "garden", media };
    for (const other of call.legs) {
      if (other !== callee) this.#tell(other, call, "call_ended", { reason: "answered_elsewhere", device: callee });
    }
    Object.assign(call, { legs: new Set(), callee });
    this.#tell(call.caller, call, "call_accepted", { ...pair, identity: to.identity });
    this.#tell(callee, call, "call_accepted", { ...pair, identity: from.identity });
  }

  #end(call, reason, by, replaced_by) {
    if (call.isOver) return;
    call.isOver = true;
    for (const name of new Set([call.caller, ...(call.callee ? [call.callee] : []), ...call.legs])) {
      if (name !== by) this.#tell(name, call, "call_ended", { reason, replaced_by });
    }
  }

  #tell(name, call, type, fields) {
    this.say(name, { type, call: call.id, ...fields });
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

  post(type, fields) {
    const message = { type, ...fields };
    this.sent.push(message);
    this.wire(message);
  }

  checks = 0;
  checkConnection() {
    this.checks++;
  }

  async freshIceServers() {
    return [{ urls: ["turn:relay.example"] }];
  }

  types() {
    return this.sent.map(({ type }) => type);
  }
}
