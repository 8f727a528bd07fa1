/** Stand-ins for the probes' tests: two ends in one process, a deployment, a WebSocket. */

/** Connections that find each other through their descriptions; `world` decides what happens. */
export function fakeRtc(world = {}) {
  return class FakeRtc extends EventTarget {
    static all = [];
    static get open() {
      return this.all.filter((one) => one.signalingState !== "closed").length;
    }

    signalingState = "stable";
    connectionState = world.hasNoConnectionState ? undefined : "new";
    iceConnectionState = "new";
    iceGatheringState = "new";
    localDescription = null;
    listeners = 0;
    transceivers = [];
    channel = null;

    constructor(configuration) {
      super();
      this.configuration = configuration;
      this.constructor.all.push(this);
      this.number = this.constructor.all.length;
    }

    addEventListener(...given) {
      this.listeners++;
      super.addEventListener(...given);
    }

    removeEventListener(...given) {
      this.listeners--;
      super.removeEventListener(...given);
    }

    createDataChannel() {
      this.channel = new FakeChannel();
      return this.channel;
    }

    addTransceiver(track, wish) {
      this.transceivers.push({ track, ...wish });
    }

    async createOffer() {
      return { type: "offer", sdp: `of ${this.number}` };
    }

    async createAnswer() {
      return { type: "answer", sdp: `of ${this.number}` };
    }

    async setLocalDescription(description) {
      this.localDescription = description;
      setTimeout(() => this.#gather(), 0);
    }

    async setRemoteDescription({ type, sdp }) {
      this.other = this.constructor.all[Number(sdp.slice(3)) - 1] ?? null;
      if (type === "answer" && !this.other) setTimeout(() => this.#meet(), 0);
    }

    async addIceCandidate() {
      this.#meet();
    }

    async getStats() {
      return new Map(Object.entries(world.stats?.(this) ?? {}));
    }

    close() {
      this.signalingState = "closed";
      this.channel?.close();
    }

    #tell(name, fields = {}) {
      if (this.signalingState !== "closed") this.dispatchEvent(Object.assign(new Event(name), fields));
    }

    #gather() {
      const { codes = [], candidates = 1, isEndless = false, url } = world;
      if (world.blocks?.some((transport) => JSON.stringify(this.configuration.iceServers).includes(`=${transport}`))) return;
      for (const errorCode of codes) this.#tell("icecandidateerror", { errorCode, url });
      for (let number = 0; number < candidates; number++) this.#tell("icecandidate", { candidate: { candidate: `candidate:${number}` } });
      if (isEndless) return;
      this.iceGatheringState = "complete";
      this.#tell("icegatheringstatechange");
      this.#tell("icecandidate", { candidate: null });
    }

    #meet() {
      const meeting = this.other ? (world.loop ?? "open") : (world.server ?? "open");
      if (meeting === "silent" || this.signalingState === "closed" || this.hasMet) return;
      this.hasMet = true;
      if (meeting === "open" && !this.channel) return;
      setTimeout(() => (meeting === "open" ? this.#open() : this.#fail()), 0);
    }

    #open() {
      const far = new FakeChannel();
      far.far = this.channel;
      this.channel.far = far;
      this.channel.drop = (number) => world.drop?.(number, this) ?? false;
      if (this.other) this.other.#tell("datachannel", { channel: far });
      else far.addEventListener("message", ({ data }) => setTimeout(() => far.send(data), world.delayMs ?? 0));
      this.channel.open();
    }

    #fail() {
      this.iceConnectionState = "failed";
      if (this.connectionState !== undefined) this.connectionState = "failed";
      this.#tell(this.connectionState === undefined ? "iceconnectionstatechange" : "connectionstatechange");
    }
  };
}

export class FakeChannel extends EventTarget {
  readyState = "connecting";
  far = null;
  sent = 0;
  drop = () => false;

  open() {
    this.readyState = this.far.readyState = "open";
    this.dispatchEvent(new Event("open"));
  }

  send(data) {
    const number = this.sent++;
    if (!this.drop(number)) setTimeout(() => this.far?.dispatchEvent(Object.assign(new Event("message"), { data })), 0);
  }

  close() {
    if (this.readyState === "closed") return;
    this.readyState = "closed";
    this.dispatchEvent(new Event("close"));
  }
}

const server = (transport) => ({ urls: [`turn:relay.example:3478?transport=${transport}`], username: `${inFiveMinutes()}:x`, credential: "c" });
const inFiveMinutes = () => Math.floor(Date.now() / 1000) + 300;

/** A deployment's answers; `requests` keeps what was asked. */
export function fakeDeployment({ offered = ["udp"], session = {}, peers = 4, fail = {} } = {}) {
  const requests = [];
  const now = Math.floor(Date.now() / 1000);
  const answers = {
    "POST /v1/probes/sessions": () => ({
      token: "t", now, expires_at: now + 300, region: "eu", node: "n1", regions: [],
      ice_servers: Object.fromEntries(["udp", "tcp", "tls"].map((one) => [one, offered.includes(one) ? [server(one)] : []])),
      limits: { peers }, ...session,
    }),
    "GET /v1/probes/ping": () => ({ region: "eu", node: "n1", now_ms: 0 }),
    "GET /v1/probes/regions": () => ({ regions: [{ id: "eu", ws_url: "ws://eu/ws", http_url: "http://eu" }] }),
    "POST /v1/probes/peers": () => ({ id: "peer", type: "answer", sdp: "of 0" }),
    "DELETE /v1/probes/peers/peer": () => ({}),
  };
  const ask = async (url, { method, body, headers }) => {
    const path = new URL(url).pathname;
    requests.push({ what: `${method} ${path}`, body, headers });
    const wrong = fail[`${method} ${path}`];
    if (wrong === "down") throw new TypeError("failed to fetch");
    if (wrong) return new Response("{}", { status: wrong });
    return new Response(JSON.stringify(answers[`${method} ${path}`]()));
  };
  return { fetch: ask, requests, asked: (what) => requests.filter((one) => one.what === what).length };
}

/** A probe socket whose server answers as `behave` says. */
export function fakeSocket(behave) {
  return class extends EventTarget {
    static open = 0;
    readyState = 0;
    constructor(url) {
      super();
      this.constructor.open++;
      this.url = url;
      setTimeout(() => behave(this, null), 0);
    }
    up() {
      this.readyState = 1;
      this.dispatchEvent(new Event("open"));
    }
    send(text) {
      setTimeout(() => behave(this, JSON.parse(text)), 0);
    }
    say(frame) {
      if (this.readyState === 1) this.dispatchEvent(Object.assign(new Event("message"), { data: typeof frame === "string" ? frame : JSON.stringify(frame) }));
    }
    close() {
      if (this.readyState > 1) return;
      this.readyState = 3;
      this.constructor.open--;
      this.dispatchEvent(new Event("close"));
    }
  };
}

export class FakeTrack extends EventTarget {
  kind = "video";
  readyState = "live";
  stop() {
    this.readyState = "ended";
  }
}
