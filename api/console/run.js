// One run: its state, what is going on in it, and what came of it.

import { confirm } from "./dialog.js";
import { fill, foreign, h } from "./dom.js";
import { Feed, patiently } from "./feed.js";
import { Images, save, view } from "./files.js";
import { ago, bytes, duration, secondsBetween, shortId, summary } from "./format.js";
import { icon } from "./icons.js";
import { ENDS, change } from "./lane.js";
import { attempt, notify } from "./notice.js";
import { raw, renderResult } from "./result.js";
import { go, link } from "./route.js";
import { STATUS, badge, runTime, waiting } from "./runrow.js";
import { Timeline } from "./timeline.js";

export function runPage(app, [id]) {
  const page = new RunPage(app, id);
  page.open();
  return page;
}

class RunPage {
  title = "Run";
  element = h("article", { class: "run", "aria-busy": "true" }, h("h1", {}, "Run"), h("p", { class: "hint" }, "Loading…"));
  #app;
  #id;
  #run = null;
  #feed = null;
  #images = new Images();
  #timeline = new Timeline(() => this.#forgetEarlier());
  #log = h("div", {}, this.#timeline.element);
  #earlier = h("button", { type: "button", class: "link", hidden: true, onclick: () => this.#showEarlier() }, "Show earlier events");
  #status = h("span", { role: "status", "aria-label": "Status" });
  #state = h("span", { class: "run-head-state" });
  #bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the run" });
  #actions = h("div", { class: "actions" });
  #result = h("section", { class: "card result", "aria-label": "Result", hidden: true });
  #artifacts = h("section", { class: "card", "aria-label": "Artifacts", hidden: true });
  #facts = h("dl", { class: "facts" });
  #live = (event) => event.detail.run_id === this.#id && this.#heard(event.detail);
  #reset = ({ detail }) => (detail.reason === null ? this.#reload() : this.#app.again());
  #closed = new AbortController();

