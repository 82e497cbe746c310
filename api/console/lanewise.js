/**
 * The client of Lanewise for browsers, and for Node from 22 on: REST to ask, one WebSocket to follow.
 *
 * A stream hands out each of the user's events once and in order, over any number of connections. The rule is the
 * published one: accept only `seq == last + 1`, drop lower ones, and on a higher one reconnect with `after: last`.
 */

/** @typedef {{id: string, agent: string, status: string, thread_id: string, last_run_seq: number}} Run and more */
/** @typedef {{seq: number, run_id: string, run_seq: number, type: string, data: object}} Event and more */
/**
 * @typedef {{reason: "trimmed" | "ahead" | null, head: number, runs: Run[], more: boolean}} Snapshot null: no position
 *   yet; more: live runs are left out
 */
/** @typedef {"connecting" | "replaying" | "live" | "waiting" | "closed"} State */
/** @typedef {{threadId?: string, metadata?: object, idempotencyKey?: string}} Submission */

const TIMEOUT_S = 30; // for one answer
const WELCOME_S = 10; // from asking for a ticket to the welcome
const REPEAT_S = 10; // for how long a submission is repeated
const FIRST_PAUSE_S = 0.1;
const LAST_PAUSE_S = 5;
const MAX_ASKED_PAUSE_S = 30; // what a service may ask us to wait
const MAX_QUEUED_CHARS = 4 * 1024 * 1024; // received, not yet handled: no browser lets a page make a WebSocket wait
const MAX_PENDING = 100; // submissions and cancellations without an answer
const PASSING = new Set([0, 408, 425, 429, 500, 502, 503, 504]); // for a stream; 0: no answer
const REPEATED = new Set([0, 502, 503, 504]); // for a submission: that a quota is full is for people to know
const FINAL = new Map([
  [4400, "a message was bad"],
  [4403, "forbidden"],
  [4409, "replaced by a newer connection"],
  [1009, "too big"],
]);

/** The service answered with a problem (RFC 9457), or not at all: then `status` is 0 and `code` is "unreachable". */
export class ApiError extends Error {
  constructor(status, problem = {}) {
    super(problem.detail ?? problem.title ?? `the service answered ${status}`);
    this.name = "ApiError";
    this.status = status;
    /** Stable, for programs. */
    this.code = problem.code ?? "unknown";
    this.title = problem.title ?? "";
    /** For people. */
    this.detail = this.message;
    /** @type {{field: string, message: string}[]} one for each offending field */
    this.errors = problem.errors ?? [];
    /** @type {number | null} seconds after which another try makes sense */
    this.retryAfterS = problem.retry_after_s ?? null;
  }
}

/** REST calls of one user. Each rejects with an `ApiError`. */
export class Api {
  /** @param {{url?: string, token: string}} options the service, by default where the page is from; a bearer token */
  constructor({ url = globalThis.location?.origin, token }) {
    this.url = url.replace(/\/+$/, "");
    this.token = token;
  }

  /**
   * Sends a request and returns the JSON of its answer, or null if that has no content.
   *
   * @param {string} method
   * @param {string} path with its query, e.g. "/v1/runs?limit=20"
   * @param {{body?: any, headers?: object, signal?: AbortSignal, timeoutS?: number}} [options] a plain object is sent
   *   as JSON; text, a Blob or bytes as they are; a signal ends it before its time, which is 30 s for all of the answer
   * @returns {Promise<any>}
   */
  async request(method, path, options = {}) {
    const response = await this.fetch(method, path, options);
    if (response.status === 204) return null;
    return response.json().catch(() => {
      throw unreachable(`${this.url} does not answer like a Lanewise service`);
    });
  }

  /** As `request`, but returns the whole `Response`: for documents and artifacts. */
  async fetch(method, path, { body, headers = {}, signal, timeoutS = TIMEOUT_S } = {}) {
    const json = body?.constructor === Object;
    const response = await fetch(this.url + path, {
      method,
      body: json ? JSON.stringify(body) : body,
      headers: {
        Authorization: `Bearer ${this.token}`,
        ...(json && { "Content-Type": "application/json" }),
        ...headers,
      },
      signal: bounded(signal, timeoutS),
      cache: "no-store",
    }).catch((error) => {
      throw signal?.aborted ? error : unreachable(`${this.url} cannot be reached`);
    });
    if (response.ok) return response;
    const problem = await response.json().catch(() => null); // a proxy in between may answer HTML
    const retryAfterS = Number(response.headers.get("Retry-After")) || null; // of another origin only in the body
    throw new ApiError(response.status, { retry_after_s: retryAfterS, ...(problem?.constructor === Object && problem) });
  }

