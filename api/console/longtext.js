// Text of any length by anybody.

import { foreign, h } from "./dom.js";

const SHOWN_CHARS = 1_500;

/** Returns the text; of a long one the beginning, with a button for the rest. */
export function longText(value) {
  const text = String(value ?? "");
  if (text.length <= SHOWN_CHARS + 100) return foreign(text, { class: "long" });
  const shown = foreign(`${text.slice(0, SHOWN_CHARS)}…`, { class: "long" });
  const more = h("button", { type: "button", class: "link", onclick: () => {
    shown.textContent = text;
    more.remove();
  } }, `Show all ${text.length.toLocaleString("en")} characters`);
  return h("div", {}, shown, more);
}
