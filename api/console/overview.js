// The lane: what runs in the user's slots, what waits and why, what has ended lately.

import { fill, foreign, h, reconcile, refill } from "./dom.js";
import { elapsed, plural } from "./format.js";
import { ENDS } from "./lane.js";
import { link } from "./route.js";
import { RunRow, waiting } from "./runrow.js";

const MAX_TRACKS = 12;
const MAX_QUEUED = 50;
const MAX_RECENT = 12;
const ALL_KNOWN = 200; // a snapshot holds so many live runs; of a longer queue only the service knows the length

export function overviewPage({ lane }) {
  const figures = h("p", { class: "figures", role: "status", "aria-label": "Slots and queue" });
  const tracks = h("ol", { class: "tracks", "aria-label": "Slots" });
  const queue = h("ol", { class: "queue", "aria-label": "Queue" });
  const queueNote = h("p", { class: "hint" });
  const recent = h("ul", { class: "runs", "aria-label": "Recent runs" });
  const recentNote = h("p", { class: "hint" });
  const rows = { tracks: new Map(), queue: new Map(), recent: new Map() };

  function render() {
    const running = lane.some((run) => run.status === "running").reverse();
    const queued = lane.some((run) => run.status === "queued").sort(byPlace);
    const ended = lane.some((run) => ENDS.has(run.status));
    const inQueue = queued.length < ALL_KNOWN ? queued.length : Math.max(queued.length, lane.me?.queued ?? 0);
    refill(figures, inWords(lane.me, inQueue));
    reconcile(tracks, rows.tracks, slots(running, lane.me), (slot) => slot.key, (slot) => (slot.run ? new Track(slot.run) : new FreeTrack()));
    reconcile(queue, rows.queue, queued.slice(0, MAX_QUEUED), (run) => run.id, (run) => new Place(run));
    const more = inQueue - Math.min(queued.length, MAX_QUEUED);
    refill(queueNote, queued.length === 0 ? "Nothing waits." : more > 0 && h("a", { href: link(["runs"], { status: "queued" }) }, `${plural(more, "more run")} in the queue`));
    reconcile(recent, rows.recent, ended.slice(0, MAX_RECENT), (run) => run.id, (run) => new RunRow(run));
    refill(recentNote, ended.length === 0
      ? ["Nothing has ended yet. ", h("a", { href: "#/new" }, "Start a run"), " and watch it here."]
      : h("a", { href: "#/runs" }, "All runs"));
  }

  lane.addEventListener("change", render);
  render();
  const element = h("div", { class: "columns" },
    h("div", {}, h("h1", {}, "Your lane"), figures,
      h("section", { class: "card", "aria-label": "Running" }, tracks),
      h("section", { class: "card", "aria-labelledby": "queue-title" }, h("h2", { id: "queue-title" }, "Queue"), queue, queueNote)),
    h("section", { class: "card side", "aria-labelledby": "recent-title" }, h("h2", { id: "recent-title" }, "Ended lately"), recent, recentNote));
  return { title: "Your lane", element, close: () => lane.removeEventListener("change", render) };
}

function inWords(me, queued) {
  if (me === null) return "Reading your lane…";
  const limit = me.limits.concurrent_runs;
  const held = me.slots_held === null ? h("span", {}, "slots cannot be counted right now") : [h("strong", {}, me.slots_held), ` of ${plural(limit, "slot")} in use`];
  return [held, " · ", h("strong", {}, queued.toLocaleString("en")), " queued"];
}

/** Free slots are shown, too, unless there are very many. */
function slots(running, me) {
  const free = Math.max(0, Math.min(me?.limits.concurrent_runs ?? 0, MAX_TRACKS) - running.length);
  const taken = running.map((run) => ({ key: run.id, run }));
  return [...taken, ...Array.from({ length: free }, (_, number) => ({ key: `free ${number}`, run: null }))];
}

function byPlace(one, other) {
  return (one.queue?.position ?? Infinity) - (other.queue?.position ?? Infinity) || (one.id < other.id ? -1 : 1);
}

/** A slot with a run in it. */
class Track {
  #bar = h("progress", { max: 1, value: 0 });
  #note = foreign("", { class: "note" });
  #title = foreign("", { class: "title" });

  constructor(run) {
    this.#bar.setAttribute("aria-label", `Progress of ${run.agent}`);
    this.element = h("li", { class: "track" }, h("a", { href: link(["runs", run.id]) },
      h("span", { class: "what" }, h("span", { class: "agent" }, run.agent), this.#title),
      h("span", { class: "times" }, elapsed(run.started_at ?? run.created_at)), this.#bar, this.#note));
  }

  update({ run }) {
    this.#bar.value = run.progress.fraction;
    this.#title.textContent = run.title;
    this.#note.textContent = run.progress.note || "working";
  }
}

class FreeTrack {
  element = h("li", { class: "track free" }, "free");

  update() {}
}

/** A place in the queue. */
class Place {
  #position = h("span", { class: "position" });
  #title = foreign("", { class: "title" });
  #why = h("span", { class: "why" });
  #shown = "";

  constructor(run) {
    this.element = h("li", { class: "place" }, h("a", { href: link(["runs", run.id]) }, this.#position,
      h("span", { class: "what" }, h("span", { class: "agent" }, run.agent), this.#title), this.#why));
  }

  update(run) {
    const now = JSON.stringify([run.queue, run.title]);
    if (now === this.#shown) return;
    this.#shown = now;
    const position = run.queue?.position ?? null;
    this.#position.textContent = position === null ? "…" : position === 0 ? "▸" : position;
    this.#position.title = position ? `Place ${position} in your queue` : "About to start";
    this.#title.textContent = run.title;
    fill(this.#why, waiting(run.queue));
  }
}
