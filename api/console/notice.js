// Short messages that come and go; screen readers are told.

import { h } from "./dom.js";
import { icon } from "./icons.js";

const SHOWN_S = 6;
const MAX_SHOWN = 4;

const region = h("div", { class: "notices", role: "status", "aria-live": "polite", "aria-label": "Messages" });

/** Where messages appear: once on the page. */
export function notices() {
  return region;
}

/** @param {"info" | "error"} kind errors stay until they are dismissed */
export function notify(text, kind = "info") {
  const close = () => message.remove();
  const message = h("div", { class: `notice ${kind}` }, h("span", {}, text),
    h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: close }, icon("cross")));
  region.append(message);
  while (region.childElementCount > MAX_SHOWN) region.firstElementChild.remove();
  if (kind === "info") setTimeout(close, SHOWN_S * 1000);
}

/** Takes all messages away: they are of the user who leaves. */
export function forgetNotices() {
  region.replaceChildren();
}

/** Does something that may fail, and says so if it does. Returns undefined then. */
export async function attempt(what, action) {
  try {
    return await action();
  } catch (error) {
    if (error?.name !== "AbortError") notify(`${what}: ${error.detail ?? error.message}`, "error");
    return undefined;
  }
}
