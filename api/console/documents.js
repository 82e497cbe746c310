// The user's documents: what agents can read.

import { confirm } from "./dialog.js";
import { fill, foreign, h } from "./dom.js";
import { save, view } from "./files.js";
import { ago, bytes, plural } from "./format.js";
import { icon } from "./icons.js";
import { attempt, notify } from "./notice.js";
import { pager } from "./pager.js";

const LIMIT = 50;
const MAX_BYTES = 32 * 1024 * 1024;
const UPLOAD_S = 300;

export function documentsPage({ api }, _, query) {
  const page = new Documents(api, query);
  page.load();
  return page;
}

class Documents {
  title = "Documents";
  #api;
  #query;
  #list = h("ul", { class: "files", "aria-label": "Documents" });
  #foot = h("div");
  #status = h("p", { class: "hint", role: "status", "aria-label": "Upload" });

  constructor(api, query) {
    this.#api = api;
    this.#query = query;
    const input = h("input", { id: "upload", type: "file", multiple: true, class: "visually-hidden", onchange: () => this.#upload([...input.files]).then(() => { input.value = ""; }) });
    const zone = h("section", { class: "dropzone", "aria-label": "Upload documents" }, icon("upload"), h("p", {}, h("label", { for: "upload", class: "button" }, "Choose files"), input, " or drop them here"),
      h("p", { class: "hint" }, "Tables (CSV, JSON Lines, Parquet) and texts (Markdown, text, HTML, PDF), 32 MiB each. A file of the same name is replaced."), this.#status);
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.dataset.over = "";
    });
    zone.addEventListener("dragleave", () => delete zone.dataset.over);
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      delete zone.dataset.over;
      this.#upload([...event.dataTransfer.files]);
    });
    this.element = h("div", {}, h("h1", {}, "Documents"), zone, h("section", { class: "card", "aria-label": "Your documents" }, this.#list, this.#foot));
  }

  async load() {
    const cursor = this.#query.get("cursor");
    const found = await attempt("The documents cannot be listed", () => this.#api.request("GET", `/v1/documents?limit=${LIMIT}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`));
    if (found === undefined) return fill(this.#foot, h("p", { class: "empty" }, "Try again when the service is back."));
    fill(this.#list, found.items.map((item) => this.#item(item)));
    if (found.items.length > 0) return fill(this.#foot, pager(["documents"], this.#query, found.next_cursor));
    return fill(this.#foot, h("p", { class: "empty" }, "You have no documents yet. Upload a table or a text, then ask ", h("a", { href: "#/new" }, "the supervisor"), " about it."));
  }

  #item({ name, size, updated_at: at }) {
    const path = `/v1/documents/${encodeURIComponent(name)}`;
    return h("li", {}, h("button", { type: "button", class: "link", onclick: () => view(this.#api, path, name, size) }, icon("file"), foreign(name)),
      h("span", { class: "hint" }, bytes(size), " · ", ago(at)),
      h("button", { type: "button", class: "quiet", "aria-label": `Download ${name}`, title: "Download", onclick: () => save(this.#api, path, name) }, icon("download")),
      h("button", { type: "button", class: "quiet", "aria-label": `Delete ${name}`, title: "Delete", onclick: () => this.#remove(path, name) }, icon("trash")));
  }

  async #remove(path, name) {
    if (!(await confirm("Delete this document?", h("bdi", {}, `${name} is removed at once and for good.`), "Delete the document"))) return;
    if ((await attempt("The document cannot be deleted", () => this.#api.request("DELETE", path))) !== undefined) {
      notify(`${name} is deleted.`);
      await this.load();
    }
  }

  async #upload(files) {
    let stored = 0;
    for (const file of files) {
      this.#status.textContent = `Uploading ${file.name}…`;
      if (file.size > MAX_BYTES) notify(`${file.name} has ${bytes(file.size)}; the limit is 32 MiB.`, "error");
      else if (await attempt(`${file.name} cannot be stored`, () => this.#put(file))) stored += 1;
    }
    this.#status.textContent = stored > 0 ? `${plural(stored, "document")} stored.` : "";
    await this.load();
  }

  #put(file) {
    const headers = { "Content-Type": file.type || "application/octet-stream" };
    return this.#api.request("PUT", `/v1/documents/${encodeURIComponent(file.name)}`, { body: file, headers, timeoutS: UPLOAD_S });
  }
}
