// A run's events in their order, from the log first and then live: none twice, none left out.

const PAGE = 200;
const RETRY_MS = 2_000;
const FIRST_LOOK = 400; // so many of the newest events are read to begin with

/**
 * Repeats a read while the service is away.
 *
 * @param {() => Promise<any>} read
 * @param {AbortSignal} closed nobody wants it any more
 * @throws {ApiError} what no patience mends @throws {DOMException} it was closed
 */
export async function patiently(read, closed) {
  for (;;) {
    try {
      return await read();
    } catch (error) {
      closed.throwIfAborted();
      if (error.status > 0 && error.status < 500 && error.status !== 429) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      closed.throwIfAborted();
    }
  }
}

export class Feed {
  #api;
  #run;
  #apply;
  #last; // `run_seq` of the last event applied
  #wanted = 0; // the highest one that was heard of while reading
  #reading = false;
  #closed = new AbortController();

  /**
   * @param {object} run as REST tells it
   * @param {(events: object[]) => void} apply gets them in order
   */
  constructor(api, run, apply) {
    this.#api = api;
    this.#run = run.id;
    this.#apply = apply;
    this.#last = Math.max(0, run.last_run_seq - FIRST_LOOK);
    this.first = this.#last + 1;
  }

  /** Takes a live event of the run. What is missing before it is read from the log. */
  live(event) {
    if (event.run_seq <= this.#last) return;
    if (event.run_seq === this.#last + 1 && !this.#reading) {
      this.#last = event.run_seq;
      this.#apply([event]);
    } else {
      this.catchUp(event.run_seq).catch(() => {}); // the token is refused, or the run is gone: others say so
    }
  }

  /** Reads all that the log has, at least up to `wanted`; waits while the service is away. @throws {ApiError} */
  async catchUp(wanted = 0) {
    this.#wanted = Math.max(this.#wanted, wanted);
    if (this.#reading) return;
    this.#reading = true;
    try {
      let more = true;
      while (more || this.#last < this.#wanted) {
        const { items, next_cursor: next } = await patiently(() => this.#read(this.#last, PAGE), this.#closed.signal);
        if (this.#closed.signal.aborted) return;
        if (items.length > 0) {
          this.#last = items.at(-1).run_seq;
          this.#apply(items);
        }
        more = next !== null;
        if (items.length === 0 && !more) break;
      }
    } finally {
      this.#reading = false;
    }
  }

  /** Returns the page of events before `first`. @throws {ApiError} */
  async before(first) {
    const events = [];
    let after = Math.max(0, first - 1 - PAGE);
    while (after < first - 1) {
      const { items } = await this.#read(after, first - 1 - after); // fewer come if they are large
      if (items.length === 0) break;
      events.push(...items);
      after = items.at(-1).run_seq;
    }
    return events;
  }

  close() {
    this.#closed.abort();
  }

  #read(after, limit) {
    return this.#api.request("GET", `/v1/runs/${this.#run}/events?after=${after}&limit=${limit}`, { signal: this.#closed.signal });
  }
}
