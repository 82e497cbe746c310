// A new run: which agent, and its input.

import { forgetDraft, keepDraft, keptDraft } from "./draft.js";
import { fill, foreign, h, newId } from "./dom.js";
import { Form } from "./form.js";
import { summary } from "./format.js";
import { icon } from "./icons.js";
import { attempt } from "./notice.js";
import { go, link } from "./route.js";

const FIRST = "supervisor"; // the one that can be asked anything

export function submitPage({ api }, _, query) {
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "hint" }, "Looking which agents there are…"));
  const element = h("div", { class: "narrow" }, h("h1", {}, "New run"), body);
  open(api, query, body).finally(() => body.removeAttribute("aria-busy"));
  return { title: "New run", element };
}

async function open(api, query, body) {
  const like = query.get("like");
  const found = await attempt("The agents cannot be listed", () => Promise.all([
    api.request("GET", "/v1/agents"), api.request("GET", "/v1/documents?limit=200"), api.request("GET", "/v1/threads?limit=50"),
    like ? api.run(like).catch(() => null) : null,
  ]));
  if (found === undefined) return fill(body, h("p", { class: "empty" }, "Try again when the service is back."));
  const [{ items: agents }, { items: documents }, { items: threads }, model] = found;
  if (agents.length === 0) {
    return fill(body, h("p", { class: "empty" }, "No worker is running, so there is no agent to ask. Start one, then come back."));
  }
  const draft = keptDraft();
  const wanted = draft?.agent ?? query.get("agent") ?? model?.agent ?? FIRST;
  const chosen = agents.find((agent) => agent.name === wanted) ?? agents[0];
  return fill(body, new Submission(api, agents, documents, threads, model, draft?.thread ?? query.get("thread_id")).build(chosen, draft));
}

class Submission {
  #agent = null;
  #form = null;
  #place = h("div");
  #rest = h("div", { class: "error", role: "alert" });
  #button = h("button", { type: "submit", class: "primary" }, icon("plus"), "Start the run");

  constructor(api, agents, documents, threads, model, threadId) {
    Object.assign(this, { api, agents, documents, threads, model, threadId: threadId ?? "" });
  }

  build(chosen, draft) {
    const agents = this.agents.toSorted((one, other) => (other.name === FIRST) - (one.name === FIRST));
    const choices = h("fieldset", {}, h("legend", {}, "Agent"), h("div", { class: "agents" }, agents.map((agent) => this.#choice(agent, agent === chosen))));
    const threads = this.threads.some((thread) => thread.id === this.threadId) || !this.threadId ? this.threads : [{ id: this.threadId, title: null }, ...this.threads];
    this.thread = h("select", { id: "thread" }, h("option", { value: "" }, "A new thread"),
      threads.map((thread) => h("option", { value: thread.id, selected: thread.id === this.threadId }, thread.title ? summary(thread.title) : thread.id)));
    this.#choose(chosen);
    if (draft?.agent === chosen.name) this.#form.restore(draft.fields);
    return h("form", { novalidate: true, onsubmit: (event) => this.#submit(event), oninput: () => this.#keep(), onchange: () => this.#keep() }, choices,
      h("section", { class: "card", "aria-label": "Input" }, this.#place,
        h("div", { class: "field" }, h("label", { for: "thread" }, "thread", h("span", { class: "hint" }, " optional")), this.thread,
          h("p", { class: "hint" }, "Runs of one thread belong together; agents may remember what was said in it."))),
      this.#rest, h("div", { class: "actions" }, h("a", { class: "button", href: link([]) }, "Leave"), this.#button));
  }

  #choice(agent, checked) {
    const help = newId("agent");
    const radio = h("input", { type: "radio", name: "agent", value: agent.name, checked, "aria-label": agent.name, "aria-describedby": help, onchange: () => this.#choose(agent) });
    return h("label", { class: "choice" }, radio, h("span", {}, foreign(agent.name, { class: "agent" }), h("span", { class: "hint", id: help }, foreign(agent.description))));
  }

  #choose(agent) {
    const value = this.model?.agent === agent.name ? this.model.input : undefined;
    this.#agent = agent;
    this.#form = new Form(agent.input_schema, this.documents, value);
    fill(this.#rest);
    fill(this.#place, this.#form.element);
  }

  #keep() {
    keepDraft({ agent: this.#agent.name, thread: this.thread.value, fields: this.#form.raw });
  }

  async #submit(event) {
    event.preventDefault();
    fill(this.#rest);
    const input = this.#form.read();
    if (input === undefined) return;
    this.#button.disabled = true;
    try {
      const run = await this.api.submit(this.#agent.name, input, { threadId: this.thread.value || undefined });
      forgetDraft();
      go(["runs", run.id]);
    } catch (error) {
      const others = this.#form.showErrors(error.errors ?? []);
      if (error.errors?.length && others.length === 0) return;
      fill(this.#rest, others.length > 0 ? others.map((text) => h("p", {}, text)) : h("p", {}, error.detail ?? error.message));
    } finally {
      this.#button.disabled = false;
    }
  }
}
