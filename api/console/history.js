// All runs of the user, newest first, by status, agent and thread.

import { fill, h } from "./dom.js";
import { shortId, summary } from "./format.js";
import { attempt } from "./notice.js";
import { pager } from "./pager.js";
import { go } from "./route.js";
import { RunRow, STATUS } from "./runrow.js";

const LIMIT = 25;

export function historyPage({ api, lane }, _, query) {
  const list = h("ul", { class: "runs", "aria-label": "Runs" });
  const foot = h("div");
  const body = h("section", { class: "card", "aria-label": "Runs", "aria-busy": "true" }, list, foot);
  const rows = new Map();
  const update = () => {
    for (const [id, row] of rows) if (lane.runs.has(id)) row.update(lane.runs.get(id));
  };
  lane.addEventListener("change", update);
  load(api, query, list, foot, rows).finally(() => body.removeAttribute("aria-busy"));
  const element = h("div", {}, h("h1", {}, "History"), filters(api, query), body);
  return { title: "History", element, close: () => lane.removeEventListener("change", update) };
}

async function load(api, query, list, foot, rows) {
  const asked = new URLSearchParams(query);
  asked.set("limit", LIMIT);
  const found = await attempt("The runs cannot be listed", () => api.request("GET", `/v1/runs?${asked}`));
  if (found === undefined) return fill(foot, h("p", { class: "empty" }, "Try again when the service is back."));
  for (const run of found.items) {
    const row = new RunRow(run);
    row.update({ ...run, title: summary(run.input) });
    rows.set(run.id, row);
    list.append(row.element);
  }
  const filtered = ["status", "agent", "thread_id"].some((name) => query.get(name));
  if (found.items.length > 0) return fill(foot, pager(["runs"], query, found.next_cursor));
  return fill(foot, h("p", { class: "empty" }, filtered ? ["No run is like that. ", h("a", { href: "#/runs" }, "Show all")] : ["You have no runs yet. ", h("a", { href: "#/new" }, "Start one")]));
}

function filters(api, query) {
  const status = h("select", { id: "status" }, h("option", { value: "" }, "any"),
    Object.entries(STATUS).map(([value, word]) => h("option", { value, selected: query.get("status") === value }, word)));
  const agent = h("input", { id: "agent", list: "agents", value: query.get("agent") ?? "", placeholder: "any", autocomplete: "off", spellcheck: "false" });
  const agents = h("datalist", { id: "agents" });
  api.request("GET", "/v1/agents").then(({ items }) => agents.append(...items.map((item) => h("option", { value: item.name }))), () => {});
  const thread = query.get("thread_id");
  const apply = (event) => {
    event.preventDefault();
    go(["runs"], { status: status.value, agent: agent.value.trim(), thread_id: thread });
  };
  const label = (control, text) => h("div", {}, h("label", { for: control.id }, text), control);
  return h("form", { class: "filters", onsubmit: apply, onchange: apply, role: "search", "aria-label": "Filter" }, label(status, "Status"), label(agent, "Agent"), agents,
    thread && h("p", { class: "chip" }, "Thread ", h("code", { title: thread }, shortId(thread)), " ",
      h("a", { href: "#/runs", "aria-label": "Runs of all threads" }, "all threads")),
    thread && h("a", { class: "button", href: `#/new?thread_id=${encodeURIComponent(thread)}` }, "New run in it"));
}