  /**
   * Submits a run. While the answer is lost or the service away it is repeated with the same key: that never makes two.
   *
   * @param {string} agent
   * @param {any} input as the agent's schema says
   * @param {Submission} [options]
   * @returns {Promise<Run>}
   */
  submit(agent, input, { threadId, metadata, idempotencyKey = newKey() } = {}) {
    const body = { agent, input, thread_id: threadId, metadata };
    return this.#repeat("/v1/runs", { body, headers: keyHeader(idempotencyKey) });
  }

  /** Asks to cancel the run and returns it; one that has ended stays as it is. @returns {Promise<Run>} */
  cancel(id) {
    return this.#repeat(`/v1/runs/${encodeURIComponent(id)}/cancel`);
  }

  /** Makes a new run in place of one that did not complete, and returns it. @returns {Promise<Run>} */
  retry(id) {
    return this.#repeat(`/v1/runs/${encodeURIComponent(id)}/retry`, { headers: keyHeader(newKey()) });
  }

  /** Returns the run as it is now. @returns {Promise<Run>} */
  run(id) {
    return this.request("GET", `/v1/runs/${encodeURIComponent(id)}`);
  }

  /** Returns a ticket for one WebSocket. @returns {Promise<string>} */
  async ticket() {
    return (await this.request("POST", "/v1/tickets")).ticket;
  }

  async #repeat(path, options) {
    const deadline = Date.now() + REPEAT_S * 1000;
    for (let failures = 1; ; failures += 1) {
      try {
        return await this.request("POST", path, options);
      } catch (error) {
        const pauseS = pauseBeforeRepeatS(error, failures);
        // One more try at least: the first may have spent all the time on an answer that was lost.
        if (pauseS === null || (failures > 1 && Date.now() + pauseS * 1000 > deadline)) throw error;
        await new Promise((resolve) => setTimeout(resolve, pauseS * 1000));
      }
    }
  }
}

/**
 * The live stream of the user's events. It reconnects by itself until it is closed, or the service says not to.
 *
 * `onEvent` and `onSnapshot` may return a promise: what follows waits for it. What waits is bounded: beyond that the
 * stream hangs up, and resumes when all of it has been handled. What they throw ends the stream.
 */
export class EventStream {
  #api;
  #storage;
  #WebSocket;
  #on;
  #last; // the `seq` of the last event accepted; null: no position yet
  #closed = false;
  #failures = 0; // in a row
  #socket = null; // of the connection, once it has been welcomed
  #hangUp = () => {}; // ends the connection, or the making of one
  #wake = () => {}; // ends the pause
  #queue = []; // [frame, characters]: accepted, not yet handled
  #queued = 0; // characters, with those of the frame that is being handled
  #pumping = null; // the promise of handling what is queued
  #thrown = []; // by a callback
  #pending = new Map(); // by ref: requests without an answer
  #refs = 0;

  /**
   * @param {object} options
   * @param {Api} options.api
   * @param {number | null} [options.after] everything after this `seq` first; null: from now on, with a snapshot
   * @param {{get(): number | null, set(seq: number): void} | null} [options.storage] keeps the position, which goes
   *   before `after`. It is set only when `onEvent` has finished: who stops in between gets the event again.
   * @param {(event: Event) => any} [options.onEvent] each event once, in order
   * @param {(snapshot: Snapshot) => any} [options.onSnapshot] instead of a replay; events after its head follow
   * @param {(state: {state: State, retryInS?: number, reason?: string, code?: number}) => void} [options.onState]
   * @param {typeof globalThis.WebSocket} [options.WebSocket] for Node before 22
   * @throws {Error} there is no WebSocket
   */
  constructor({ api, after = null, storage = null, onEvent, onSnapshot, onState, WebSocket = globalThis.WebSocket }) {
    if (typeof WebSocket !== "function") {
      throw new Error("EventStream needs a WebSocket, which Node has from 22 on: pass one as the option `WebSocket`");
    }
    this.#api = api;
    this.#last = after;
    this.#storage = storage;
    this.#on = { onEvent, onSnapshot, onState };
    this.#WebSocket = WebSocket;
  }

