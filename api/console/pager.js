// From page to page of a list; "back" of the browser goes to newer ones.

import { h } from "./dom.js";
import { link } from "./route.js";

/** @param {string | null} next the cursor of the page that follows */
export function pager(parts, query, next) {
  const { cursor, ...rest } = Object.fromEntries(query);
  if (!cursor && next === null) return null;
  return h("nav", { class: "pager", "aria-label": "Pages" },
    cursor ? h("a", { href: link(parts, rest) }, "First page") : h("span"),
    next ? h("a", { href: link(parts, { ...rest, cursor: next }) }, "Next page") : null);
}
