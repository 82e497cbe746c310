// Threads: runs that belong together.

import { confirm } from "./dialog.js";
import { fill, foreign, h } from "./dom.js";
import { ago, shortId } from "./format.js";
import { icon } from "./icons.js";
import { attempt, notify } from "./notice.js";
import { pager } from "./pager.js";
import { link } from "./route.js";

const LIMIT = 25;

export function threadsPage({ api }, _, query) {
  const list = h("ul", { class: "files", "aria-label": "Threads" });
  const foot = h("div");
  const body = h("section", { class: "card", "aria-label": "Threads", "aria-busy": "true" }, list, foot);
  load(api, query, list, foot).finally(() => body.removeAttribute("aria-busy"));
  return { title: "Threads", element: h("div", {}, h("h1", {}, "Threads"), h("p", { class: "lead" }, "Runs that belong together. Agents may remember what was said in a thread."), body) };
}

async function load(api, query, list, foot) {
  const cursor = query.get("cursor");
  const path = `/v1/threads?limit=${LIMIT}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`;
  const found = await attempt("The threads cannot be listed", () => api.request("GET", path));
  if (found === undefined) return fill(foot, h("p", { class: "empty" }, "Try again when the service is back."));
  list.append(...found.items.map((thread) => item(api, thread)));
  if (found.items.length > 0) return fill(foot, pager(["threads"], query, found.next_cursor));
  return fill(foot, h("p", { class: "empty" }, "There are no threads yet: each run makes one unless you name one. ", h("a", { href: "#/new" }, "Start a run")));
}

function item(api, thread) {
  const name = thread.title ?? `Thread ${shortId(thread.id)}`;
  const remove = async () => {
    const sure = await confirm("Delete this thread?", "Its runs are cancelled if they go on, and all of its data is removed, results and files included.", "Delete the thread");
    if (!sure || (await attempt("The thread cannot be deleted", () => api.request("DELETE", `/v1/threads/${thread.id}`))) === undefined) return;
    element.remove();
    notify("The thread is deleted.");
  };
  const element = h("li", {}, h("a", { href: link(["runs"], { thread_id: thread.id }), title: thread.id }, icon("thread"), foreign(name)), h("span", { class: "hint" }, ago(thread.created_at)),
    h("button", { type: "button", class: "quiet", "aria-label": `Delete ${name}`, title: "Delete", onclick: remove }, icon("trash")));
  return element;
}