  /**
   * Connects, and stays connected.
   *
   * @returns {Promise<void>} resolved when the stream is closed, rejected with what a callback has thrown
   */
  async start() {
    this.#last = this.#storage?.get() ?? this.#last;
    const listening = new AbortController();
    const listen = (target, name, heard) => target?.addEventListener?.(name, heard, { signal: listening.signal });
    for (const name of ["online", "offline"]) listen(globalThis, name, () => this.#move());
    listen(globalThis.document, "visibilitychange", () => document.visibilityState === "visible" && this.#wake());
    await this.#run().finally(() => listening.abort());
    if (this.#thrown.length > 0) throw this.#thrown[0];
  }

  /** Ends the stream; an `onEvent` that has begun may finish, and no other begins. */
  close() {
    this.#closed = true;
    this.#queue.length = 0;
    this.#hangUp({});
    this.#wake();
  }

  /**
   * Submits a run over the stream. If the connection is lost, it is sent again with the same key.
   *
   * @param {string} agent
   * @param {any} input as the agent's schema says
   * @param {Submission} [options]
   * @returns {Promise<Run>} rejected with an `ApiError`
   */
  submit(agent, input, { threadId, metadata, idempotencyKey = newKey() } = {}) {
    return this.#ask({ t: "run.submit", agent, input, thread_id: threadId, metadata, idempotency_key: idempotencyKey });
  }

  /** Asks over the stream to cancel a run and returns it. @returns {Promise<Run>} rejected with an `ApiError` */
  cancel(runId) {
    return this.#ask({ t: "run.cancel", run_id: runId });
  }

  async #run() {
    let end = {};
    while (!this.#closed) {
      this.#tell({ state: "connecting" });
      end = await this.#connect();
      if (!end.final && !this.#closed) await this.#pause(end);
      await this.#pumping; // who is slow must not be sent yet more
      if (end.final) break;
    }
    this.#closed = true;
    const reason = this.#thrown.length > 0 ? String(this.#thrown[0]) : end.final ? end.reason : "closed";
    for (const request of this.#pending.values()) request.fail(`the stream is closed: ${reason}`);
    this.#tell({ state: "closed", reason, ...(end.final && { code: end.code }) });
  }

  /** Makes a connection and serves it; returns why it ended. Never rejects. */
  #connect() {
    return new Promise((resolve) => {
      const connection = { socket: null, silenceS: WELCOME_S, silence: null, retryS: null, complaint: null };
      connection.heard = () => {
        clearTimeout(connection.silence);
        connection.silence = setTimeout(() => connection.end({ reason: "silence" }), connection.silenceS * 1000);
      };
      connection.end = (end) => {
        if (this.#hangUp !== connection.end) return; // it ended before
        this.#hangUp = () => {};
        this.#socket = null;
        clearTimeout(connection.silence);
        connection.socket?.close();
        resolve({ retryS: connection.retryS, ...end });
      };
      this.#hangUp = connection.end;
      connection.heard();
      this.#api.ticket().then( // a fresh one for each attempt: it can be used once
        (ticket) => this.#hangUp === connection.end && this.#open(connection, ticket),
        (error) => connection.end({
          reason: error.detail, code: error.status, final: !PASSING.has(error.status), retryS: error.retryAfterS,
        }),
      );
    });
  }

  #open(connection, ticket) {
    const socket = new this.#WebSocket(`${this.#api.url.replace(/^http/, "ws")}/v1/stream`);
    connection.socket = socket;
    socket.onopen = () => socket.send(JSON.stringify({ t: "hello", v: 1, ticket, after: this.#last }));
    socket.onclose = ({ code, reason }) => {
      const why = connection.complaint || reason || FINAL.get(code) || `closed with code ${code}`;
      connection.end({ reason: why, code, final: FINAL.has(code) });
    };
    socket.onmessage = ({ data }) => {
      if (this.#hangUp !== connection.end) return; // on its way when we hung up
      connection.heard();
      try {
        this.#receive(connection, JSON.parse(data), data.length);
      } catch {
        connection.end({ reason: "a frame that is not of this protocol" });
      }
    };
  }

  #receive(connection, frame, length) {
    if (typeof frame.t !== "string") throw new TypeError("not a frame");
    if (frame.t === "welcome") {
      this.#welcome(connection, frame, length);
    } else if (frame.t === "event") {
      this.#accept(frame, length);
    } else if (frame.t === "live") {
      this.#failures = 0;
      this.#enqueue(frame, length);
    } else if (frame.t === "ping") {
      this.#failures = 0;
      connection.socket.send('{"t":"pong"}'); // at once, however slow the consumer is
    } else if (frame.t === "bye") {
      connection.retryS = number(frame.retry_ms) / 1000;
    } else if (this.#pending.has(frame.ref)) {
      this.#pending.get(frame.ref).answer(frame);
    } else if (frame.t === "error") {
      connection.complaint = frame.problem.detail;
    }
  }

  #welcome(connection, frame, length) {
    const head = number(frame.head);
    connection.silenceS = 2 * number(frame.ping_s);
    connection.heard();
    this.#socket = connection.socket;
    if (this.#last === null || !frame.recovered) {
      const reason = this.#last === null ? null : frame.reason;
      const { runs = [], more = false } = frame.snapshot ?? {};
      this.#last = head;
      this.#enqueue({ t: "snapshot", snapshot: { reason, head, runs, more } }, length);
    }
    this.#enqueue({ t: "replaying" }, 0);
    for (const request of this.#pending.values()) request.send();
  }

  #accept(event, length) {
    if (this.#socket === null) throw new TypeError("an event before the welcome");
    if (number(event.seq) > this.#last + 1) this.#hangUp({ reason: `event ${event.seq} came after ${this.#last}` });
    if (event.seq !== this.#last + 1) return;
    this.#last = event.seq;
    this.#failures = 0;
    this.#enqueue(event, length);
  }

  #enqueue(frame, length) {
    this.#queue.push([frame, length]);
    this.#queued += length;
    this.#pumping ??= this.#pump();
    if (this.#queued - length > MAX_QUEUED_CHARS) this.#hangUp({ reason: "events come faster than they are handled" });
  }

  async #pump() {
    try {
      while (this.#queue.length > 0) {
        const [frame, length] = this.#queue.shift();
        await this.#handle(frame);
        this.#queued -= length;
      }
    } catch (error) {
      this.#thrown.push(error);
      this.close();
    }
    this.#pumping = null;
  }

  async #handle(frame) {
    if (frame.t === "event") {
      await this.#on.onEvent?.(frame);
      this.#storage?.set(frame.seq);
    } else if (frame.t === "snapshot") {
      await this.#on.onSnapshot?.(frame.snapshot);
      this.#storage?.set(frame.snapshot.head);
    } else if (this.#socket !== null) {
      this.#tell({ state: frame.t }); // in its place between the events: all of a replay has been handled at "live"
    }
  }

  async #pause({ reason, code, retryS }) {
    this.#failures += 1;
    const retryInS = Math.max(Math.min(retryS ?? 0, MAX_ASKED_PAUSE_S), backoffS(this.#failures));
    const over = new Promise((resolve) => {
      const timer = setTimeout(resolve, retryInS * 1000);
      this.#wake = () => resolve(clearTimeout(timer));
    });
    this.#tell({ state: "waiting", retryInS, reason, code });
    await over;
    this.#wake = () => {};
  }

  /** The network came or went: a connection over the old one would stay silent for a minute. */
  #move() {
    this.#failures = 0;
    this.#hangUp({ reason: "the network has changed" });
    this.#wake();
  }

  #tell(state) {
    this.#on.onState?.(state);
  }

  #ask(frame) {
    if (this.#closed) return Promise.reject(unreachable("the stream is closed"));
    if (this.#pending.size >= MAX_PENDING) return Promise.reject(unreachable("too many requests without an answer"));
    const ref = String((this.#refs += 1));
    return new Promise((resolve, reject) => {
      const send = () => this.#pending.has(ref) && this.#socket?.send(JSON.stringify({ ...frame, ref }));
      const fail = (detail) => reject(unreachable(detail));
      const timer = setTimeout(() => fail("no answer in time"), TIMEOUT_S * 1000);
      let failures = 0;
      const answer = ({ run, problem }) => {
        if (run !== undefined) return resolve(run);
        const error = new ApiError(problem.status, problem);
        const pauseS = pauseBeforeRepeatS(error, (failures += 1));
        return pauseS === null ? reject(error) : setTimeout(send, pauseS * 1000);
      };
      this.#pending.set(ref, { send, answer, fail, timer });
      send();
    }).finally(() => {
      clearTimeout(this.#pending.get(ref).timer);
      this.#pending.delete(ref);
    });
  }
}

/** Returns the seconds before another try of a submission; null: the error will not pass. */
function pauseBeforeRepeatS(error, failures) {
  // A 409 that says when: an earlier try of ours is still being handled.
  const passes = REPEATED.has(error.status) || (error.status === 409 && error.retryAfterS !== null);
  return passes ? Math.max(error.retryAfterS ?? 0, backoffS(failures)) : null;
}

/** Without the jitter all clients of a restarted service would come back at the same moments. */
function backoffS(failures) {
  return (0.5 + Math.random() / 2) * Math.min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** Math.min(failures - 1, 16));
}

/** Returns a signal for a limit of time and what ends it earlier. `AbortSignal.any` is younger than the oldest browsers. */
function bounded(signal, timeoutS) {
  const limit = AbortSignal.timeout(timeoutS * 1000);
  if (!signal) return limit;
  const either = new AbortController();
  for (const one of [signal, limit]) {
    const abort = () => either.abort(one.reason);
    if (one.aborted) abort();
    else one.addEventListener("abort", abort, { signal: either.signal }); // gone with the limit at the latest
  }
  return either.signal;
}

function unreachable(detail) {
  return new ApiError(0, { code: "unreachable", title: "Not reachable", detail });
}

function number(value) {
  if (typeof value !== "number") throw new TypeError("not a number");
  return value;
}

/** Not `randomUUID`: a page that came by plain HTTP from another machine does not have it. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function keyHeader(key) {
  return { "Idempotency-Key": `"${key.replace(/[\\"]/g, "\\$&")}"` }; // a structured string, RFC 8941
}
