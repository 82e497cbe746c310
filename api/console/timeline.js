// What the agents and tools of a run did, in its order: a section for each agent, rows in it.

import { foreign, h } from "./dom.js";
import { bytes, duration } from "./format.js";
import { icon } from "./icons.js";
import { longText } from "./longtext.js";
import { STATUS, waiting } from "./runrow.js";

const MAX_ROWS = 600;
const MAX_STREAM_CHARS = 64 * 1024;

export class Timeline {
  element = h("ol", { class: "timeline" });
  /** `run_seq` of the first event that is shown; null: none is. */
  first = null;
  #sections = new Map(); // by agent, the one that goes on
  #rows = []; // of all sections: {element, seq}
  #position = null;
  #trimmed;

  /** @param {() => void} [trimmed] the oldest rows were taken away */
  constructor(trimmed = () => {}) {
    this.#trimmed = trimmed;
  }

  apply(events) {
    for (const event of events) {
      this.first ??= event.run_seq;
      try {
        if (event.type.startsWith("run_")) this.#ofRun(event);
        else this.#ofAgent(event);
      } catch { // data of a form that no agent of ours would send
        this.#moment(event.run_seq, event.at, "", `${event.type}, which cannot be shown`);
      }
    }
    if (this.#rows.length > MAX_ROWS) this.#trim();
  }

  #ofRun({ type, data, at, run_seq: seq }) {
    if (type === "run_position") {
      this.#position ??= this.#moment(seq, at, "queued", "");
      this.#position.replaceChildren(`Place ${data.position} in the queue: `, ...waiting({ ...data, moment: null }).filter(Boolean));
      return;
    }
    this.#position = null;
    const name = type.slice("run_".length);
    if (name === "queued") this.#moment(seq, at, "queued", "Accepted");
    else if (name === "started") this.#moment(seq, at, "running", data.attempt > 1 ? `Attempt ${data.attempt} started` : "Started");
    else {
      for (const section of this.#sections.values()) section.end(name === "recovering" ? "lost" : "ended");
      this.#sections.clear();
      const text = name === "recovering" ? `Attempt ${data.attempt} was lost, the run will go on: ` : STATUS[name] ?? name;
      const element = this.#moment(seq, at, name, text);
      const why = name === "recovering" ? data.message : data.error?.message;
      if (why) element.append(name === "recovering" ? "" : ": ", foreign(why));
    }
  }

  #ofAgent(event) {
    let section = this.#sections.get(event.agent);
    if (event.type === "agent_started" || section === undefined) {
      section = new Section(event);
      this.#sections.set(event.agent, section);
      this.element.append(section.element);
      this.#rows.push({ element: section.element, seq: event.run_seq, section: true });
    }
    const row = section.apply(event);
    if (row) this.#rows.push({ element: row, seq: event.run_seq });
  }

  #moment(seq, at, status, text) {
    const words = h("span", {}, text);
    const element = h("li", { class: "moment", "data-status": status }, h("span", { class: "dot" }), words, clock(at));
    this.element.append(element);
    this.#rows.push({ element, seq });
    return words;
  }

  /** Takes away the oldest quarter; a section that still goes on, or has younger rows, keeps its head. */
  #trim() {
    const gone = this.#rows.splice(0, MAX_ROWS / 4);
    const open = new Set([...this.#sections.values()].map((section) => section.element));
    for (const row of gone) if (!row.section) row.element.remove();
    const kept = gone.filter((row) => row.section && (open.has(row.element) || row.element.querySelector(".step")));
    for (const row of gone) if (!kept.includes(row)) row.element.remove();
    this.first = this.#rows[0].seq;
    this.#rows.unshift(...kept);
    this.#trimmed();
  }
}

/** One agent at work. */
class Section {
  #agent;
  #bar = h("progress", { max: 1, value: 0 });
  #note = foreign("", { class: "note" });
  #took = h("span", { class: "number" });
  #list = h("ol", { class: "steps" });
  #stream = null; // the text node that tokens go to
  #tools = []; // those that run

