// The user's lane as far as this page knows it: a snapshot, and what events have changed since.

import { summary } from "./format.js";

const MAX_RUNS = 300;
const TELL_MS = 100; // changes of that long are told together
const MAX_RUNNING = 200; // the longest page
const REFRESH_MS = 1_000; // at most one look at limits and slots in that time
const LOOK_AGAIN_MS = 15_000; // places behind the tenth, and estimates, are not told by events
export const ENDS = new Set(["completed", "failed", "cancelled", "timed_out"]);

/** Dispatches "change" when runs or `me` have changed, "event" with each event, "reset" after a snapshot. */
export class Lane extends EventTarget {
  /** Runs by id, without input and output: `{id, agent, status, title, queue, progress, …}`. */
  runs = new Map();
  me = null;
  #api;
  #telling = null;
  #refreshing = null;
  #again;
  #closed = false;
  #whole = false;
  #asked = false; // again, since the last look began

  constructor(api) {
    super();
    this.#api = api;
    this.#again = setInterval(() => document.visibilityState === "visible" && this.refresh(true), LOOK_AGAIN_MS);
  }

  close() {
    this.#closed = true;
    clearInterval(this.#again);
    clearTimeout(this.#telling);
    clearTimeout(this.#refreshing);
  }

  /** Starts again from what the service says. */
  reset(snapshot) {
    this.runs.clear();
    for (const run of snapshot.runs) this.put(run);
    this.refresh(true); // a snapshot may be short of runs, and runs of their input
    this.dispatchEvent(new CustomEvent("reset", { detail: snapshot }));
  }

  /** Takes in a run as REST tells it; of one that is older than what is known only what never changes. */
  put(run) {
    const known = this.runs.get(run.id);
    const { input, output, ...rest } = run;
    const title = input === null ? known?.title ?? "" : summary(input);
    if (known && known.last_run_seq > run.last_run_seq) {
      Object.assign(known, { title, agent: run.agent, created_at: run.created_at, started_at: known.started_at ?? run.started_at });
    } else {
      this.runs.set(run.id, { ...rest, title, queue: withMoment(rest.queue) });
    }
    this.#changed();
  }

  apply(event) {
    const run = this.runs.get(event.run_id) ?? stub(event);
    if (event.run_seq > run.last_run_seq) {
      run.last_run_seq = event.run_seq;
      change(run, event);
      this.runs.set(run.id, run);
      if (event.type.startsWith("run_") && event.type !== "run_position") this.refresh();
      this.#changed();
    }
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }

  /** Has limits and slots read again, soon; runs, too, if one is known by its events only or `whole`. */
  refresh(whole = false) {
    this.#whole ||= whole;
    this.#asked = true;
    this.#refreshing ??= setTimeout(async () => {
      this.#asked = false;
      try {
        this.me = await this.#api.request("GET", "/v1/me");
        const unknown = this.some((run) => run.title === null);
        if (this.#whole || unknown.length > 0) {
          this.#whole = false;
          for (const query of [`status=running&limit=${MAX_RUNNING}`, "status=queued", ""]) {
            const { items } = await this.#api.request("GET", `/v1/runs?${query}`);
            for (const run of items) this.put(run);
          }
          for (const run of unknown) run.title ??= ""; // it is in none of the lists, and would not be the next time
        }
        this.#changed();
      } catch {
        this.#whole = true; // the connection says that the service is away; the next refresh is soon
      } finally {
        this.#refreshing = null;
        if (this.#asked && !this.#closed) this.refresh();
      }
    }, this.me === null ? 0 : REFRESH_MS);
  }

  /** The runs that fulfil a condition, newest first. */
  some(condition) {
    return [...this.runs.values()].filter(condition).sort((one, other) => (one.id < other.id ? 1 : -1));
  }

  #changed() {
    this.#telling ??= setTimeout(() => {
      this.#telling = null;
      this.#forget();
      this.dispatchEvent(new Event("change"));
    }, TELL_MS);
  }

  #forget() {
    const ended = this.some((run) => ENDS.has(run.status)).reverse();
    for (const run of ended.slice(0, Math.max(0, this.runs.size - MAX_RUNS))) this.runs.delete(run.id);
  }
}

/** Changes a run as an event says. */
export function change(run, event) {
  const { type, data } = event;
  if (type === "run_position") run.queue = withMoment(data);
  else if (type === "run_started") Object.assign(run, { status: "running", attempt: data.attempt, queue: null, started_at: run.started_at ?? event.at });
  else if (type === "run_recovering") Object.assign(run, { status: "queued", queue: { position: 0, reason: "recovering", eta_s: null, moment: null } });
  else if (type === "agent_progress") progress(run, event);
  else if (ENDS.has(type.slice("run_".length)) && type.startsWith("run_")) {
    Object.assign(run, { status: type.slice("run_".length), queue: null, finished_at: event.at, error: data.error ?? null });
  }
}

function progress(run, { agent, data }) {
  const whole = data.run_fraction ?? (agent === run.agent ? data.fraction : null);
  if (whole !== null) run.progress = { fraction: whole, note: data.note || run.progress.note };
}

function stub(event) {
  return {
    id: event.run_id, agent: event.agent, status: event.type.startsWith("run_") ? "queued" : "running", // agents tell of what runs
    thread_id: event.thread_id, title: null, attempt: event.attempt, last_run_seq: 0, progress: { fraction: 0, note: "" }, queue: null, error: null, created_at: event.at,
    started_at: null, finished_at: null,
  };
}

/** An estimate counts from when it was told. */
function withMoment(queue) {
  if (!queue) return null;
  return { ...queue, moment: typeof queue.eta_s === "number" ? Date.now() + queue.eta_s * 1000 : null };
}
