// The live connection and what it says of itself.

import { fill, h } from "./dom.js";
import { ticking } from "./format.js";
import { EventStream } from "./lanewise.js";
import { notify } from "./notice.js";

const WORDS = { connecting: "Connecting", replaying: "Catching up", live: "Live", waiting: "Away", closed: "Closed" };
const LOST = {
  trimmed: "You were away for longer than events are kept. What you see is the state as of now; older events are gone.",
  ahead: "The service has gone back to an earlier state. What you see is the state as of now.",
};

export class Connection {
  /** Whether the connection is there, in a word; for the head of the page. */
  pill = h("p", { class: "pill", "data-state": "connecting" });
  /** Says more when it is not; hidden when it is. */
  banner = h("div", { class: "banner", hidden: true });
  #api;
  #lane;
  #ended;
  #stream = null;
  #word = h("span", { role: "status", "aria-label": "Connection" }); // apart from what counts down: nobody wants to be told each second
  #next = h("span"); // when it is tried again
  #reason = ""; // of the last outage, until the connection is live again

  /** @param {(reason: string) => void} ended the token is no longer taken */
  constructor(api, lane, ended) {
    this.#api = api;
    this.#lane = lane;
    this.#ended = ended;
    this.pill.append(h("span", { class: "dot" }), this.#word, this.#next);
  }

  open() {
    const stream = new EventStream({
      api: this.#api,
      onEvent: (event) => this.#lane.apply(event),
      onSnapshot: (snapshot) => this.#snapshot(snapshot),
      onState: (state) => stream === this.#stream && this.#show(state),
    });
    this.#stream = stream;
    stream.start().catch((error) => console.error("the stream has ended", error));
  }

  close() {
    const stream = this.#stream;
    this.#stream = null;
    stream?.close();
  }

  #snapshot(snapshot) {
    if (snapshot.reason !== null) notify(LOST[snapshot.reason] ?? "What you see is the state as of now.", "error");
    this.#lane.reset(snapshot);
  }

  #show({ state, retryInS = 0, reason = "", code }) {
    if (state === "closed" && code === 401) return this.#ended(`Your token is no longer accepted: ${reason}`);
    if (state === "waiting" || state === "closed") this.#reason = reason;
    if (state === "live") this.#reason = "";
    this.pill.dataset.state = state;
    const resume = Date.now() + retryInS * 1000;
    if (this.#word.textContent !== WORDS[state]) this.#word.textContent = WORDS[state];
    fill(this.#next, state === "waiting" && ticking(h("span"), () => `· back in ${seconds(resume)}`));
    this.banner.hidden = !this.#reason;
    if (this.#reason) fill(this.banner, this.#explain(state, resume));
    return undefined;
  }

  #explain(state, resume) {
    if (state === "closed") {
      const again = h("button", { type: "button", onclick: () => this.open() }, "Connect again");
      return [h("p", {}, h("strong", {}, "The connection was closed for good: "), `${this.#reason}.`), again];
    }
    const next = state === "waiting" ? ticking(h("span"), () => `Next try in ${seconds(resume)}. `) : "Trying now. ";
    return h("p", {}, h("strong", {}, "Away from the service"), ` (${this.#reason}). `, next,
      "Your runs go on; when it is back you see everything that has happened meanwhile.");
  }
}

function seconds(moment) {
  const left = (moment - Date.now()) / 1000;
  return left > 1 ? `${Math.ceil(left)} s` : "a moment";
}
