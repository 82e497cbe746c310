// What a run came to: a report, a table, a chart, passages, or just JSON.

import { foreign, h } from "./dom.js";
import { targets } from "./files.js";
import { longText } from "./longtext.js";
import { renderMarkdown } from "./markdown.js";

const MAX_ROWS = 200;
const MAX_JSON_CHARS = 200_000;

/** @param {Images} images of the page */
export function renderResult(api, run, images) {
  const parts = run.error ? [failure(run.error)] : [];
  const output = run.output;
  if (output !== null && typeof output === "object") {
    if (typeof output.markdown === "string") parts.push(renderMarkdown(output.markdown, targets(api, images, Array.isArray(output.citations) ? output.citations : [])));
    else parts.push(answer(output), table(output.query), chart(output.chart, images));
  }
  const shown = parts.filter(Boolean);
  if (output !== null) shown.push(raw("Output as JSON", output, shown.length === 0));
  return shown;
}

/** Returns JSON that can be unfolded. */
export function raw(title, value, open = false) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const cut = text.length > MAX_JSON_CHARS ? `${text.slice(0, MAX_JSON_CHARS)}\n… cut here; the API has all of it` : text;
  return h("details", { open }, h("summary", {}, title), h("pre", { tabindex: "0" }, cut));
}

function failure(error) {
  const lost = error.attempts ?? [];
  return h("div", { class: "failure-card", role: "alert" }, h("strong", {}, foreign(error.type)), longText(error.message),
    lost.length > 0 && h("ul", {}, lost.map((item) => h("li", {}, `Attempt ${item.attempt} was lost: `, foreign(item.message)))));
}

function answer({ answer: said, passages }) {
  if (typeof said !== "string") return null;
  const quotes = Array.isArray(passages) ? passages.filter((item) => typeof item?.text === "string") : [];
  return h("div", { class: "prose", dir: "auto" }, h("p", { class: "pre" }, said), quotes.map((item) => h("blockquote", {}, longText(item.text))));
}

function table(query) {
  if (!Array.isArray(query?.columns) || !Array.isArray(query.rows)) return null;
  const cell = (value) => h("td", { "data-align": typeof value === "number" ? "right" : null }, typeof value === "object" ? JSON.stringify(value) : String(value));
  const rows = query.rows.slice(0, MAX_ROWS).filter(Array.isArray);
  return h("div", { class: "prose" }, h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Result" },
    h("table", {}, h("thead", {}, h("tr", {}, query.columns.map((column) => h("th", { scope: "col" }, foreign(column?.name))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))))),
  query.rows.length > rows.length && h("p", { class: "hint" }, `The first ${rows.length} rows.`));
}

function chart(found, images) {
  if (typeof found?.svg !== "string") return null;
  return h("figure", {}, images.image(new Blob([found.svg], { type: "image/svg+xml" }), String(found.title ?? "Chart")));
}