  constructor({ agent, type, at }) {
    this.#agent = agent;
    const name = type === "agent_started" ? agent : `${agent}, continued`;
    this.#bar.setAttribute("aria-label", `Progress of ${agent}`);
    this.element = h("li", { class: "section", "data-status": "running", "aria-label": `Agent ${agent}` },
      h("div", { class: "section-head" }, h("span", { class: "dot" }), h("h3", {}, foreign(name)), this.#note, this.#took, clock(at)), this.#bar, this.#list);
  }

  /** Shows an event; returns the row that it made, if any. */
  apply(event) {
    const { type, data } = event;
    switch (type) {
      case "agent_started": return null;
      case "agent_thinking": return this.#row("thinking", longText(data.text));
      case "agent_token": return this.#token(String(data.text ?? ""));
      case "agent_progress": return this.#progress(data);
      case "agent_artifact": return this.#row("artifact", icon("file"), foreign(data.name), h("span", { class: "hint" }, bytes(data.size)));
      case "agent_completed": return this.end("completed", data.duration_s);
      case "agent_failed": return this.end("failed", data.duration_s, data.error?.message);
      case "tool_executing": return this.#begin(data.tool);
      case "tool_completed": return this.#finish("completed", data);
      case "tool_failed": return this.#finish("failed", data, data.error?.message);
      case "tool_denied": return this.#toolRow("denied", data.tool, "denied", data.message);
      default: return this.#row("thinking", longText(`${type}: ${JSON.stringify(data)}`));
    }
  }

  /** @param {"completed" | "failed" | "lost" | "ended"} status lost, ended: the run was over before the agent was */
  end(status, seconds = null, message = null) {
    if (this.element.dataset.status !== "running") return null;
    this.element.dataset.status = status;
    this.#bar.remove();
    this.#note.textContent = "";
    if (seconds !== null) this.#took.textContent = duration(seconds);
    for (const { row } of this.#tools.splice(0)) row.dataset.status = "lost";
    return message ? this.#row("failure", longText(message)) : null;
  }

  #row(kind, ...content) {
    this.#stream = null;
    const row = h("li", { class: `step ${kind}` }, content);
    this.#list.append(row);
    return row;
  }

  #progress({ fraction, note }) {
    this.#bar.value = fraction;
    this.#note.textContent = note ?? "";
    return null;
  }

  #token(text) {
    if (this.#stream === null) {
      const node = document.createTextNode(text);
      const row = this.#row("stream", h("p", { dir: "auto", tabindex: "0", role: "region", "aria-label": `Text by ${this.#agent}` }, node));
      this.#stream = node;
      return row;
    }
    this.#stream.appendData(text);
    const over = this.#stream.length - MAX_STREAM_CHARS;
    if (over > MAX_STREAM_CHARS / 8) this.#stream.replaceData(0, over, "…");
    return null;
  }

  #begin(tool) {
    const row = this.#toolRow("running", tool, "");
    this.#tools.push({ tool, row });
    return row;
  }

  #finish(status, { tool, duration_s: seconds }, message = null) {
    const found = this.#tools.findIndex((item) => item.tool === tool);
    const row = found < 0 ? null : this.#tools.splice(found, 1)[0].row;
    const took = seconds === undefined ? "" : duration(seconds);
    if (row === null) return this.#toolRow(status, tool, took, message);
    row.dataset.status = status;
    row.querySelector(".number").textContent = took;
    if (message) row.append(h("div", { class: "failure" }, longText(message)));
    return null;
  }

  #toolRow(status, tool, took, message = null) {
    const row = this.#row("tool", icon("tool"), foreign(tool, { class: "agent" }), h("span", { class: "number" }, took));
    row.dataset.status = status;
    if (message) row.append(h("div", { class: "failure" }, longText(message)));
    return row;
  }
}

function clock(at) {
  const moment = new Date(at);
  return h("time", { datetime: at, title: moment.toLocaleString() }, moment.toLocaleTimeString(undefined, { hour12: false }));
}