  constructor(app, id) {
    this.#app = app;
    this.#id = id;
    app.lane.addEventListener("event", this.#live);
    app.lane.addEventListener("reset", this.#reset);
  }

  close() {
    this.#closed.abort();
    this.#app.lane.removeEventListener("event", this.#live);
    this.#app.lane.removeEventListener("reset", this.#reset);
    this.#feed?.close();
    this.#images.close();
  }

  async open() {
    try {
      this.#run = await this.#read();
    } catch (error) {
      if (this.#closed.signal.aborted) return;
      const text = error.status === 404 ? "There is no such run. It may be past retention, or its thread was deleted." : error.detail;
      fill(this.element, h("h1", {}, "Run"), h("p", { class: "empty" }, text, " ", h("a", { href: "#/runs" }, "All runs")));
      return;
    }
    this.#layOut();
    this.#feed = new Feed(this.#app.api, this.#run, (events) => this.#apply(events));
    this.#render();
    if (ENDS.has(this.#run.status)) this.#showEnd();
    else this.#showArtifacts();
    await attempt("The events cannot be read", () => this.#feed.catchUp());
    this.#earlier.hidden = (this.#timeline.first ?? 1) <= 1;
    this.element.removeAttribute("aria-busy");
  }

  /** After the first snapshot: what has happened between the look at the run and the snapshot is not told again. */
  async #reload() {
    if (this.#feed === null) return;
    const run = await attempt("The run cannot be read", () => this.#read());
    if (run === undefined) return;
    this.#run = run;
    this.#feed.catchUp().catch(() => {});
    this.#render();
    if (ENDS.has(run.status)) this.#showEnd();
  }

  #read(rest = "") {
    const { signal } = this.#closed;
    return patiently(() => this.#app.api.request("GET", `/v1/runs/${encodeURIComponent(this.#id)}${rest}`, { signal }), signal);
  }

  #layOut() {
    const run = this.#run;
    fill(this.element,
      h("header", { class: "run-head" },
        h("div", {}, h("p", { class: "crumb" }, h("a", { href: "#/runs" }, "Runs"), " / ", idWithCopy(run.id)), h("h1", {}, foreign(run.agent)), h("p", { class: "lead" }, foreign(summary(run.input)))),
        this.#actions, h("div", { class: "run-head-state" }, this.#status, this.#state), this.#bar),
      h("div", { class: "columns" },
        h("div", {}, this.#result,
          h("section", { class: "card", "aria-labelledby": "timeline-title" }, h("h2", { id: "timeline-title" }, "Timeline"), this.#earlier, this.#log)),
        h("div", { class: "side" }, this.#artifacts,
          h("section", { class: "card", "aria-label": "Details" }, h("h2", {}, "Details"), this.#facts, raw("Input", run.input, true),
            Object.keys(run.metadata).length > 0 && raw("Metadata", run.metadata)))));
  }

  #heard(event) {
    this.#feed?.live(event);
  }

  #apply(events) {
    this.#timeline.apply(events);
    for (const event of events) {
      if (event.run_seq > this.#run.last_run_seq) {
        this.#run.last_run_seq = event.run_seq;
        change(this.#run, event);
        if (ENDS.has(this.#run.status)) this.#ended();
        if (event.type === "agent_artifact") this.#showArtifacts();
      }
    }
    this.#render();
  }

  async #ended() {
    const run = await attempt("The result cannot be read", () => this.#read());
    if (run === undefined) return;
    this.#run = run;
    this.#render();
    this.#showEnd();
  }

  #render() {
    const run = this.#run;
    this.title = `${run.agent}, ${STATUS[run.status].toLowerCase()}`;
    if (!this.#closed.signal.aborted) document.title = `${this.title} · Lanewise`;
    const ended = ENDS.has(run.status);
    const note = run.status === "queued" ? waiting(run.queue && { moment: null, ...run.queue }) : ended ? null : foreign(run.progress.note || "working");
    const place = run.status === "queued" && run.queue?.position > 0 ? `place ${run.queue.position}, ` : null;
    if (this.#status.textContent !== STATUS[run.status]) fill(this.#status, badge(run.status));
    fill(this.#state, h("span", { class: "note" }, place, note), runTime(run));
    this.#bar.hidden = run.status !== "running";
    this.#bar.value = run.progress.fraction;
    this.#renderActions(ended);
    this.#renderFacts();
  }

  #renderActions(ended) {
    const wanted = !ended ? "cancel" : this.#run.status === "completed" ? "again" : "retry";
    if (this.#actions.dataset.shown === wanted) return;
    this.#actions.dataset.shown = wanted;
    const again = h("a", { class: "button", href: link(["new"], { agent: this.#run.agent, like: this.#id }) }, icon("plus"), "New run like this");
    fill(this.#actions, {
      cancel: () => h("button", { type: "button", class: "danger", onclick: () => this.#cancel() }, icon("stop"), "Cancel"),
      retry: () => [again, h("button", { type: "button", class: "primary", onclick: () => this.#retry() }, icon("retry"), "Retry")],
      again: () => again,
    }[wanted]());
  }

  #renderFacts() {
    const run = this.#run;
    const facts = [
      ["Created", ago(run.created_at)],
      run.started_at && ["Waited", duration(secondsBetween(run.created_at, run.started_at))],
      run.started_at && ["Ran", runTime(run)],
      run.attempt > 1 && ["Attempts", run.attempt],
      ["Thread", h("a", { href: link(["runs"], { thread_id: run.thread_id }) }, shortId(run.thread_id))],
      run.retry_of && ["Retry of", h("a", { href: link(["runs", run.retry_of]) }, shortId(run.retry_of))],
      run.usage && ["Model", foreign(`${run.usage.model}: ${run.usage.input_tokens.toLocaleString("en")} + ${run.usage.output_tokens.toLocaleString("en")} tokens`)],
    ].filter(Boolean);
    const shown = JSON.stringify([run.status, run.attempt, run.started_at, run.finished_at]);
    if (this.#facts.dataset.shown === shown) return;
    this.#facts.dataset.shown = shown;
    fill(this.#facts, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  #showEnd() {
    this.#images.close();
    const content = renderResult(this.#app.api, this.#run, this.#images);
    this.#result.hidden = content.length === 0;
    fill(this.#result, content);
    this.#showArtifacts();
  }

  async #showArtifacts() {
    const { api } = this.#app;
    const base = `/v1/runs/${encodeURIComponent(this.#id)}/artifacts`;
    const found = await attempt("The artifacts cannot be listed", () => this.#read("/artifacts"));
    if (!found || found.items.length === 0) return;
    const item = ({ name, size }) => {
      const path = `${base}/${encodeURIComponent(name)}`;
      return h("li", {}, h("button", { type: "button", class: "link", onclick: () => view(api, path, name, size) }, icon("file"), foreign(name)),
        h("span", { class: "hint" }, bytes(size)),
        h("button", { type: "button", class: "quiet", "aria-label": `Download ${name}`, title: "Download", onclick: () => save(api, path, name) }, icon("download")));
    };
    this.#artifacts.hidden = false;
    fill(this.#artifacts, h("h2", {}, "Artifacts"), h("ul", { class: "files" }, found.items.map(item)));
  }

  async #showEarlier() {
    const oldest = this.#log.firstElementChild;
    const first = Number(oldest.dataset.first ?? this.#timeline.first);
    const events = await attempt("The events cannot be read", () => this.#feed.before(first));
    if (!events?.length || this.#log.firstElementChild !== oldest) return; // another click was faster
    const block = new Timeline();
    block.apply(events);
    block.element.dataset.first = block.first;
    this.#log.prepend(block.element);
    this.#earlier.hidden = block.first <= 1;
  }

  /** The newest events have pushed out older ones: what was shown of before would leave a gap. */
  #forgetEarlier() {
    this.#log.replaceChildren(this.#timeline.element);
    this.#earlier.hidden = false;
  }

  async #cancel() {
    if (!(await confirm("Cancel this run?", "What it has done so far stays; it will not go on.", "Cancel the run"))) return;
    const run = await attempt("The run cannot be cancelled", () => this.#app.api.cancel(this.#id));
    if (run && !ENDS.has(run.status)) notify("Cancelling: the run is asked to end.");
  }

  async #retry() {
    const run = await attempt("The run cannot be retried", () => this.#app.api.retry(this.#id));
    if (run) go(["runs", run.id]);
  }
}

function idWithCopy(id) {
  const code = h("code", { title: id }, shortId(id));
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(id); // over plain HTTP there is no clipboard
      notify("The id is copied.");
    } catch {
      code.textContent = id;
      getSelection().selectAllChildren(code);
      notify("The browser does not let this page copy. The id is selected: copy it yourself.");
    }
  };
  return [code, h("button", { type: "button", class: "quiet", "aria-label": "Copy the run's id", title: "Copy", onclick: copy }, icon("copy"))];
}
