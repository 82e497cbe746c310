// One run in a list, and the words for its state.

import { fill, foreign, h } from "./dom.js";
import { ago, duration, elapsed, secondsBetween, until } from "./format.js";
import { link } from "./route.js";

export const STATUS = { queued: "Queued", running: "Running", completed: "Completed", failed: "Failed", cancelled: "Cancelled", timed_out: "Timed out" };
const REASONS = {
  user_limit: "waits for a slot of your own",
  fleet_busy: "waits for a free worker",
  retry_backoff: "pauses before its next attempt",
  recovering: "is being recovered",
  redis_unavailable: "waits until the service can start runs again",
  no_worker: "waits for a worker that has its agent",
};

export function badge(status) {
  return h("span", { class: "badge", "data-status": status }, h("span", { class: "dot" }), STATUS[status] ?? status);
}

/** Why a queued run waits, and until when. */
export function waiting(queue) {
  if (!queue) return ["is being placed"];
  const eta = queue.moment === null ? null : [" · starts ", until(queue.moment)];
  return [queue.position === 0 && queue.reason === "fleet_busy" ? "has a slot, waits for a worker" : REASONS[queue.reason] ?? queue.reason, eta];
}

/** How long a run took, or takes so far. */
export function runTime(run) {
  if (run.started_at === null) return null;
  return run.finished_at === null ? elapsed(run.started_at) : h("span", { class: "number" }, duration(secondsBetween(run.started_at, run.finished_at)));
}

export class RunRow {
  #agent = h("span", { class: "agent" });
  #title = foreign("", { class: "title" });
  #state = h("span", { class: "run-state" });
  #times = h("span", { class: "times" });
  #shown = "";

  constructor(run) {
    this.element = h("li", { class: "run-row" }, h("a", { href: link(["runs", run.id]) }, this.#state, h("span", { class: "what" }, this.#agent, this.#title), this.#times));
  }

  update(run) {
    const now = JSON.stringify([run.status, run.queue?.position, run.queue?.reason, run.title, run.finished_at]);
    if (now === this.#shown) return;
    this.#shown = now;
    this.element.dataset.status = run.status;
    this.#agent.textContent = run.agent;
    this.#title.textContent = run.title || this.#title.textContent; // the lane does not know all inputs
    fill(this.#state, badge(run.status));
    fill(this.#times, run.finished_at ? [runTime(run), " · "] : null, ago(run.finished_at ?? run.created_at));
  }
}
